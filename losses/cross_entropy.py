"""Pixel-wise cross-entropy with class weights and label smoothing."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import UserError
from losses.pixels import at_least_float32, class_weight_tensor


class CrossEntropy(nn.Module):
    """Mean over labelled pixels of -sum_c q_c log p_c, p = softmax(logits).

    q is the one-hot target, or with label smoothing e: (1 - e) one-hot + e / C (arXiv 1512.00567, sec. 7). With class
    weights w each pixel counts w_target, and the mean divides by the sum of these (as torch does).
    Shapes: logits (B, C, H, W) of any float type, target (B, H, W) int64 -> scalar float32 (or float64). Pixels equal
    to ignore_index have no part; a batch of nothing else costs exactly 0, with a gradient of 0.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.register_buffer("weight", class_weight_tensor(class_weights, num_classes))
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        options = dict(weight=weight, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing)
        # summed outside: on CUDA torch's own reduction over pixels adds atomically, in no fixed order
        total = F.cross_entropy(logits, target, reduction="none", **options).sum()
        labelled = target != self.ignore_index
        if weight is None:
            divisor = labelled.sum().to(logits.dtype)  # pixels
        else:
            divisor = (weight[target.masked_fill(~labelled, 0)] * labelled).sum()
        loss = total / divisor.masked_fill(divisor == 0, math.inf)  # nothing labelled: exactly 0, and so its gradient
        self.parts = {"cross_entropy": loss.detach()}
        return loss
