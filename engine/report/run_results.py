"""The files of a run folder, read for a report. A missing file gives None or an empty value, a damaged one an error."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from common.errors import UserError


def read_run(run: Path) -> dict:
    """Everything a report needs: config, environment, splits, log (rows), stages (one result each), single."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"not a run folder: {run} (no config.yaml in it)")
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as e:
        raise UserError(f"{run / 'config.yaml'}: not YAML: {str(e).splitlines()[0]}") from None
    stages = {int(p.parent.name[5:]): _json(p) for p in run.glob("stage*/results.json") if p.parent.name[5:].isdigit()}
    return {
        "config": config,
        "environment": _json(run / "environment.json") or {},
        "splits": _json(run / "splits.json"),
        "log": _log(run / "log.jsonl"),
        "stages": [stages[n] for n in sorted(stages)],
        "single": _json(run / "results.json"),
    }


def _json(path: Path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path}: damaged: {e}") from None


def _log(path: Path) -> list[dict]:
    """The rows of log.jsonl, without a last line that a kill cut off; damage elsewhere is an error."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = []
    for number, text in enumerate(lines, 1):
        try:
            rows.append(json.loads(text))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is damaged") from None
    return rows


def section(config: dict, name: str) -> dict:
    """A section of a config, empty where the config lacks it."""
    return config.get(name) or {}


def latest(facts: dict) -> dict | None:
    """The results of the last finished stage, or of the single run; None if nothing is finished."""
    return facts["stages"][-1] if facts["stages"] else facts["single"]


def winners(facts: dict) -> list[tuple[dict, dict]]:
    """(stage, its winning candidate) for every finished stage."""
    return [(s, best_row(s)) for s in facts["stages"]]


def best_row(results: dict) -> dict:
    """The row whose scores are shown: the winner of a stage, or the single run itself."""
    return next((c for c in results.get("candidates", []) if c["name"] == results["winner"]), results)


def shown_candidates(results: dict) -> dict[str, dict]:
    """{name: {class: IoU}}: the winner, and the best single fold for comparison (or the mean, if that fold won)."""
    if "candidates" not in results:
        return {"this run": results["per_class"]}
    by_name = {c["name"]: c["per_class"] for c in results["candidates"]}
    shown = results["winner"], "best" if results["winner"] != "best" else "mean"
    return {name: by_name[name] for name in shown if name in by_name}


def all_labels(results: dict) -> list[str]:
    """The labels of a stage and of its candidates, each once."""
    rows = results.get("candidates", [])
    return list(dict.fromkeys([*results.get("labels", []), *(x for c in rows for x in c.get("labels", []))]))
