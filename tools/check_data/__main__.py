"""Look for faults in the data of a config: pairs, sizes, values, classes, duplicates; with the line that fixes each.

python -m tools.check_data configs/camvid/deeplabv3plus.yaml --out checked
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common import command
from common.console import say
from common.errors import UserError
from data.check.scan import LEVELS, classes_of
from data.check.value_rules import totals
from data.check.whole_set import Checked, check_config
from data.files import SPLITS
from engine.config import load_config
from tools.check_data.pages import frequency_plot, palette_page

FILES = 10  # shown per finding, and of the worst files


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, command.overrides(args))
    bar = None if not sys.stderr.isatty() else lambda found: tqdm(found, unit="pair")
    checked = check_config(cfg, args.splits, args.limit, args.workers, bar)
    text = report(checked, args.files)
    say(text)
    if args.out:
        out = Path(args.out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "check.txt").write_text(text + "\n", encoding="utf-8")
        except OSError as e:
            raise UserError(f"cannot write in {out}: {e.strerror or e}") from None
        plot = frequency_plot(shares(checked), checked.labels, out / "classes.png")
        page = palette_page(checked, out / "palette.png")
        say("written: " + ", ".join(str(p) for p in (out / "check.txt", plot, page) if p))
    errors, warnings = checked.count("error"), checked.count("warning")
    if errors:
        found = f"{errors} {_s('error', errors)} and {warnings} {_s('warning', warnings)}"
        raise UserError(f"{found} in the data, see above")
    say(f"no errors, {warnings or 'no'} {_s('warning', warnings)}")


def _s(word: str, n: int) -> str:
    return word if n == 1 else word + "s"


def report(checked: Checked, files: int = FILES) -> str:
    """The report as text: splits, values, classes, findings, worst files."""
    lines = [f"{split}: {n} pairs read" for split, n in Counter(f.split for f in checked.facts).items()]
    lines += ["", *value_table(checked), "", *class_table(checked), ""]
    for level in LEVELS:
        for f in (f for f in checked.findings if f.level == level):
            lines.append(f"{level.upper():8}{f.fault}: {f.text}")
            if f.fix:
                lines.append(f"        fix: {f.fix}")
            names = ", ".join("/".join(p.parts[-3:]) for p in f.files[:files])
            if names:
                lines.append(f"        in:   {names}{', ..' if len(f.files) > files else ''}")
    worst = checked.worst_files()[:files]
    if worst:
        lines += ["", "worst files first"]
        lines += [f"  {path}: {', '.join(dict.fromkeys(f.fault for f in found))}" for path, found in worst]
    return "\n".join(lines)


def value_table(checked: Checked) -> list[str]:
    """raw value or colour -> class -> pixels -> masks."""
    labels, rows, pixels = checked.labels, [], Counter()
    for counts_of, index_of in (("values", labels.index_of_raw), ("colours", labels.index_of_colour)):
        counts, masks = totals(checked.facts, counts_of)
        pixels.update(counts)
        shown = sorted(counts)[:64] if counts_of == "values" else [colour for colour, _ in counts.most_common(64)]
        for value in shown:
            index = index_of.get(value)
            name = "UNKNOWN" if index is None else "void" if index == labels.ignore_index else labels.class_names[index]
            text = str(value) if counts_of == "values" else " ".join(map(str, value))
            rows.append((text, name, counts[value], masks[value]))
    total, more = max(sum(pixels.values()), 1), len(pixels) - len(rows)
    head = f"{'raw value':>12}  {'class':20} {'pixels':>14} {'share':>8} {'masks':>7}"
    lines = [f"{v:>12}  {name:20} {n:14,} {100 * n / total:7.3f}% {m:7}" for v, name, n, m in rows]
    return [head, *lines, *([f"{'':14}and {more} more values"] if more > 0 else [])]


def shares(checked: Checked) -> dict[str, np.ndarray]:
    """{split: share of each class in the labelled pixels (C,)}."""
    out = {}
    for split in SPLITS:
        counts: Counter = Counter()
        for f in checked.facts:
            if f.split == split:
                counts.update(classes_of(f, checked.labels))
        row = np.array([counts[i] for i in range(checked.labels.num_classes)], float)
        if row.sum():
            out[split] = row / row.sum()
    return out


def class_table(checked: Checked) -> list[str]:
    table = shares(checked)
    heads = " ".join(f"{split:>9}" for split in table)
    lines = [f"{'class index':>12}  {'class':20} {heads}   (share of the labelled pixels)"]
    for i, name in enumerate(checked.labels.class_names):
        lines.append(f"{i:12}  {name:20} " + " ".join(f"{100 * row[i]:8.3f}%" for row in table.values()))
    return lines


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__.splitlines()[0], __doc__.splitlines()[2])
    p.add_argument("config", metavar="CONFIG", help="a YAML file under configs/")
    p.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="which splits (default: all)")
    p.add_argument("--limit", type=int, default=0, metavar="N", help="the first N pairs of each split (default: all)")
    p.add_argument("--workers", type=int, default=4, metavar="N", help="reading threads (default: 4)")
    p.add_argument("--files", type=int, default=FILES, metavar="N", help=f"files listed per finding (default: {FILES})")
    p.add_argument("--out", metavar="DIR", help="also write check.txt, classes.png (matplotlib) and palette.png there")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
