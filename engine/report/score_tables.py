"""Tables of scores, for the terminal and for both reports: candidates, folds, classes. Fractions in, percent out.

A function named `.._cells` returns (rows, headers), which common.tables prints as text or as markdown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.tables import format_table
from engine.evaluation.protocol import protocol_line
from engine.report.run_results import best_row, shown_candidates

Cells = tuple[list[list[str]], list[str]]  # rows, headers

SUMMARY = {
    "miou": "mIoU",
    "fw_iou": "frequency-weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "dice": "mean Dice",
}
MORE = {  # scores that need single images, or --extra
    "miou_per_image": "mIoU per image",
    "boundary_miou": "boundary mIoU",
    "mean_auc": "mean AUC",
    "ece": "expected calibration error",
}
BY_CLASS = {"boundary_iou": "boundary IoU", "auc": "AUC"}  # for each class, with --extra


def pct(value: float | None) -> str:
    """0.57314 -> '57.31'; None (an absent class, a score that was not computed) -> '-'."""
    return "-" if value is None else f"{100 * value:.2f}"


def interval(bootstrap: dict | None) -> str:
    """A difference in points with its 95 % interval: '+0.42 [-0.10, +0.95]'."""
    if not bootstrap:
        return "-"
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * bootstrap[key] for key in ("difference", "low", "high")))


def class_label(name: str, left_out: Sequence[str]) -> str:
    """A class name, in brackets where the means leave the class out."""
    return f"({name})" if name in left_out else name


def mean_cells(result: dict) -> list[list[str]]:
    """[label, percent] for each mean score that a result holds."""
    return [[label, pct(result[key])] for key, label in (SUMMARY | MORE).items() if key in result]


def candidate_cells(results: dict, more: bool = False) -> Cells:
    """One row per candidate of a stage, the winner marked *. more: the other mean scores too."""
    rows = results["candidates"]
    split = results["protocol"].get("split", "val")
    headers = ["candidate", "members", "select mIoU", f"{split} mIoU", "raw", "diff to best fold [95 %]"]
    keys = [k for k in ("fw_iou", "pixel_accuracy", *MORE) if more and any(c.get(k) is not None for c in rows)]
    labelled = any(c.get("labels") for c in rows)
    cells = []
    for c in rows:
        name = c["name"] + (" *" if c["name"] == results.get("winner") else "")
        difference = "reference" if c["name"] == "best" else interval(c.get("bootstrap"))
        scores = (pct(c.get(key)) for key in ("select_miou", "miou", "miou_raw"))
        row = [name, " ".join(map(str, c["members"])), *scores, difference, *(pct(c.get(key)) for key in keys)]
        cells.append([*row, ", ".join(c.get("labels", []))] if labelled else row)
    return cells, [*headers, *((SUMMARY | MORE)[key] for key in keys), *(["labels"] if labelled else [])]


def candidate_notes(results: dict) -> list[str]:
    return [f"{c['name']}: {note}" for c in results["candidates"] for note in c.get("notes", [])]


def candidates_table(results: dict) -> str:
    """A stage's candidates in percent, with the protocol: printed by train.py and eval.py --aggregate."""
    lines = [f"{protocol_line(results['protocol'])}; mIoU in %", format_table(*candidate_cells(results))]
    lines += candidate_notes(results)
    lines.append("* best select mIoU.  raw: BatchNorm statistics averaged with the weights instead of re-estimated")
    return "\n".join(lines)


def fold_cells(results: dict) -> Cells:
    """One row per fold of a stage."""
    protocol = results["protocol"]
    held_out = "out-of-fold mIoU"
    if results["stage"] > 0 or protocol.get("start") == "train":
        held_out += " (contaminated)"
    elif protocol.get("member") == "best":
        held_out += " (slightly optimistic)"
    headers = ["fold", "best epoch", held_out, "select mIoU", f"{protocol.get('split', 'val')} mIoU", "minutes"]
    cells = []
    for f in results["folds"]:
        minutes = "-" if f.get("seconds") is None else f"{f['seconds'] / 60:.1f}"
        scores = (pct(f.get(key)) for key in ("val_miou", "select_miou", "miou"))
        cells.append([str(f["fold"]), str(f["best_epoch"]), *scores, minutes])
    return cells, headers


def class_columns(results: dict) -> dict[str, dict]:
    """{header: {class: fraction or None}}: pixel share, IoU of the shown candidates, and with --extra the winner's
    boundary IoU and AUC."""
    best = best_row(results)
    columns = {"share of training pixels": results.get("class_frequency") or {}}
    columns |= {f"IoU, {name}": values for name, values in shown_candidates(results).items()}
    return columns | {label: best[key] for key, label in BY_CLASS.items() if key in best}


def class_rows(columns: dict[str, dict], names: Iterable[str], left_out: Sequence[str]) -> list[list[str]]:
    """One row per class: its name and its value in each column, in percent."""
    return [[class_label(name, left_out), *(pct(v.get(name)) for v in columns.values())] for name in names]


def class_legend(results: dict) -> str:
    """How to read the columns of `class_columns`."""
    best = best_row(results)
    more = [label for key, label in BY_CLASS.items() if key in best]
    text = "In percent. A dash: the class is in neither target nor prediction."
    text += " In brackets: not in the means." if results["protocol"].get("exclude") else ""
    return text + (f" {' and '.join(more)}: of {best.get('name', 'this run')}." if more else "")


def class_table(result: dict, protocol: dict) -> str:
    """What eval.py prints for one checkpoint: the protocol, the IoU of each class and the means, in percent."""
    return f"{protocol_line(protocol)}; in %\n{scores_table(result, protocol.get('exclude') or ())}"


def scores_table(result: dict, left_out: Sequence[str] = ()) -> str:
    """IoU of each class (with --extra also boundary IoU and AUC) and the means, in percent; the classes `left_out` of
    the means are in brackets."""
    columns = {head: result[key] for key, head in ({"per_class": "IoU"} | BY_CLASS).items() if key in result}
    rows = class_rows(columns, result["per_class"], left_out)
    rows += [[*row, *[""] * (len(columns) - 1)] for row in mean_cells(result)]
    return format_table(rows, ["class", *columns])
