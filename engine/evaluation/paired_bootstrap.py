"""Two results of the same images, subtracted: what their protocols differ in, and paired bootstrap intervals.

A result is what eval.py writes: {"protocol", "per_class", "per_image", ..} with one confusion matrix an image.
"""

from __future__ import annotations

import torch

from common.errors import UserError
from engine.evaluation.evaluate import excluded, number
from engine.evaluation.per_image import PerImage
from engine.metrics import ConfusionMatrix, bootstrap_ious, interval, miou_difference

# what may differ: who is compared, and how it was made and chosen. Not the labels of a run with folds (contaminated)
WHO = {"checkpoint", "run", "stage", "candidate", "start", "select", "member", "predictions", "targets", "raw"}


def require_same_images(a: dict, b: dict, names: tuple[str, str]) -> None:
    """Raises: UserError where two results are not of the same classes, or not of the same images, each once."""
    if list(a["per_class"]) != list(b["per_class"]):
        raise UserError(
            f"{names[0]} and {names[1]}: other classes: {', '.join(a['per_class'])}; {', '.join(b['per_class'])}"
        )
    mine, theirs = (set(r["per_image"]["names"]) for r in (a, b))
    if mine != theirs or len(mine) != len(a["per_image"]["names"]):
        lonely = sorted(mine ^ theirs)
        raise UserError(f"{names[0]} and {names[1]}: not the same images ({len(lonely)} in one of them: {lonely[:1]})")


def protocol_differences(a: dict, b: dict) -> list[str]:
    """What differs between two protocols beside who was scored, a line each."""
    keys = sorted((set(a) | set(b)) - WHO)
    values = [(k, a.get(k), b.get(k)) for k in keys]
    values = [v for v in values if v[0] != "labels" or v[1] or v[2]]  # one checkpoint has none, like an honest run
    return [f"{k}: {x} and {y}" for k, x, y in values if x != y]


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
    absent = a["protocol"].get("absent", "nan")
    kept = torch.tensor([c not in left_out for c in range(iou_a.shape[1])])
    per_class = {}
    for c, name in enumerate(a["per_class"]):
        only = torch.zeros(len(kept), dtype=torch.bool)
        only[c] = True
        per_class[name] = _plain(interval(miou_difference(iou_a, iou_b, only)))  # nan where a draw has it on no side
    return {
        "by": by, "groups": len(sides[0]), "samples": samples, "seed": seed,
        "miou": _plain(interval(miou_difference(iou_a, iou_b, kept, absent))), "per_class": per_class,
    }  # fmt: skip


def _plain(found: dict) -> dict | None:
    found = {k: number(v) for k, v in found.items()}
    return found if None not in found.values() else None
