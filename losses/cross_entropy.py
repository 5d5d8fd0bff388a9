"""Pixel-wise cross-entropy with class weights, label smoothing, soft labels and a choice of hard pixels."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from losses.ohem import HardPixels
from losses.regions import at_least_float32, class_weight_tensor, following, labelled_pixels


class CrossEntropy(nn.Module):
    """Mean over labelled pixels of -sum_c q_c log p_c, p = softmax(logits).

    q is the one-hot target, or with label smoothing e: (1 - e) one-hot + e / C (arXiv 1512.00567, sec. 7). With class
    weights w the cost is -sum_c w_c q_c log p_c (torch's rule), and the mean divides by the pixels' weights w_target,
    as torch does; divide_by "pixels": by their number, as system E does.
    follow_iou: the weights follow the last validation (see `following`), 0: they stay.
    ohem: {threshold, min_kept, divide_by}, see losses/ohem: only hard pixels count.
    Soft labels: a target of probabilities (B, C, H, W) instead of classes; a pixel of zeros throughout is ignored, and
    the weight of a pixel is sum_c w_c q_c.
    Shapes: logits (B, C, H, W) of any float type, target (B, H, W) int64 or (B, C, H, W) float -> scalar float32 (or
    float64). Pixels equal to ignore_index have no part; a batch of nothing else costs exactly 0, with a gradient of 0.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        divide_by: Literal["weights", "pixels"] = "weights",
        ohem: dict | None = None,
        follow_iou: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.register_buffer("weight", class_weight_tensor(class_weights, num_classes, follow_iou))
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.divide_by = divide_by
        self.ohem = HardPixels.of(ohem)
        self.follow_iou = follow_iou
        self.val_iou: list[float] = []  # written by the training loop
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        soft = target.is_floating_point()
        weight = self.weight  # (C,)
        if weight is not None:
            weight = following(weight, self.val_iou, self.follow_iou).to(logits.dtype)
        cost = self.cost_of_pixels(logits, target, weight)
        if soft:
            labelled, pixel_weight = target.sum(1) > 0, target.to(logits.dtype)  # (B, H, W), (B, C, H, W)
            if weight is not None:
                pixel_weight = pixel_weight * weight[:, None, None]
            pixel_weight = pixel_weight.sum(1)  # (B, H, W)
        else:
            labelled, index = labelled_pixels(target, self.ignore_index)
            pixel_weight = None if weight is None else weight[index]
        counted = kept = labelled
        if self.ohem:
            probs = logits.detach().softmax(1)
            p_true = (probs * target).sum(1) if soft else probs.gather(1, index.unsqueeze(1)).squeeze(1)  # (B, H, W)
            kept = self.ohem.select(cost.detach(), p_true, labelled)
            counted = kept if self.ohem.divide_by == "kept" else labelled
        if pixel_weight is None or self.divide_by == "pixels":
            divisor = counted.sum().to(logits.dtype)  # pixels
        else:
            divisor = (pixel_weight * counted).sum()
        # summed here: on CUDA torch's own reduction over pixels adds atomically, in no fixed order
        total = (cost * kept).sum()
        loss = total / divisor.masked_fill(divisor == 0, math.inf)  # nothing labelled: exactly 0, and so its gradient
        self.parts = {"cross_entropy": loss.detach()}
        return loss

    def cost_of_pixels(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
        """-sum_c w_c q_c log p_c of each pixel, (B, H, W). Of ignored ones with soft labels: meaningless."""
        if target.is_floating_point():
            target, ignore = target.to(logits.dtype), {}
        else:
            ignore = {"ignore_index": self.ignore_index}
        return F.cross_entropy(
            logits, target, weight=weight, reduction="none", label_smoothing=self.label_smoothing, **ignore
        )
