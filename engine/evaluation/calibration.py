"""How good the probabilities are, not only the classes: ROC, AUC and calibration, from binned scores.

Scores are counted in fixed bins, so memory is O(bins) for a set of any size. The counts are integers: the result does
not depend on the batch size or the order of the images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from engine.metrics import class_mean, none_if_nan

ROC_BINS = 1024
LOGITS = (-40.0, 17.0)  # range of the bins in log-odds: p from 4e-18 to 1 - 4e-8, the float32 number next to 1
ECE_BINS = 15
UNIT = 2**24  # confidences are summed in units of 2**-24: exact from 0.5 up, below it off by at most 3e-8


def roc_edges() -> Tensor:
    """(ROC_BINS - 1,) float32 thresholds between the bins, equally spaced in log-odds.

    Softmax scores crowd near 0 and 1. Bins of equal width would put all scores of a rare class into one bin; equal
    steps of log p / (1 - p) resolve both ends.
    """
    logits = torch.linspace(*LOGITS, ROC_BINS - 1, dtype=torch.float64)
    return logits.sigmoid().float()


class BinnedScores:
    """Counts that ROC, AUC and calibration are computed from. `update` takes probabilities; void pixels are left out.

    pixels: (C, ROC_BINS) int64, pixels by class and by the bin of their probability for that class.
    positives: the same, counting only pixels of that class.
    confident, right, confidence: (ECE_BINS,) int64, by the probability of the predicted class: pixels, correct pixels,
    and the sum of the probabilities in units of 2**-24.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.edges = roc_edges()
        self.pixels, self.positives = (torch.zeros(num_classes, ROC_BINS, dtype=torch.int64) for _ in range(2))
        self.confident, self.right, self.confidence = (torch.zeros(ECE_BINS, dtype=torch.int64) for _ in range(3))

    def update(self, probs: Tensor, target: Tensor) -> None:
        """Add pixels: probs (B, C, H, W) float32 that sum to 1 over C, target (B, H, W), on one device."""
        known = target != self.ignore_index
        target = target[known]  # (n,)
        probs = probs.movedim(1, 0)[:, known]  # (C, n)
        c, edges = self.num_classes, self.edges.to(probs.device)
        places = torch.bucketize(probs, edges, right=True)  # (C, n): bin k holds edges[k-1] <= p < edges[k]
        places += torch.arange(c, device=probs.device)[:, None] * ROC_BINS
        own = places.gather(0, target[None])[0]  # the bin of each pixel's own class
        for counts, where in ((self.pixels, places.reshape(-1)), (self.positives, own)):
            counts += torch.bincount(where, minlength=c * ROC_BINS).reshape(c, ROC_BINS).to(counts.device)
        self._calibrate(*probs.max(0), target)

    def _calibrate(self, confidence: Tensor, pred: Tensor, target: Tensor) -> None:
        """Count by confidence: bin m of M holds (m - 1) / M < p <= m / M, as in Guo et al."""
        edges = torch.arange(1, ECE_BINS, device=confidence.device) / ECE_BINS
        places = torch.bucketize(confidence, edges)  # (n,)
        self.confident += torch.bincount(places, minlength=ECE_BINS).to(self.confident.device)
        self.right += torch.bincount(places[pred == target], minlength=ECE_BINS).to(self.right.device)
        units = (confidence.double() * UNIT).round_().long()
        sums = torch.zeros(ECE_BINS, dtype=torch.int64, device=units.device).scatter_add_(0, places, units)
        self.confidence += sums.to(self.confidence.device)

    def roc(self) -> tuple[Tensor, Tensor]:
        """False and true positive rate of each class against the rest, (C, ROC_BINS + 1) float64 each, from (0, 0) to
        (1, 1) as the threshold falls; nan for a class that has all pixels or none."""
        positives, negatives = self.positives, self.pixels - self.positives
        curves = [x.flip(1).cumsum(1).double() / x.sum(1, keepdim=True) for x in (negatives, positives)]
        return tuple(torch.cat([x[:, :1] * 0, x], 1) for x in curves)

    def auc(self) -> Tensor:
        """Area under each ROC curve by trapezoids, (C,): the probability that a pixel of the class scores higher than a
        pixel of another class, where ties (the same bin) count half (Fawcett, 2006)."""
        fpr, tpr = self.roc()
        return torch.trapezoid(tpr, fpr, dim=1)

    def mean_auc(self, absent: str = "nan", exclude: Collection[int] = ()) -> float:
        """Mean AUC over the classes not in `exclude`; classes without a curve follow `absent`, as in the mIoU."""
        return class_mean(self.auc(), absent, exclude)

    def ece(self) -> float:
        """Expected calibration error, Guo et al., arXiv 1706.04599: the mean over bins of the gap between
        accuracy and mean confidence, weighted by their pixels."""
        gap = (self.right.double() - self.confidence.double() / UNIT).abs()
        return (gap.sum() / self.confident.sum()).item()

    def reliability(self) -> dict[str, list]:
        """The reliability diagram (same paper): each bin's upper edge, pixels, accuracy and mean confidence."""
        n = self.confident.double()
        return {
            "upper": [(m + 1) / ECE_BINS for m in range(ECE_BINS)],
            "pixels": self.confident.tolist(),
            "accuracy": _plain(self.right / n),
            "confidence": _plain(self.confidence.double() / UNIT / n),
        }

    def to_json(self, class_names: Sequence[str], absent: str = "nan", exclude: Collection[int] = ()) -> dict:
        """mean_auc, auc (by class), ece, reliability, and roc (by class, thinned) as plain values."""
        fpr, tpr = self.roc()
        return {
            "mean_auc": none_if_nan(self.mean_auc(absent, exclude)),
            "auc": dict(zip(class_names, _plain(self.auc()))),
            "ece": none_if_nan(self.ece()),
            "reliability": self.reliability(),
            "roc": {n: thinned(x, y) for n, x, y in zip(class_names, fpr.tolist(), tpr.tolist())},
        }


def thinned(fpr: Sequence[float], tpr: Sequence[float], step: float = 0.005) -> dict[str, list[float]] | None:
    """A curve's points that are at least `step` apart, and its last: all a plot can show. None where it is nan."""
    if fpr[-1] != fpr[-1] or tpr[-1] != tpr[-1]:
        return None
    kept = [0]
    for i in range(1, len(fpr)):
        if i == len(fpr) - 1 or abs(fpr[i] - fpr[kept[-1]]) + abs(tpr[i] - tpr[kept[-1]]) >= step:
            kept.append(i)
    return {"fpr": [round(fpr[i], 6) for i in kept], "tpr": [round(tpr[i], 6) for i in kept]}


def _plain(values: Tensor) -> list[float | None]:
    return [none_if_nan(v) for v in values.tolist()]
