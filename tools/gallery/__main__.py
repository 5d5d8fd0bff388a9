"""Show several networks on the same images in one HTML file: one row per image, one column per network, totals above.

    python -m tools.gallery runs/scratch-20260101-120000 runs/fine-tuned-20260101-130000 --out gallery.html
    python -m tools.gallery RUN RUN --by disagreement --images 12 --split test
    python -m tools.gallery RUN/aggregate/top3.pt nvidia/segformer-b0-finetuned-cityscapes-1024-1024 --config CONFIG

A RUN is a run folder (its best candidate, if it has folds), a checkpoint of ours, or a public file, URL or id (python
-m tools.pretrained --list). Each run is scored by its own protocol, and all protocols must be the same; --config scores
all runs on the data and by the protocol of one config. The file needs no server and no network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import command
from common.console import say
from common.errors import UserError
from common.files import write_json
from common.tables import format_table
from engine.config import load_config
from engine.evaluation.protocol import protocol_line
from engine.report.score_tables import interval, pct
from tools.gallery import networks
from tools.gallery.images import choose_images, draw_images, find_images
from tools.gallery.page import write_gallery

BY = {
    "spread": "evenly spread over the split",
    "disagreement": "those where the networks' mIoU differ most",
    "worst": "those with the lowest mIoU of {}",
}


def main(args: argparse.Namespace) -> None:
    check(args)
    common, sets = load_config(args.config) if args.config else None, command.overrides(args)
    labels = args.labels or [None] * len(args.runs)
    sides = [networks.open_side(source, args.split, common, sets, label) for source, label in zip(args.runs, labels)]
    networks.number_equal_labels(sides)
    differing = [f"NOT THE SAME PROTOCOL: {line}" for line in networks.require_one_protocol(sides, args.anyway)]
    wanted = find_images(args.names, sides[0].dataset) if args.names else None
    results = []
    for side in sides:
        say(f"scoring {side.label}: {side.path}")
        results.append(networks.score_side(side))
    gaps = networks.differences_to_first(results)
    chosen = choose_images(args.by, args.images, results, args.one_per_group) if wanted is None else wanted
    names = [side.label for side in sides]
    for line in [*(f"{s.label}: {note}" for s in sides for note in s.notes), *differing]:
        say(line)
    say(summary(names, results, gaps))
    shown = [draw_images(side, chosen) for side in sides]
    which = BY[args.by].format(names[0]) + (", at most one per group" if args.one_per_group else "")
    page = write_gallery(
        Path(args.out), names, results, gaps, chosen, shown, sides[0].dataset.palette,
        "chosen by name" if args.names else which, notes(sides, differing),
    )  # fmt: skip
    say(f"written: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if args.json:
        rows = [{"label": n, **r, "difference": g} for n, r, g in zip(names, results, [None, *gaps])]
        write_json(Path(args.json), {"networks": rows, "shown": [sides[0].dataset.names[i] for i in chosen]})
        say(f"written: {args.json}")


def check(args: argparse.Namespace) -> None:
    """Check the arguments before anything is opened. Raises: UserError."""
    if args.labels and len(args.labels) != len(args.runs):
        raise UserError(f"--labels: {len(args.labels)} labels for {len(args.runs)} runs")
    if args.by == "disagreement" and len(args.runs) < 2:
        raise UserError("--by disagreement needs two runs or more")
    command.check_at_least(1, images=args.images)
    command.check_output("--out", Path(args.out))


def notes(sides: list[networks.Side], differing: list[str]) -> list[str]:
    """What the page says above the tables: the files, what differs, what is optimistic."""
    lines = [f"{side.label}: {'; '.join([str(side.path), *side.notes])}" for side in sides]
    if sides[0].dataset.split == "val":
        lines.append("A run that kept its best epoch chose it on these images, so its score is slightly optimistic.")
    return [*lines, *differing]


def summary(names: list[str], results: list[dict], gaps: list[dict | None]) -> str:
    rows = [
        [n, pct(r["miou"]), "reference" if r is results[0] else interval(g and g["miou"]), pct(r["miou_per_image"])]
        for n, r, g in zip(names, results, [None, *gaps])
    ]
    headers = ["network", "mIoU", f"difference to {names[0]} [95 %]", "mIoU per image"]
    return f"{protocol_line(results[0]['protocol'])}; in %\n{format_table(rows, headers)}"


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.gallery RUN RUN --by disagreement --out gallery.html")
    p.prog = "python -m tools.gallery"
    p.add_argument("runs", nargs="+", metavar="RUN", help="run folder, checkpoint of ours, public file, URL or id")
    p.add_argument("--out", default="gallery.html", metavar="FILE", help="default: gallery.html")
    p.add_argument("--config", metavar="FILE", help="score all on its data and by its protocol (public files need it)")
    p.add_argument("--labels", nargs="+", metavar="NAME", help="names of the columns, in the order of the runs")
    p.add_argument("--split", choices=("val", "test"), default="val")
    p.add_argument("--images", type=int, default=8, metavar="N", help="images to show; default 8")
    p.add_argument("--names", nargs="+", metavar="NAME", help="show these images")
    p.add_argument("--by", choices=BY, default="spread", help="which images to show; default: evenly spread")
    p.add_argument("--worst", action="store_const", const="worst", dest="by", help="the same as --by worst")
    p.add_argument("--one-per-group", action="store_true", help="at most one image of a city or stretch of video")
    p.add_argument("--anyway", action="store_true", help="compare in spite of different protocols")
    p.add_argument("--json", metavar="FILE", help="write scores, differences and the names of the shown images")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
