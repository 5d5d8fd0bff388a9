"""Soft Dice: overlap of regions instead of agreement of pixels, so that small classes weigh as much as large ones."""

from __future__ import annotations

from torch import Tensor, nn

from engine.errors import UserError
from losses.pixels import at_least_float32, mean_over_classes, region_sums


class Dice(nn.Module):
    """1 - mean over classes of (2 sum p q + s) / (sum p + sum q + s), p = softmax(logits), q = one-hot target.

    V-Net (arXiv 1606.04797) with p, not p^2, in the denominator, and several classes. Sums run over the labelled pixels
    of the batch (`per_image`: of each image, then the mean over images). The mean runs over the classes present in the
    target: an absent class would score s / (sum p + s), so that a nearly perfect prediction would cost much. What is
    wrongly given to an absent class is missing from a present one, and costs there. smooth (s, in pixels) steadies
    classes of few pixels: one pixel missed altogether costs 1 - s / (1 + s), half with s = 1, and nearly 1 when s << 1.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 -> scalar in float32 at least. Nothing labelled: exactly 0, with
    a gradient of 0.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, smooth: float = 1.0, per_image: bool = False) -> None:
        super().__init__()
        if smooth < 0:
            raise UserError(f"smooth must be at least 0, got {smooth}")
        self.num_classes, self.ignore_index, self.smooth, self.per_image = num_classes, ignore_index, smooth, per_image
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        overlap, guess, truth = region_sums(at_least_float32(logits), target, self.ignore_index)  # each (B, C)
        if not self.per_image:
            overlap, guess, truth = (x.sum(0, keepdim=True) for x in (overlap, guess, truth))  # (1, C)
        dice = (2 * overlap + self.smooth) / (guess + truth + self.smooth).clamp(min=1e-12)
        loss = mean_over_classes(1 - dice, truth > 0)
        self.parts = {"dice": loss.detach()}
        return loss
