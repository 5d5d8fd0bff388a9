"""The README's tree names every file and counts every room's lines; README and docs name only files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = {".py", ".css", ".js", ".yaml"}
ROOMS = ("common", "models", "losses", "data", "engine", "tools", "benchmarks", "tests", "configs", "docs")
COUNTS_ONLY = {"configs", "tests"}  # rooms whose files the tree does not name


def count_lines(room: Path) -> int:
    """Lines of source below a folder, sub-folders included."""
    files = [p for p in room.rglob("*") if p.suffix in SOURCE]
    return sum(len(p.read_text(encoding="utf-8").splitlines()) for p in files)


def parse_tree(text: str) -> dict[str, tuple[int, set[str]]]:
    """Room -> (line count, names of its files) of the code block that begins with train.py."""
    (block,) = re.findall(r"```\n(train\.py .*?)```", text, re.DOTALL)
    rooms: dict[str, tuple[int, set[str]]] = {}
    for line in block.splitlines()[1:]:
        names = line.split("#")[0]
        if not line.startswith(" "):
            path, count, names = re.fullmatch(r"(\S+)/ +([\d,]+)  (.*)", names).groups()
            rooms[path] = int(count.replace(",", "")), set()
        rooms[path][1].update(names.split())
    return rooms


def files_of(room: Path) -> set[str]:
    """Module names of a room, and its sub-folders with a slash."""
    modules = {p.stem for p in room.glob("*.py") if not p.stem.startswith("__")}
    return modules | {f"{p.parent.name}/" for p in room.glob("*/__init__.py")}


def test_the_readme_fits_in_130_lines():
    assert len(README.splitlines()) <= 130


def test_the_tree_names_every_file_of_every_room():
    rooms, faults = parse_tree(README), []
    for room, (_, named) in rooms.items():
        listed = {f"{other.split('/')[-1]}/" for other in rooms if other.rpartition("/")[0] == room}
        actual = files_of(ROOT / room)
        if room not in COUNTS_ONLY and named | listed != actual:
            faults.append(f"{room}/: add {sorted(actual - named - listed)}, remove {sorted(named - actual)}")
    assert not faults, "\n".join(faults)


def test_the_tree_counts_lines_within_10_percent():
    counts = {room: (count, count_lines(ROOT / room)) for room, (count, _) in parse_tree(README).items()}
    wrong = [f"{room}/ {said:,} -> {real:,}" for room, (said, real) in counts.items() if abs(said - real) > 0.1 * real]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("room", "noun"),
    [("engine/evaluation", "bootstrap"), ("engine/analysis", "receptive_field"), ("engine/training", "train")],
)
def test_a_reader_finds_a_noun_in_the_tree(room, noun):
    assert [r for r, (_, names) in parse_tree(README).items() if r == room and any(noun in name for name in names)]


def exists(name: str) -> bool:
    """Whether a name is a file or folder (with or without .py), or a definition in a file: models/build.MODELS."""
    module, _, definition = name.rpartition(".")
    if (ROOT / name).exists() or (ROOT / f"{name}.py").exists():
        return True
    source = ROOT / f"{module}.py"
    return source.exists() and bool(re.search(rf"^(def |class )?{definition}\b", source.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("models/build", True),
        ("models/build.build_model", True),
        ("models/build.MODELS", True),
        ("docs/gone.md", False),
    ],
)
def test_what_a_page_may_name(name, there):
    assert exists(name) is there


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_pages_link_to_files_that_exist(page):
    text, folder = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not (folder / link).exists()]
    missing += [name for name in re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w/.]+)`", text) if not exists(name)]
    assert not missing, f"{page} names files that do not exist: {missing}"


def test_every_command_has_a_row_in_docs_commands():
    text = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    for room in ("tools", "benchmarks"):
        commands = {p.stem for p in (ROOT / room).glob("*.py")} - {"__init__", "peers"}
        commands |= {p.parent.name for p in (ROOT / room).glob("*/__main__.py")}
        named = set(re.findall(rf"python -m {room}\.(\w+)", text))
        assert named == commands, f"missing {commands - named}, gone {named - commands}"
