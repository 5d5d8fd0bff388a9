"""Is B better than A? The difference of two result files with its 95 % interval, over all classes and for each.

    python eval.py --checkpoint a.pt --json a.json && python eval.py --checkpoint b.pt --json b.json
    python -m tools.compare a.json b.json

Paired bootstrap (Efron and Tibshirani, percentile method) over groups of images: the same groups are drawn for both
sides, confusion matrices are summed, scores are taken of the sums, and one set of classes serves both sides of a draw.
Files come from eval.py or tools/score.py; both must hold the same images, scored by one protocol.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from engine import checkpoint as ckpt
from engine import cli
from engine.errors import UserError
from engine.evaluate import excluded, number
from engine.metrics import ConfusionMatrix, bootstrap_ious, interval, miou_difference
from engine.per_image import PerImage
from engine.run_folder import say
from engine.tables import ABSENT_RULE, describe, format_table, pct
from engine.tables import interval as interval_text

# what may differ: who is compared, and how it was made and chosen. Not the labels of a run with folds (contaminated)
WHO = {"checkpoint", "run", "stage", "candidate", "start", "select", "member", "predictions", "targets", "raw"}


def read_result(path: Path) -> dict:
    """A result file with one matrix an image. Raises: UserError for anything else."""
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: not a JSON file: {e}") from None
    if not isinstance(result, dict) or not {"protocol", "per_class", "per_image"} <= set(result):
        raise UserError(
            f"{path}: no scores of single images in it; write it with  python eval.py --checkpoint FILE --json {path}  "
            "(of a run with folds: --aggregate NAME)"
        )
    return result


def check_pair(a: dict, b: dict, names: tuple[str, str], anyway: bool) -> list[str]:
    """What differs between the protocols, as lines. Raises: UserError where that is not allowed, or no pairs are."""
    if list(a["per_class"]) != list(b["per_class"]):
        raise UserError(
            f"{names[0]} and {names[1]}: other classes: {', '.join(a['per_class'])}; {', '.join(b['per_class'])}"
        )
    mine, theirs = (set(r["per_image"]["names"]) for r in (a, b))
    if mine != theirs or len(mine) != len(a["per_image"]["names"]):
        lonely = sorted(mine ^ theirs)
        raise UserError(f"{names[0]} and {names[1]}: not the same images ({len(lonely)} in one of them: {lonely[:1]})")
    keys = sorted((set(a["protocol"]) | set(b["protocol"])) - WHO)
    values = [(k, a["protocol"].get(k), b["protocol"].get(k)) for k in keys]
    values = [v for v in values if v[0] != "labels" or v[1] or v[2]]  # one checkpoint has none, like an honest run
    lines = [f"{k}: {x} and {y}" for k, x, y in values if x != y]
    if lines and not anyway:
        raise UserError(
            f"{names[0]} and {names[1]} were scored by different protocols ({'; '.join(lines)}); --anyway compares them"
        )
    return lines


def group_matrices(result: dict, by: str) -> dict[str, ConfusionMatrix]:
    """One matrix a group or image, in the order of names."""
    like = ConfusionMatrix(len(result["per_class"]), void=result["protocol"].get("void", "ignore"))
    per_image = PerImage.from_json(result["per_image"])
    if by == "image":
        return dict(sorted(zip(per_image.names, per_image.matrices(like))))
    return dict(sorted(per_image.by_group(like).items()))


def compare(a: dict, b: dict, by: str = "group", samples: int = 1000, seed: int = 0) -> dict:
    """Differences b - a as fractions: {"miou": .., "per_class": {name: ..}}, each with difference, low, high."""
    sides = [group_matrices(r, by) for r in (a, b)]
    if list(sides[0]) != list(sides[1]):
        raise UserError("the two files group their images differently; use --by image")
    if len(sides[0]) < 2:
        raise UserError(f"one {by} alone has no interval" + ("; use --by image" if by == "group" else ""))
    left_out = excluded(a["protocol"].get("exclude", []), list(a["per_class"]))
    iou_a, iou_b = bootstrap_ious(*[list(s.values()) for s in sides], samples, seed)  # (S + 1, C) each
    kept = torch.tensor([c not in left_out for c in range(iou_a.shape[1])])
    per_class = {}
    for c, name in enumerate(a["per_class"]):
        only = torch.zeros(len(kept), dtype=torch.bool)
        only[c] = True
        per_class[name] = _plain(interval(miou_difference(iou_a, iou_b, only)))  # nan where a draw has it on no side
    return {
        "by": by, "groups": len(sides[0]), "samples": samples, "seed": seed,
        "miou": _plain(interval(miou_difference(iou_a, iou_b, kept))), "per_class": per_class,
    }  # fmt: skip


def described(facts: dict) -> str:
    """The protocol in one line; tools/score.py knows no network size or views."""
    if "size" in facts:
        return describe(facts)
    rules = [ABSENT_RULE[facts["absent"]], "void pixels count as errors" if facts["void"] == "error" else ""]
    return ", ".join([f"{facts['data']}", f"{facts['images']} label files", *filter(None, rules)])


def _plain(found: dict) -> dict | None:
    found = {k: number(v) for k, v in found.items()}
    return found if None not in found.values() else None


def main(args: argparse.Namespace) -> None:
    paths = Path(args.a), Path(args.b)
    a, b = (read_result(p) for p in paths)
    differences = check_pair(a, b, (args.a, args.b), args.anyway)
    found = compare(a, b, args.by, args.samples, args.seed)
    say(f"A: {args.a}\nB: {args.b}\n{described(a['protocol'])}")
    for line in differences:
        say(f"NOT THE SAME PROTOCOL: {line}")
    say(f"paired bootstrap over {found['groups']} {args.by}s, {args.samples} draws, 95 % interval; in %")
    rows = [["mIoU", pct(a["miou"]), pct(b["miou"]), interval_text(found["miou"])]]
    rows += [
        [n, pct(a["per_class"][n]), pct(b["per_class"][n]), interval_text(d)] for n, d in found["per_class"].items()
    ]
    say(format_table(rows, ["", "A", "B", "B - A [95 %]"]))
    if args.json:
        ckpt.write_json(Path(args.json), found | {"a": args.a, "b": args.b, "protocol_differs": differences})
        say(f"written: {args.json}")


def build_parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m tools.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("a", metavar="A.json", help="the reference")
    p.add_argument("b", metavar="B.json", help="the other one")
    p.add_argument(
        "--by", choices=("group", "image"), default="group", help="what is drawn; images of one group are alike"
    )
    p.add_argument("--samples", type=int, default=1000, metavar="N", help="draws; default 1000")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--anyway", action="store_true", help="compare what was scored by different protocols")
    p.add_argument("--json", metavar="FILE", help="write the differences")
    return p


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
