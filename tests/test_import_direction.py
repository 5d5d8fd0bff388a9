"""Imports point one way: each room imports rooms below it only, and no modules import each other in a circle.

The order of the rooms stands in the README's tree. Imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ({"common"}, {"models", "losses", "data"}, {"engine"}, {"tools", "benchmarks", "train", "eval", "predict"})
INSIDE_ENGINE = (
    {"config", "metrics"},
    {"checkpoint", "run_folder"},
    {"evaluation", "analysis"},
    {"training", "prediction"},
    {"folds"},
    {"report"},
)


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of every module that users run."""
    tops = set().union(*ROOMS)
    files = [p for p in root.rglob("*.py") if p.relative_to(root).parts[0].removesuffix(".py") in tops]
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in files}


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this repository that a file names in its import statements."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in inner}
    return found & known.keys()


def level(part: str, order: tuple[set[str], ...]) -> int:
    return next(i for i, names in enumerate(order) if part in names)


def fault(module: str, target: str) -> str | None:
    """What is wrong with one import, or None."""
    here, there = module.split("."), target.split(".")
    if here[0] != there[0]:
        return None if level(there[0], ROOMS) < level(here[0], ROOMS) else "not below it"
    if here[0] == "engine" and len(here) > 1 and len(there) > 1 and here[1] != there[1]:
        return None if level(there[1], INSIDE_ENGINE) < level(here[1], INSIDE_ENGINE) else "not below it in engine"
    if here[0] == "tools" and here[1:2] != there[1:2] and (len(there) < 3 or there[2] == "__main__"):
        return "another command"
    return None


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in order; empty if there are none."""
    state: dict[str, str] = {}

    def visit(name: str, path: list[str]) -> list[str]:
        if state.get(name) == "done":
            return []
        if name in path:
            return path[path.index(name) :]
        for target in sorted(graph[name]):
            if found := visit(target, [*path, name]):
                return found
        state[name] = "done"
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules(ROOT)
    return {name: imported(path, known) - {name} for name, path in known.items()}


def test_each_room_imports_rooms_below_it_only(graph):
    assert len(graph) > 150  # all of them were found
    found = [
        f"{name} imports {t}: {why}" for name, targets in graph.items() for t in targets if (why := fault(name, t))
    ]
    assert not found, "\n".join(found)


def test_no_modules_import_each_other(graph):
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("models.build", "common.errors", True),
        ("common.command", "engine.config", False),
        ("models.build", "losses", False),
        ("data.check.rules", "models.tensors", False),
        ("engine.training.train", "losses", True),
        ("engine.training.train", "engine.prediction.segmenter", False),
        ("engine.evaluation.protocol", "engine.report.score_tables", False),
        ("engine.folds.candidates", "engine.evaluation.scores", True),
        ("engine.config.load", "engine.config.keys", True),
        ("tools.curves", "tools.study.plots", True),
        ("tools.curves", "tools.study.__main__", False),
        ("tools.overfit", "tools.summary", False),
        ("tools.study.__main__", "tools.study.tables", True),
        ("engine.metrics", "tools.summary", False),
    ],
)
def test_the_rule_by_examples(module, target, allowed):
    assert (fault(module, target) is None) is allowed


def test_circles_and_imports_inside_functions_are_found(tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "a.py").write_text("def f():\n    from engine.b import g\n")
    (tmp_path / "engine" / "b.py").write_text("if TYPE_CHECKING:\n    from engine import a\n")
    known = modules(tmp_path)
    found = {name: imported(path, known) for name, path in known.items()}
    assert found == {"engine.a": {"engine.b"}, "engine.b": {"engine.a"}}
    assert circle(found) == ["engine.a", "engine.b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
