"""Six packages are enough at run time. Without matplotlib only the plots are missing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_commands import write_config
from tests.helpers import make_folder

ROOT = Path(__file__).parent.parent
OURS = {"common", "models", "losses", "data", "engine", "tools", "benchmarks"}
SIX = dict(torch="torch", torchvision="torchvision", numpy="numpy", PIL="pillow", tqdm="tqdm", yaml="pyyaml")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def pyproject() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def is_package(folder: Path) -> bool:
    return (folder / "__init__.py").exists()


def test_run_time_imports_are_the_six_packages():
    files = [*ROOT.glob("*.py"), *[p for room in OURS for p in (ROOT / room).rglob("*.py")]]
    known = OURS | set(SIX) | sys.stdlib_module_names
    foreign = {(name, path.name) for path in files for name in imported(path) - known}
    plots = {("matplotlib", "plots.py"), ("matplotlib", "score_plots.py")}
    videos = {("cv2", "inputs.py"), ("imageio", "inputs.py")}  # predict.py takes whichever is installed, or says so
    peers = {("transformers", "peers.py"), ("segmentation_models_pytorch", "peers.py")}  # of the benchmarks
    exports = {("onnxscript", "export.py"), ("onnxruntime", "export.py")}  # said in one line where they are missing
    assert foreign <= plots | videos | peers | exports, foreign - plots - videos - peers - exports


def test_requirements_name_the_six_and_nothing_else():
    lines = [line.split(">=") for line in (ROOT / "requirements.txt").read_text().split()]
    assert sorted(name for name, _ in lines) == sorted(SIX.values()) and all(version for _, version in lines)


def requirement_lines(name: str) -> set[str]:
    """Requirements of a file, without comments and without the files it includes."""
    lines = (ROOT / f"requirements{name}.txt").read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


def test_pyproject_repeats_the_requirements_files():
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    assert set(project["dependencies"]) == requirement_lines("")
    assert set(extras["plots"]) == requirement_lines("-extra")
    assert set(extras["dev"]) == requirement_lines("-dev") | {"semantic-segmentation[plots]"}


def test_pyproject_packs_every_module_and_data_file():
    """What setuptools would put into a wheel is all of the source, with the styles and scripts of the HTML pages."""
    settings = pyproject()["tool"]["setuptools"]
    find = settings["packages"]["find"]
    packed = {p for pattern in find["include"] for p in ROOT.glob(pattern.replace(".*", "/**")) if is_package(p)}
    rooms = {ROOT / room for room in OURS}
    assert packed == {p.parent for room in rooms for p in room.rglob("__init__.py")}
    for room in rooms:
        assert all(is_package(p.parent) for p in room.rglob("*.py"))
        suffixes = {f"*{p.suffix}" for p in room.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
        assert suffixes <= set(settings["package-data"]["*"])
    assert set(settings["py-modules"]) == {p.stem for p in ROOT.glob("*.py")}


def test_without_matplotlib_a_run_ends_with_its_report_and_one_line(tmp_path):
    root = make_folder(tmp_path / "data", n=8)
    config = write_config(tmp_path / "c.yaml", root, log={"plots": True, "samples": 1})
    code = "import sys; sys.modules['matplotlib'] = None; import train; from common import command; "
    code += "sys.exit(command.run(train.main, train.build_parser(), sys.argv[1:]))"
    command = [sys.executable, "-c", code, str(config)]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plots skipped: matplotlib is not installed") == 1
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.md").exists() and [p.name for p in (run / "plots").iterdir()] == ["samples.png"]
