"""One definition of every metric: a confusion matrix summed over the whole set, and ratios of its entries.

Sums first, ratios last: no result depends on the batch size, the order of the files or the number of processes.
IoU of class c is TP / (TP + FP + FN) (Jaccard; Everingham et al., Pascal VOC); mIoU is the mean over classes, and the
rule for classes that occur in neither target nor prediction (`absent`) is part of the result, since published numbers
differ in it: torchvision leaves them out ("nan"), some count 0 ("zero") or 1 ("one"). So is the rule for void pixels
(`void`): left out ("ignore"), or, as in some published CamVid scores, false positives of what is predicted ("error").
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch

ABSENT = ("nan", "zero", "one")
VOID = ("ignore", "error")
NAN = float("nan")


class ConfusionMatrix:
    """Counts of (target, prediction) pairs of pixels: rows are target, columns prediction, int64.

    A target equal to ignore_index (void) is not counted. With void="error" the prediction there is a false positive of
    the predicted class (IoU, Dice), kept in `void`; accuracies are shares of the labelled pixels under either rule. A
    prediction outside 0..C-1 on a labelled pixel is an error, kept in one extra column: it counts in the target's row
    total (a miss) and in no class's column. Up to 2**63 pixels per class. Scores are fractions 0..1; a ratio with
    denominator 0 is nan unless a rule says otherwise.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, void: str = "ignore") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        if void not in VOID:
            raise ValueError(f"void must be one of {VOID}, got {void!r}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.void_rule = void
        self.void = torch.zeros(num_classes, dtype=torch.int64)  # predictions on void pixels; 0 where they are ignored
        self.counts = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)  # last column: no class at all

    @property
    def matrix(self) -> torch.Tensor:
        """(C, C) int64."""
        return self.counts[:, : self.num_classes]

    def reset(self) -> None:
        self.counts.zero_()
        self.void.zero_()

    def update(self, pred: torch.Tensor, target: torch.Tensor) -> None:
        """Add pixels: pred and target are integer tensors of one shape, any device. A label that is neither a class
        nor ignore_index raises ValueError (it would otherwise vanish silently)."""
        if pred.shape != target.shape:
            raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape")
        c = self.num_classes
        pred, target = pred.reshape(-1).long(), target.reshape(-1).long()
        known = target != self.ignore_index
        if self.void_rule == "error":
            wrong = pred[~known]
            self.void += torch.bincount(wrong[(wrong >= 0) & (wrong < c)], minlength=c).to(self.void.device)
        pred, target = pred[known], target[known]
        if target.numel() == 0:
            return
        if int(target.min()) < 0 or int(target.max()) >= c:
            bad = target[(target < 0) | (target >= c)].unique().tolist()
            raise ValueError(f"target holds {bad}, expected 0..{c - 1} or ignore_index {self.ignore_index}")
        pred = torch.where((pred < 0) | (pred >= c), c, pred)
        counts = torch.bincount(target * (c + 1) + pred, minlength=c * (c + 1)).reshape(c, c + 1)  # (C, C+1)
        self.counts += counts.to(self.counts.device)

    def merge(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Add another matrix (another process, fold or group) to this one."""
        mine, theirs = ((m.num_classes, m.ignore_index, m.void_rule) for m in (self, other))
        if mine != theirs:
            raise ValueError("only confusion matrices of the same classes, ignore_index and void rule can be merged")
        self.counts += other.counts.to(self.counts.device)
        self.void += other.void.to(self.void.device)
        return self

    # --- scores: tensors are float64 (C,), means are floats ---------------------------------------------------------

    def totals(self) -> torch.Tensor:
        """(3, C) float64: right pixels, pixels in the target, pixels predicted. IoU is made of these alone."""
        return torch.stack([self.matrix.diagonal(), self.counts.sum(1), self.matrix.sum(0) + self.void]).double()

    def iou(self) -> torch.Tensor:
        """IoU of each class, (C,) float64; nan where a class is in neither target nor prediction."""
        tp, target, pred = self.totals()
        return tp / (target + pred - tp)

    def present(self) -> torch.Tensor:
        """(C,) bool: classes that occur in target or prediction."""
        _, target, pred = self.totals()
        return (target + pred) > 0

    def miou(self, absent: str = "nan", exclude: Collection[int] = ()) -> float:
        """Mean IoU over classes not in `exclude`; absent classes are left out (nan), count 0 (zero) or 1 (one)."""
        return class_mean(self.iou(), absent, exclude)

    def dice(self) -> torch.Tensor:
        """Dice (F1) of each class, (C,): 2 TP / (2 TP + FP + FN)."""
        tp, target, pred = self.totals()
        return 2 * tp / (target + pred)

    def pixel_accuracy(self) -> float:
        tp, target, _ = self.totals()
        return (tp.sum() / target.sum()).item()

    def mean_accuracy(self, exclude: Collection[int] = ()) -> float:
        """Mean recall over the classes present in the target and not in `exclude`."""
        tp, target, _ = self.totals()
        return class_mean(tp / target, exclude=exclude)

    def mean_dice(self, exclude: Collection[int] = ()) -> float:
        """Mean Dice over the classes present in target or prediction and not in `exclude`."""
        return class_mean(self.dice(), exclude=exclude)

    def frequency_weighted_iou(self) -> float:
        """IoU weighted by each class's share of the labelled pixels (FCN, arXiv 1411.4038, section 5)."""
        _, target, _ = self.totals()
        return ((target / target.sum()) * self.iou().nan_to_num(0.0)).sum().item() if target.sum() else float("nan")


def class_mean(values: torch.Tensor, absent: str = "nan", exclude: Collection[int] = ()) -> float:
    """Mean of (C,) scores over the classes not in `exclude`. Those that are nan, as the class is absent, are left out
    (absent="nan") or count 0 ("zero") or 1 ("one"). nan if nothing is left."""
    if absent not in ABSENT:
        raise ValueError(f"absent must be one of {ABSENT}, got {absent!r}")
    values = values[[c for c in range(len(values)) if c not in exclude]]
    if absent != "nan":
        values = values.nan_to_num(nan=0.0 if absent == "zero" else 1.0)
    return values.nanmean().item()


def none_if_nan(x: float | None) -> float | None:
    """nan, which JSON does not have, as None."""
    return None if x is None or x != x else x


def worst_if_nan(x: float | None) -> float:
    """A score as rankings use it: one that is undefined (nan or None) is worse than any number."""
    return -math.inf if x is None or x != x else x


def best_first(scores: Sequence[float | None]) -> list[int]:
    """Indices of scores from best to worst; undefined ones come last, of equals the first comes first."""
    return sorted(range(len(scores)), key=lambda i: (-worst_if_nan(scores[i]), i))
