"""Tables of a study: markdown for people, CSV for programs, from the rows of comparison.summary.

A function named `.._cells` returns (rows, headers), which common.tables prints as text or as markdown.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from common.tables import markdown_table
from engine.evaluation.protocol import protocol_line
from engine.report.score_tables import MORE, Cells, interval, pct
from tools.study.comparison import RULE

EXTRAS = ("mean_auc", "ece", "boundary_miou")
PICTURES = {
    "accuracy": "Accuracy against cost.",
    "curves": "Loss and mIoU by epoch; training batches dashed, validation solid.",
    "best": "The best config of each family by mIoU, chosen on these same images.",
    "roc": "ROC of each class against the rest, one line per config (its first seed).",
    "confusion": "Confusion matrices: rows are the target, in percent of its pixels; all seeds together.",
    "predictions": "The predictions of all networks for the same images.",
}


def main_cells(rows: list[dict], facts: dict) -> Cells:
    """One row per config, in percent, without the columns that no row fills."""
    columns = {
        "config": lambda r: r["config"],
        "mIoU": lambda r: pct(r["miou"]),
        "sd over seeds": lambda r: pct(r["miou_sd"]),
        "difference [95 %]": lambda r: interval(r["difference"]),
        "to the row above [95 %]": lambda r: interval(r["step"]) if facts["cumulative"] else "-",
        f"mean of {', '.join(facts['focus'])}": lambda r: pct(r.get("focus")),
        "its difference [95 %]": lambda r: interval(r.get("focus_difference")),
        "parameters (M)": lambda r: f"{r['parameters'] / 1e6:.2f}",
        f"GFLOPs ({RULE})": lambda r: f"{r['gflops']:.2f}",
        "mIoU % / GFLOPs": lambda r: "-" if r["efficiency"] is None else f"{r['efficiency']:.2f}",
        "training (s)": lambda r: f"{r['seconds']:.0f}",
        "peak memory (MiB)": lambda r: f"{r['peak_memory_mib']:.0f}" if r["peak_memory_mib"] else "-",
        "quoted mIoU": lambda r: pct(r["quoted"].get("miou")),
    }
    kept = {h: [cell(r) for r in rows] for h, cell in columns.items()}
    kept = {h: cells for h, cells in kept.items() if set(cells) != {"-"}}
    return [list(cells) for cells in zip(*kept.values())], list(kept)


def class_cells(rows: list[dict]) -> Cells:
    """One row per config: the IoU of each class, and a quoted one after a slash."""
    names = list(rows[0]["per_class"])

    def cell(row: dict, name: str) -> str:
        quoted = row["quoted"].get("per_class", {}).get(name)
        return pct(row["per_class"].get(name)) + (f" / {pct(quoted)}" if quoted is not None else "")

    return [[r["config"], *(cell(r, n) for n in names)] for r in rows], ["config", *names]


def extras_cells(rows: list[dict], focus: list[str]) -> Cells:
    """One row per config: mean AUC, calibration, boundary IoU, and the AUC of each class (or of `focus` alone)."""
    shown = [r for r in rows if "mean_auc" in r]
    names = focus or list(shown[0]["auc"])
    headers = ["config", *(MORE[k] for k in EXTRAS), *(f"AUC, {n}" for n in names)]
    return [[r["config"], *(pct(r[k]) for k in EXTRAS), *(pct(r["auc"].get(n)) for n in names)] for r in shown], headers


def methods_cells(rows: list[dict]) -> Cells:
    """One row per config: which methods are on, and the mIoU."""
    methods = list(dict.fromkeys(m for r in rows for m in r["methods"]))
    cells = [[r["config"], *("on" if m in r["methods"] else "off" for m in methods), pct(r["miou"])] for r in rows]
    return cells, ["config", *methods, "mIoU"]


def study_page(facts: dict, protocol: dict, rows: list[dict], pictures: Sequence[str] = ()) -> str:
    """table.md: the comparison, methods, classes, and how to read them. pictures: names of PICTURES to show."""
    seeds, quoted = rows[0]["seeds"], any(r["quoted"] for r in rows)
    drawn = "image groups and seeds" if len(seeds) > 1 else "image groups"
    parts = [
        f"# {facts['title']}",
        f"{protocol_line(protocol)}; seeds {', '.join(map(str, seeds))}. In %.",
        markdown_table(*main_cells(rows, facts)),
        f"Differences are to the first row: paired bootstrap over {drawn}. A single run that keeps its best epoch "
        "chose that epoch on the images it is scored on.",
    ]
    if any(r["methods"] for r in rows):
        parts += ["## Methods", markdown_table(*methods_cells(rows))]
    parts += ["## IoU by class" + (" (ours / quoted)" if quoted else ""), markdown_table(*class_cells(rows))]
    if quoted:
        where = facts["quoted_on"] or "on its own data"
        parts.append(f"Quoted figures are from the original work, {where}; they were not measured here.")
    if any("mean_auc" in r for r in rows):
        parts += ["## Probabilities and boundaries", markdown_table(*extras_cells(rows, facts["focus"]))]
    parts += ["## Pictures"] if pictures else []
    parts += [f"![{name}]({name}.png)\n\n{PICTURES[name]}" for name in pictures]
    return "\n\n".join(parts) + "\n"


def write_csv(path: Path, rows: list[dict]) -> None:
    """table.csv, with plain numbers: fractions, parameters, GFLOPs, seconds, MiB; the IoU of each class as iou_NAME."""
    lines = []
    for r in rows:
        flat = {k: r[k] for k in ("config", "miou", "miou_sd", "parameters", "gflops", "efficiency", "seconds",
                                  "peak_memory_mib")}  # fmt: skip
        gap = r["difference"] or {}
        flat |= {k: gap.get(k) for k in ("difference", "low", "high")}
        flat |= {f"iou_{name}": value for name, value in r["per_class"].items()}
        flat |= {k: r.get(k) for k in EXTRAS if "mean_auc" in r}
        flat |= {f"auc_{name}": value for name, value in r.get("auc", {}).items()}
        lines.append(flat | {"quoted_miou": r["quoted"].get("miou")})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)
