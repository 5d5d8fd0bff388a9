"""Focal loss: cross-entropy in which pixels that are already right count less."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from losses.regions import at_least_float32, class_weight_tensor, following, labelled_pixels


class Focal(nn.Module):
    """Mean over labelled pixels of -w (1 - p)^gamma log p, p = softmax(logits) at the target's class.

    Lin et al., Focal Loss for Dense Object Detection (arXiv 1708.02002), with a softmax over classes instead of their
    sigmoid and class weights w instead of their alpha. The mean divides by the sum of the pixels' weights, so gamma 0
    gives weighted cross-entropy. follow_iou: as in `cross_entropy`.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 -> scalar.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        gamma: float = 2.0,
        class_weights: list[float] | None = None,
        follow_iou: float = 0.0,
    ) -> None:
        super().__init__()
        if gamma < 0:
            raise UserError(f"gamma must be at least 0, got {gamma}")
        self.register_buffer("weight", class_weight_tensor(class_weights, num_classes, follow_iou))
        self.ignore_index, self.gamma, self.follow_iou = ignore_index, gamma, follow_iou
        self.val_iou: list[float] = []  # written by the training loop
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = at_least_float32(logits)
        labelled, index = labelled_pixels(target, self.ignore_index)
        cost = F.cross_entropy(logits, target, reduction="none", ignore_index=self.ignore_index)  # (B, H, W): -log p
        # 1 - p without cancellation; the floor is there because a power below 1 has an infinite slope at p = 1
        miss = (-(-cost).expm1()).clamp(min=1e-12)  # (B, H, W)
        weight = labelled.to(cost.dtype)  # (B, H, W)
        if self.weight is not None:
            weight = weight * following(self.weight, self.val_iou, self.follow_iou).to(cost.dtype)[index]
        divisor = weight.sum()
        loss = (weight * miss**self.gamma * cost).sum() / divisor.masked_fill(divisor == 0, float("inf"))
        self.parts = {"focal": loss.detach()}
        return loss
