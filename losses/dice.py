"""Soft Dice: overlap of regions instead of agreement of pixels, so that small classes weigh as much as large ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.errors import UserError


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
        logits = logits if logits.dtype == torch.float64 else logits.float()
        labelled = (target != self.ignore_index).unsqueeze(1)  # (B, 1, H, W)
        probs = logits.softmax(1) * labelled  # (B, C, H, W)
        index = target.masked_fill(~labelled.squeeze(1), 0).unsqueeze(1)  # (B, 1, H, W)
        # p at the target's class and where it stands: one-hot sums without a one-hot tensor of the logits' size
        p_true = probs.gather(1, index) * labelled  # (B, 1, H, W)
        flat, batch = index.flatten(1), len(logits)  # (B, H W)
        zeros = logits.new_zeros(batch, self.num_classes)
        overlap = zeros.scatter_add(1, flat, p_true.flatten(1))  # (B, C): sum p q
        truth = zeros.scatter_add(1, flat, labelled.flatten(1).to(logits.dtype))  # (B, C): sum q
        guess = probs.sum((2, 3))  # (B, C): sum p
        if not self.per_image:
            overlap, truth, guess = (x.sum(0, keepdim=True) for x in (overlap, truth, guess))  # (1, C)
        present = truth > 0
        dice = (2 * overlap + self.smooth) / (guess + truth + self.smooth).clamp(min=1e-12)
        cost = ((1 - dice) * present).sum(1) / present.sum(1).clamp(min=1)  # (B,) or (1,)
        images = present.any(1).sum().clamp(min=1)  # images with a label in them
        loss = cost.sum() / images
        self.parts = {"dice": loss.detach()}
        return loss
