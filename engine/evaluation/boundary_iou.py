"""Boundary IoU (Cheng et al., CVPR 2021, arXiv 2103.16562): IoU of the bands along the contours.

The IoU of a large object hardly changes when its outline is wrong. The IoU of a band does: the object's pixels within d
of its contour. d is 0.02 of the image's diagonal, rounded, at least 1 px, as in the paper and its code
(github.com/bowenc0221/boundary-iou-api): the band is the mask minus the mask eroded d times by a 3x3 square, and the
image's border is a contour too. This file computes it for all classes of a label map at once; counts are summed over
the set as for any IoU.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.metrics import class_mean

RATIO = 0.02  # of the diagonal


def width(size: tuple[int, int], ratio: float = RATIO) -> int:
    """d in pixels for an image (H, W)."""
    return max(1, round(ratio * (size[0] ** 2 + size[1] ** 2) ** 0.5))


def band(labels: Tensor, d: int) -> Tensor:
    """(H, W) bool: pixels that have another label, or the outside of the image, within d px (a square around them).

    A pixel is not in the band if its (2d+1)-square holds a single label, so if the largest label there is the smallest:
    one pass for all classes. Eroding each class by itself gives the same.
    """
    values = labels.to(torch.int16) + 1  # 0 is the outside
    padded = F.pad(values, (d, d, d, d))
    return _window(padded, 2 * d + 1, torch.maximum) != _window(padded, 2 * d + 1, torch.minimum)


def _window(x: Tensor, size: int, pick) -> Tensor:
    """The largest (or smallest) value of each size x size window, without padding. A window of 2, 4, 8, ... px is made of
    two windows of half its length: log2(size) passes instead of `size`."""
    for dim in (0, 1):
        reach = 1
        while reach < size:
            step = min(reach, size - reach)  # the last two overlap
            x = pick(x.narrow(dim, 0, x.shape[dim] - step), x.narrow(dim, step, x.shape[dim] - step))
            reach += step
    return x


class BoundaryIoU:
    """Band pixels per class: in both bands, in the target's, in the prediction's. (C,) int64 each.

    Predictions on void pixels are set to void, so that a contour against void is in both maps. Void pixels themselves
    are not counted, under either void rule.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.both, self.target, self.pred = (torch.zeros(num_classes, dtype=torch.int64) for _ in range(3))

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add one image: class indices (H, W), on one device."""
        c, void = self.num_classes, target == self.ignore_index
        outside = (pred < 0) | (pred >= c)
        pred = pred.masked_fill(outside, c).masked_fill(void, c + 1)
        target = target.masked_fill(void, c + 1)
        d = width(tuple(target.shape))
        of_target, of_pred = band(target, d), band(pred, d)
        for counts, where, labels in (
            (self.both, of_target & of_pred & (pred == target), target),
            (self.target, of_target, target),
            (self.pred, of_pred, pred),
        ):
            counts += torch.bincount(labels[where], minlength=c + 2)[:c].to(counts.device)

    def iou(self) -> Tensor:
        """(C,) float64; nan where a class has no band in target or prediction."""
        return self.both.double() / (self.target + self.pred - self.both)

    def miou(self, absent: str = "nan", exclude: Collection[int] = ()) -> float:
        """Mean over the classes not in `exclude`; `absent` as in ConfusionMatrix.miou."""
        return class_mean(self.iou(), absent, exclude)
