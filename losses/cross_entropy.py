"""Pixel-wise cross-entropy with class weights, label smoothing, soft labels and online hard example mining (OHEM)."""

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

    q is the one-hot target; with label smoothing e it is (1 - e) one-hot + e / C (arXiv 1512.00567, sec. 7). With class
    weights w the cost is -sum_c w_c q_c log p_c, as in torch. The mean divides by the sum of the pixels' weights, as
    torch does, or with divide_by "pixels" by their number, as system E does.
    follow_iou > 0: the weights follow the IoU of the last validation (see `following`).
    ohem: {threshold, min_kept, divide_by}: only hard pixels count (losses/ohem.py).
    Soft labels: a target of probabilities (B, C, H, W); pixels with all zeros are ignored, and the weight of a pixel
    is sum_c w_c q_c.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 or (B, C, H, W) float -> scalar.
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
        self.ignore_index, self.label_smoothing, self.divide_by = ignore_index, label_smoothing, divide_by
        self.ohem, self.follow_iou = HardPixels.of(ohem), follow_iou
        self.val_iou: list[float] = []  # written by the training loop
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        soft = target.is_floating_point()
        weight = self.weight  # (C,)
        if weight is not None:
            weight = following(weight, self.val_iou, self.follow_iou).to(logits.dtype)
        options = {"weight": weight, "reduction": "none", "label_smoothing": self.label_smoothing}
        if soft:
            labelled, target = target.sum(1) > 0, target.to(logits.dtype)  # (B, H, W), (B, C, H, W)
            pixel_weight = (target if weight is None else target * weight[:, None, None]).sum(1)  # (B, H, W)
        else:
            options["ignore_index"] = self.ignore_index
            labelled, index = labelled_pixels(target, self.ignore_index)
            pixel_weight = None if weight is None else weight[index]
        cost = F.cross_entropy(logits, target, **options)  # (B, H, W)
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
        # summed here, because torch's own reduction over pixels has no fixed order on CUDA
        total = (cost * kept).sum()
        loss = total / divisor.masked_fill(divisor == 0, math.inf)  # nothing labelled: exactly 0, as is its gradient
        self.parts = {"cross_entropy": loss.detach()}
        return loss
