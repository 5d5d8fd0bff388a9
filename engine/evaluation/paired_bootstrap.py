"""Two results of the same images, subtracted: what their protocols differ in, and paired bootstrap intervals.

A result is what eval.py writes: {"protocol", "per_class", "per_image", ..} with one confusion matrix an image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from common.errors import UserError
from engine.evaluation.per_image import PerImage
from engine.evaluation.scores import excluded
from engine.metrics import ConfusionMatrix


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
        per_class[name] = interval(miou_difference(iou_a, iou_b, only))  # None where a draw has it on no side
    return {
        "by": by, "groups": len(sides[0]), "samples": samples, "seed": seed,
        "miou": interval(miou_difference(iou_a, iou_b, kept, absent)), "per_class": per_class,
    }  # fmt: skip


def bootstrap_ious(
    a: Sequence[ConfusionMatrix], b: Sequence[ConfusionMatrix], samples: int = 1000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU of both sides in every draw of a paired bootstrap, each (samples + 1, C) float64; row 0: nothing redrawn.

    a, b: one confusion matrix a group (city, sequence block or image), in the same order. Groups are drawn with
    replacement, the same draw for both sides. Memory: 3 C numbers a group.
    """
    groups = len(a)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(groups, (samples, groups), generator=generator)  # (S, G)
    times = torch.zeros(samples, groups, dtype=torch.float64).scatter_add_(
        1, draws, torch.ones(samples, groups, dtype=torch.float64)
    )
    times = torch.cat([torch.ones(1, groups, dtype=torch.float64), times])

    def ious(side: Sequence[ConfusionMatrix]) -> torch.Tensor:
        tp, target, pred = torch.einsum("sg,gkc->ksc", times, torch.stack([m.totals() for m in side]))  # (S+1, C) each
        return tp / (target + pred - tp)

    return ious(a), ious(b)


def interval(draws: torch.Tensor) -> dict[str, float] | None:
    """difference, low and high (95 %, percentile method) of draws (S + 1,) whose first entry is the sample itself.

    Draws that are nan are left out (a class that a draw holds nowhere has no difference). None: the sample's own
    difference is undefined, or no draw has one.
    """
    rest = draws[1:][~draws[1:].isnan()]
    if draws[0].isnan() or not len(rest):
        return None
    low, high = torch.quantile(rest, torch.tensor([0.025, 0.975], dtype=rest.dtype)).tolist()
    return {"difference": draws[0].item(), "low": low, "high": high}


def bootstrap_difference(
    a: Sequence[ConfusionMatrix],
    b: Sequence[ConfusionMatrix],
    samples: int = 1000,
    seed: int = 0,
    exclude: Collection[int] = (),
    absent: str = "nan",
) -> dict[str, float] | None:
    """Paired bootstrap of mIoU(b) - mIoU(a) over groups of images (Efron & Tibshirani, percentile interval).

    exclude, absent: as in ConfusionMatrix.miou; of absent classes see miou_difference.
    Returns difference, low, high (95 %), as fractions. a, b, samples, seed: see bootstrap_ious.
    """
    return interval(miou_difference(*bootstrap_ious(a, b, samples, seed), a[0]._kept(exclude), absent))


def miou_difference(iou_a: torch.Tensor, iou_b: torch.Tensor, kept: torch.Tensor, absent: str = "nan") -> torch.Tensor:
    """(.., C), (.., C) -> (..): mean of b - a over the `kept` classes, (C,) bool.

    absent: a class that a side has nowhere counts 0 (zero) or 1 (one) there, and the mean runs over all kept classes.
    nan: the mean runs over the classes that either side has, one set for both, and the side without one scores 0 in it.
    """
    fill = 1.0 if absent == "one" else 0.0
    counted = kept & ~(iou_a.isnan() & iou_b.isnan()) if absent == "nan" else kept.expand(iou_a.shape)
    return ((iou_b.nan_to_num(fill) - iou_a.nan_to_num(fill)) * counted).sum(-1) / counted.sum(-1)
