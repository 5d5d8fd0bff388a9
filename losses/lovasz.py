"""Lovasz-softmax: a convex extension of the IoU loss from decisions to probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from losses.pixels import at_least_float32, labelled_pixels


class Lovasz(nn.Module):
    """Mean over the classes present in the target of the Lovasz extension of the Jaccard loss. arXiv 1705.08790.

    Errors of class c: m_i = 1 - p_i(c) where the target is c, else p_i(c) (Eq. 8 there), p = softmax(logits). Sorted,
    largest first, error k weighs as much as the Jaccard loss grows when its pixel joins the k - 1 wrong ones before:
    loss_c = sum_k m_(k) g_k, g_k = J(k) - J(k - 1) (Eq. 9, Alg. 1). A perfect prediction costs 0, decisions (p 0 or 1)
    cost 1 - IoU exactly.
    Over the batch, or with per_image the mean over images. divide_by "all": the sum over present classes is divided by
    the number of all classes, as system A's original did.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 -> scalar in float32 at least. Nothing labelled: exactly 0, with
    a gradient of 0.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int = 255,
        per_image: bool = False,
        divide_by: Literal["present", "all"] = "present",
    ) -> None:
        super().__init__()
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.per_image, self.divide_by = per_image, divide_by
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        probs = at_least_float32(logits).softmax(1).flatten(2)  # (B, C, H W)
        labelled, index = (x.flatten(1).unsqueeze(1) for x in labelled_pixels(target, self.ignore_index))  # (B, 1, H W)
        classes = torch.arange(self.num_classes, device=logits.device)[:, None]  # (C, 1)
        truth = (index == classes) & labelled  # (B, C, H W)
        # an ignored pixel has error 0 and is no class's pixel: it comes last and weighs nothing
        errors = (truth.to(probs.dtype) - probs).abs() * labelled  # (B, C, H W)
        if not self.per_image:
            errors, truth = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (errors, truth))  # (1, C, B H W)
        present = truth.any(2)  # (B, C) or (1, C)
        errors, truth = errors[present], truth[present]  # (R, P): one row for each image's (or the batch's) class
        per_row = (errors * jaccard_growth(errors.detach(), truth)).sum(1)  # (R,)
        count = present.sum(1)  # classes in each image
        divisor = count if self.divide_by == "present" else torch.full_like(count, self.num_classes)
        share = (present.to(probs.dtype) / divisor.clamp(min=1)[:, None])[present]  # (R,): of a row in its image's mean
        loss = (per_row * share).sum() / (count > 0).sum().clamp(min=1)
        self.parts = {"lovasz": loss.detach()}
        return loss


@torch.no_grad()
def jaccard_growth(errors: Tensor, truth: Tensor) -> Tensor:
    """g of each pixel, at its own place: by how much the Jaccard loss of its row grows when it joins the wrong ones.

    With the k largest errors wrong, the intersection is I_k = true pixels - true ones among them, the union U_k = true
    pixels + others among them. A true pixel takes 1 from I: g = 1 / U_k. Any other adds 1 to U: g = I_k / (U_k (U_k -
    1)). Written so, nothing cancels, unlike differences of nearly equal Jaccard losses; and counts are integers, which
    no number of pixels makes inexact.
    Shapes: errors (R, P) >= 0, truth (R, P) bool with a true pixel in every row -> (R, P) of errors' type.
    """
    order = ascending(errors)  # (R, P): ascending, so k = P - position
    truth = truth.gather(1, order)
    total = truth.sum(1, keepdim=True)  # (R, 1)
    wrong = total - truth.cumsum(1) + truth  # (R, P): true pixels among the k largest errors
    k = torch.arange(truth.shape[1], 0, -1, device=errors.device)  # (P,)
    union = (total + k - wrong).to(errors.dtype)
    growth = torch.where(truth, 1 / union, (total - wrong) / (union * (union - 1)))
    return torch.empty_like(errors).scatter_(1, order, growth)


def ascending(errors: Tensor) -> Tensor:
    """Indices that sort each row of non-negative numbers (R, P).

    The bits of non-negative floats, read as integers, are in the same order. On the CPU torch sorts one row of integers
    by radix, which takes a fifth of the time of comparing floats; on a GPU one sort of all rows is best.
    """
    keys = errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32)
    if keys.device.type != "cpu" or not len(keys):
        return keys.argsort(1)
    return torch.stack([row.argsort() for row in keys])
