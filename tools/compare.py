"""Is B better than A? The difference of two result files with its 95 % interval, for the mIoU and for each class.

    python eval.py --checkpoint a.pt --json a.json && python eval.py --checkpoint b.pt --json b.json
    python -m tools.compare a.json b.json

A paired bootstrap over groups of images (engine/evaluation/paired_bootstrap.py). The files come from eval.py or
tools/score.py; both must hold the same images, scored by the same protocol.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from common import command
from common.console import say
from common.errors import UserError
from common.files import write_json
from common.tables import format_table
from engine.evaluation.paired_bootstrap import require_same_images, result_differences
from engine.evaluation.protocol import protocol_differences, protocol_line
from engine.report.score_tables import interval as interval_text
from engine.report.score_tables import pct


def read_result(path: Path) -> dict:
    """Read a result file with one matrix per image. Raises: UserError for anything else."""
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a JSON file: {e}") from None
    if not isinstance(result, dict) or not {"protocol", "per_class", "per_image"} <= set(result):
        raise UserError(
            f"{path}: no scores of single images in it; write it with  python eval.py --checkpoint FILE --json {path}  "
            "(of a run with folds: --checkpoint RUN/aggregate/NAME.pt)"
        )
    return result


def main(args: argparse.Namespace) -> None:
    a, b = (read_result(Path(p)) for p in (args.a, args.b))
    require_same_images(a, b, (args.a, args.b))
    differences = protocol_differences(a["protocol"], b["protocol"])
    if differences and not args.anyway:
        problem = f"{args.a} and {args.b} were scored by different protocols ({'; '.join(differences)})"
        raise UserError(f"{problem}; --anyway compares them")
    found = result_differences(a, b, args.by, args.samples, args.seed)
    say(f"A: {args.a}\nB: {args.b}\n{protocol_line(a['protocol'])}")
    for line in differences:
        say(f"NOT THE SAME PROTOCOL: {line}")
    say(f"paired bootstrap over {found['groups']} {args.by}s, {args.samples} draws, 95 % interval; in %")
    rows = [["mIoU", pct(a["miou"]), pct(b["miou"]), interval_text(found["miou"])]]
    for name, gap in found["per_class"].items():
        rows.append([name, pct(a["per_class"][name]), pct(b["per_class"][name]), interval_text(gap)])
    say(format_table(rows, ["", "A", "B", "B - A [95 %]"]))
    if args.json:
        write_json(Path(args.json), found | {"a": args.a, "b": args.b, "protocol_differs": differences})
        say(f"written: {args.json}")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tools.compare", __doc__)
    p.add_argument("a", metavar="A.json", help="the reference")
    p.add_argument("b", metavar="B.json", help="the other one")
    p.add_argument(
        "--by", choices=("group", "image"), default="group", help="what is drawn; the images of a group are alike"
    )
    p.add_argument("--samples", type=int, default=1000, metavar="N", help="draws; default 1000")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--anyway", action="store_true", help="compare even if the protocols differ")
    p.add_argument("--json", metavar="FILE", help="write the differences")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
