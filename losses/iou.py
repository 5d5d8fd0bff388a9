"""Soft IoU (Jaccard): the reported score, computed from probabilities instead of decisions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from common.errors import UserError
from losses.regions import at_least_float32, cost_of_classes, mean_over_classes, region_sums


class IoU(nn.Module):
    """1 - mean of (sum p q + s) / (sum p + sum q - sum p q + s), p = softmax(logits), q = one-hot target.

    Rahman & Wang, Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation (ISVC 2016), for
    several classes. Sums run over the labelled pixels of each image (per_image false: of the batch); the mean runs over
    the classes present in its target, then over images. smooth (s, in pixels) is small, so an absent class would score
    s / (sum p + s), nearly 0 for the smallest probability. absent "zero": it scores 0 and counts in the mean.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 -> scalar.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        smooth: float = 1e-6,
        per_image: bool = True,
        absent: Literal["skip", "zero"] = "skip",
    ) -> None:
        super().__init__()
        if smooth < 0:
            raise UserError(f"smooth must be at least 0, got {smooth}")
        self.ignore_index, self.smooth, self.per_image, self.absent = ignore_index, smooth, per_image, absent
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        overlap, guess, truth = region_sums(at_least_float32(logits), target, self.ignore_index, self.per_image)
        iou = (overlap + self.smooth) / (guess + truth - overlap + self.smooth).clamp(min=1e-12)
        loss = mean_over_classes(cost_of_classes(iou, truth > 0, self.absent), truth > 0, self.absent)
        self.parts = {"iou": loss.detach()}
        return loss
