"""Shared by several losses: labelled pixels, sums over a class's region, the mean over classes, class weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.errors import UserError


def at_least_float32(logits: Tensor) -> Tensor:
    """Half-precision logits as float32: a sum over a photograph's pixels exceeds float16's 65504."""
    return logits if logits.dtype == torch.float64 else logits.float()


def labelled_pixels(target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """labelled (B, H, W) bool, and the target with class 0 at ignored pixels, which makes it a valid index."""
    labelled = target != ignore_index
    return labelled, target.masked_fill(~labelled, 0)


def region_sums(logits: Tensor, target: Tensor, ignore_index: int, per_image: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the labelled pixels of each image or of the batch, with p = softmax(logits) and q = one-hot target.

    Shapes: logits (B, C, H, W), target (B, H, W) -> overlap = sum p q, guess = sum p, truth = sum q, each (B, C), or
    (1, C) of the batch.
    """
    labelled, index = labelled_pixels(target, ignore_index)
    labelled, index = labelled.unsqueeze(1), index.unsqueeze(1)  # (B, 1, H, W)
    probs = logits.softmax(1) * labelled  # (B, C, H, W)
    # scatter_add at the target's class gives the one-hot sums without a one-hot tensor
    p_true = probs.gather(1, index)  # (B, 1, H, W)
    zeros = logits.new_zeros(logits.shape[:2])  # (B, C)
    overlap = zeros.scatter_add(1, index.flatten(1), p_true.flatten(1))  # (B, C)
    truth = zeros.scatter_add(1, index.flatten(1), labelled.flatten(1).to(logits.dtype))  # (B, C)
    sums = overlap, probs.sum((2, 3)), truth
    return sums if per_image else tuple(x.sum(0, keepdim=True) for x in sums)


def cost_of_classes(score: Tensor, present: Tensor, absent: str) -> Tensor:
    """1 - score of each class; one row per image, or one for the batch. Absent classes cost 0 (absent "skip") or 1
    ("zero"); rows without a labelled pixel cost 0. Shapes: score, present (rows, C) -> same."""
    cost = (1 - score) * present
    return cost + (~present & present.any(1, keepdim=True)) if absent == "zero" else cost


def mean_over_classes(cost: Tensor, present: Tensor, absent: str) -> Tensor:
    """Mean over a row's present classes (absent "zero": over all), then over the rows that have a labelled pixel.
    Shapes: cost from `cost_of_classes`, present (rows, C) -> scalar, 0 without any labelled pixel."""
    count = present.sum(1)  # (rows,)
    divisor = count.clamp(min=1) if absent == "skip" else cost.shape[1]
    return (cost.sum(1) / divisor).sum() / (count > 0).sum().clamp(min=1)


def class_weight_tensor(class_weights: list[float] | None, num_classes: int, follow_iou: float = 0.0) -> Tensor | None:
    """Checks a config's class weights and returns them, float32 (C,). Weights that follow the IoU start at 1."""
    if follow_iou < 0:
        raise UserError(f"follow_iou must be at least 0, got {follow_iou}")
    if class_weights is None:
        return torch.ones(num_classes) if follow_iou else None
    if len(class_weights) != num_classes:
        raise UserError(f"class_weights: expected {num_classes} numbers, one per class, got {len(class_weights)}")
    if not (min(class_weights) >= 0 and 0 < sum(class_weights) < math.inf):
        raise UserError(f"class_weights: expected finite numbers >= 0, not all 0, got {list(class_weights)}")
    return torch.tensor(class_weights, dtype=torch.float32)


def following(weight: Tensor, val_iou: list[float], rate: float) -> Tensor:
    """Class weights (C,) times 1 + rate (1 - IoU of the class in the last validation), scaled to their old sum.

    Classes with a low IoU weigh more, up to 1 + rate times as much as perfect ones. A class that did not occur (nan)
    gets the mean of the others. Before the first validation (val_iou empty), or with rate 0, the weights do not change.
    """
    if not rate or not val_iou:
        return weight
    iou = torch.tensor(val_iou, dtype=torch.float64)
    iou = torch.where(iou.isnan(), iou.nanmean(), iou).nan_to_num(0.0)
    new = weight.double() * (1 + rate * (1 - iou)).to(weight.device)
    return (new * (weight.double().sum() / new.sum())).to(weight.dtype)
