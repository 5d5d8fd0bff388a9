"""Scores as tables, for the terminal (aligned text) and for reports (markdown). Fractions in, percent out."""

from __future__ import annotations

from collections.abc import Sequence

from common.tables import format_table
from engine.evaluation.protocol import describe


def pct(value: float | None) -> str:
    """0.57314 -> '57.31'; None (a class that does not occur, a score not taken) -> '-'."""
    return "-" if value is None else f"{100 * value:.2f}"


def interval(bootstrap: dict | None) -> str:
    """A difference in points with its 95 % interval: '+0.42 [-0.10, +0.95]'."""
    if not bootstrap:
        return "-"
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * bootstrap[key] for key in ("difference", "low", "high")))


CANDIDATE_HEADERS = ("candidate", "members", "select mIoU", "{split} mIoU", "raw", "diff to best fold [95 %]")


def candidate_rows(results: dict) -> list[list[str]]:
    """name (the winner marked *), members, select, reported split, raw, difference: cells of CANDIDATE_HEADERS."""
    rows = []
    for c in results["candidates"]:
        name = c["name"] + (" *" if c["name"] == results.get("winner") else "")
        difference = "reference" if c["name"] == "best" else interval(c.get("bootstrap"))
        members = " ".join(map(str, c["members"]))
        rows.append([name, members, pct(c.get("select_miou")), pct(c["miou"]), pct(c.get("miou_raw")), difference])
    return rows


def candidate_headers(results: dict) -> list[str]:
    return [h.format(split=results["protocol"].get("split", "val")) for h in CANDIDATE_HEADERS]


def all_labels(results: dict) -> list[str]:
    """Labels of a stage and of its candidates, without repetition."""
    rows = results.get("candidates", [])
    return list(dict.fromkeys([*results.get("labels", []), *(x for c in rows for x in c.get("labels", []))]))


def candidates_table(results: dict) -> str:
    """The table at the end of train.py and eval.py --aggregate: a stage's candidates, in percent, with the protocol."""
    rows, headers = candidate_rows(results), candidate_headers(results)
    if any(c.get("labels") for c in results["candidates"]):
        headers = [*headers, "labels"]
        rows = [[*row, ", ".join(c.get("labels", []))] for row, c in zip(rows, results["candidates"])]
    lines = [f"{describe(results['protocol'])}; mIoU in %", format_table(rows, headers)]
    lines += [f"{c['name']}: {note}" for c in results["candidates"] for note in c.get("notes", [])]
    lines.append("* best select mIoU.  raw: BatchNorm statistics averaged with the weights instead of re-estimated")
    return "\n".join(lines)


SUMMARY = {
    "miou": "mIoU",
    "fw_iou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "dice": "mean Dice",
}
MORE = {  # what needs images one by one, or is asked for by --extra
    "miou_per_image": "mIoU per image",
    "boundary_miou": "boundary mIoU",
    "mean_auc": "mean AUC",
    "ece": "expected calibration error",
}

BY_CLASS = {"boundary_iou": "boundary IoU", "auc": "AUC"}  # of each class, with --extra


def class_table(result: dict, protocol: dict) -> str:
    """IoU of each class and the means, in percent, with the protocol: what eval.py prints for one checkpoint."""
    return f"{describe(protocol)}; in %\n{scores_table(result, protocol.get('exclude') or ())}"


def scores_table(result: dict, left_out: Sequence[str] = ()) -> str:
    """IoU of each class (with boundary IoU and AUC, where they were taken) and the means, in percent; classes that the
    means leave out stand in brackets."""
    columns = {head: result[key] for key, head in ({"per_class": "IoU"} | BY_CLASS).items() if key in result}
    rows = [
        [f"({name})" if name in left_out else name, *(pct(values[name]) for values in columns.values())]
        for name in result["per_class"]
    ]
    rest = [""] * (len(columns) - 1)
    rows += [[label, pct(result[key]), *rest] for key, label in (SUMMARY | MORE).items() if key in result]
    return format_table(rows, ["class", *columns])
