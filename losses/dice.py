"""Soft Dice: the overlap of each class's region, so that small classes count as much as large ones."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from common.errors import UserError
from losses.regions import at_least_float32, cost_of_classes, mean_over_classes, region_sums


class Dice(nn.Module):
    """1 - mean over classes of (2 sum p q + s) / (sum p + sum q + s), p = softmax(logits), q = one-hot target.

    V-Net (arXiv 1606.04797) with p instead of p^2 in the denominator, and several classes. Sums run over the labelled
    pixels of the batch, or with per_image over each image's. The mean runs over the classes present in the target: an
    absent class would score s / (sum p + s), so a nearly perfect prediction would cost much. Pixels wrongly given to an
    absent class are missing from a present one and cost there.
    smooth (s, in pixels) steadies small classes: missing a class of one pixel costs 1 - s / (1 + s), half with s = 1.
    beta: Dice is the F1 score; in general F = ((1 + b^2) sum p q + s) / (b^2 sum q + sum p + s), where b > 1 makes a
    missed pixel cost more than a false one.
    absent "zero": absent classes score 0 and count in the mean, as in systems B (smooth 1e-7) and D (smooth 1).
    reduction: "sum" over classes and images; "batchwise_mean" divides that by the number of images (1 unless
    per_image); "none" gives each class's cost, (C,) or (B, C) with per_image, for inspection and not for training.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 -> scalar.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        smooth: float = 1.0,
        per_image: bool = False,
        beta: float = 1.0,
        absent: Literal["skip", "zero"] = "skip",
        reduction: Literal["mean", "sum", "batchwise_mean", "none"] = "mean",
    ) -> None:
        super().__init__()
        if smooth < 0:
            raise UserError(f"smooth must be at least 0, got {smooth}")
        if beta <= 0:
            raise UserError(f"beta must be above 0, got {beta}")
        self.ignore_index, self.smooth, self.per_image, self.beta = ignore_index, smooth, per_image, beta
        self.absent, self.reduction = absent, reduction
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        overlap, guess, truth = region_sums(at_least_float32(logits), target, self.ignore_index, self.per_image)
        b2, s, present = self.beta**2, self.smooth, truth > 0
        score = ((1 + b2) * overlap + s) / (b2 * truth + guess + s).clamp(min=1e-12)
        cost = cost_of_classes(score, present, self.absent)  # (B, C) or (1, C)
        loss = mean_over_classes(cost, present, self.absent)
        if self.reduction in ("sum", "batchwise_mean"):
            loss = cost.sum() if self.reduction == "sum" else cost.sum() / len(cost)
        self.parts = {"dice": loss.detach()}
        if self.reduction == "none":
            return cost if self.per_image else cost.squeeze(0)
        return loss
