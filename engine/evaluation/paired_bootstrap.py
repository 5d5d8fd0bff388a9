"""Paired bootstrap: the difference of two scores on the same images, with its 95 % interval.

What varies is drawn with replacement, the same draw for both sides: groups of images, and seeds where each side was
trained with several. Confusion matrices are summed over the drawn groups, scores are taken of the sums, and the
interval is the 2.5th to 97.5th percentile of the differences (Efron and Tibshirani, An Introduction to the Bootstrap).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError
from engine.evaluation.per_image import PerImage
from engine.evaluation.scores import excluded
from engine.metrics import ConfusionMatrix

Groups = Sequence[ConfusionMatrix]  # one matrix per group: a city, a stretch of video, or an image


@dataclass(frozen=True)
class Draws:
    """IoU of both sides in S draws; row 0 is the sample itself, nothing redrawn."""

    iou_a: Tensor  # (S + 1, T, C) float64, T trainings (seeds); nan where a draw has a class nowhere
    iou_b: Tensor
    times: Tensor  # (S + 1, T) float64: how often each training is drawn

    def difference(self, kept: Tensor, absent: str = "nan") -> dict[str, float] | None:
        """mIoU(b) - mIoU(a) over the `kept` classes, (C,) bool: difference, low and high (95 %), as fractions.

        absent: see miou_difference. None where the difference is undefined in the sample or in every draw; draws in
        which it is undefined are left out of the interval.
        """
        gap = miou_difference(self.iou_a, self.iou_b, kept, absent)  # (S + 1, T)
        gap = (gap * self.times).sum(1) / self.times.sum(1)
        drawn = gap[1:][~gap[1:].isnan()]
        if gap[0].isnan() or not len(drawn):
            return None
        low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
        return {"difference": gap[0].item(), "low": low, "high": high}


def bootstrap(a: Sequence[Groups], b: Sequence[Groups], samples: int = 1000, seed: int = 0) -> Draws:
    """Draw groups and trainings. a, b: one row per training, each with one matrix per group, in the same order.

    Memory: 3 C numbers a group and training.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = _times_drawn(samples, len(a[0]), generator)  # (S + 1, G)
    trainings = _times_drawn(samples, len(a), generator)  # (S + 1, T)

    def ious(side: Sequence[Groups]) -> Tensor:
        totals = torch.stack([torch.stack([m.totals() for m in row]) for row in side])  # (T, G, 3, C)
        tp, target, pred = torch.einsum("sg,tgkc->kstc", groups, totals)  # (S + 1, T, C) each
        return tp / (target + pred - tp)

    return Draws(ious(a), ious(b), trainings)


def _times_drawn(samples: int, n: int, generator: torch.Generator) -> Tensor:
    """(S + 1, n) float64: how often each of n is drawn when n are drawn with replacement; row 0: each once."""
    draws = torch.randint(n, (samples, n), generator=generator)
    times = torch.zeros(samples, n, dtype=torch.float64).scatter_add_(1, draws, torch.ones_like(draws).double())
    return torch.cat([torch.ones(1, n, dtype=torch.float64), times])


def miou_difference(iou_a: Tensor, iou_b: Tensor, kept: Tensor, absent: str = "nan") -> Tensor:
    """(.., C), (.., C) -> (..): mean of b - a over the `kept` classes, (C,) bool.

    absent: a class that a side has nowhere counts 0 (zero) or 1 (one) there, and the mean runs over all kept classes.
    nan: the mean runs over the classes that either side has, one set for both, and the side without one scores 0 in it.
    """
    fill = 1.0 if absent == "one" else 0.0
    counted = kept & ~(iou_a.isnan() & iou_b.isnan()) if absent == "nan" else kept.expand(iou_a.shape)
    return ((iou_b.nan_to_num(fill) - iou_a.nan_to_num(fill)) * counted).sum(-1) / counted.sum(-1)


def bootstrap_difference(
    a: Groups, b: Groups, samples: int = 1000, seed: int = 0, exclude: Collection[int] = (), absent: str = "nan"
) -> dict[str, float] | None:
    """mIoU(b) - mIoU(a) of two networks with its interval, see Draws.difference.

    exclude, absent: as in ConfusionMatrix.miou; of absent classes see miou_difference.
    """
    kept = torch.tensor([c not in exclude for c in range(a[0].num_classes)])
    return bootstrap([a], [b], samples, seed).difference(kept, absent)


# --- two result files, as eval.py writes them: {"protocol", "per_class", "per_image", ..} ----------------------------


def result_differences(a: dict, b: dict, by: str = "group", samples: int = 1000, seed: int = 0) -> dict:
    """Differences b - a of two results with their intervals: {"miou": .., "per_class": {name: ..}, ..}.

    by: what is drawn, "group" or "image". Raises: UserError where the groups differ, or there is only one.
    """
    sides = [group_matrices(result, by) for result in (a, b)]
    if list(sides[0]) != list(sides[1]):
        raise UserError("the two files group their images differently; use --by image")
    if len(sides[0]) < 2:
        raise UserError(f"a single {by} gives no interval" + ("; use --by image" if by == "group" else ""))
    draws = bootstrap(*[[list(side.values())] for side in sides], samples, seed)
    names = list(a["per_class"])
    left_out = excluded(a["protocol"].get("exclude", []), names)
    kept = torch.tensor([c not in left_out for c in range(len(names))])
    alone = torch.eye(len(names), dtype=torch.bool)
    return {
        "by": by, "groups": len(sides[0]), "samples": samples, "seed": seed,
        "miou": draws.difference(kept, a["protocol"].get("absent", "nan")),
        "per_class": {name: draws.difference(alone[c]) for c, name in enumerate(names)},
    }  # fmt: skip


def require_same_images(a: dict, b: dict, names: tuple[str, str]) -> None:
    """Raises: UserError where two results have different classes, or not the same images, each once."""
    if list(a["per_class"]) != list(b["per_class"]):
        classes = "; ".join(", ".join(r["per_class"]) for r in (a, b))
        raise UserError(f"{names[0]} and {names[1]}: other classes: {classes}")
    images_a, images_b = (set(r["per_image"]["names"]) for r in (a, b))
    if images_a != images_b or len(images_a) != len(a["per_image"]["names"]):
        unpaired = sorted(images_a ^ images_b)
        why = f"not the same images ({len(unpaired)} in only one of them: {unpaired[:1]})"
        raise UserError(f"{names[0]} and {names[1]}: {why}")


def group_matrices(result: dict, by: str) -> dict[str, ConfusionMatrix]:
    """One confusion matrix per group or image of a result, sorted by name."""
    like = ConfusionMatrix(len(result["per_class"]), void=result["protocol"].get("void", "ignore"))
    per_image = PerImage.from_json(result["per_image"])
    if by == "image":
        return dict(sorted(zip(per_image.names, per_image.matrices(like))))
    return dict(sorted(per_image.by_group(like).items()))
