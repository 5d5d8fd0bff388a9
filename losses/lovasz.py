"""Lovasz-softmax: a convex extension of the IoU loss from decisions to probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from losses.regions import at_least_float32, labelled_pixels


class Lovasz(nn.Module):
    """Mean over the classes present in the target of the Lovasz extension of the Jaccard loss. arXiv 1705.08790.

    Errors of class c: m_i = 1 - p_i(c) where the target is c, else p_i(c) (Eq. 11 there), p = softmax(logits). Sorted,
    largest first, error k weighs as much as the Jaccard loss grows when its pixel joins the k - 1 wrong ones before:
    loss_c = sum_k m_(k) g_k, g_k = J(k) - J(k - 1) (Eq. 8, 9, Alg. 1). A perfect prediction costs 0, decisions (p 0 or
    1) cost 1 - IoU exactly.
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
        truth = (index == torch.arange(self.num_classes, device=logits.device)[:, None]) & labelled  # (B, C, H W)
        # its gradient is the slope, so that there is no sort to go back through
        loss = ((probs - truth.to(probs.dtype)) * self.slope(probs.detach(), truth, labelled)).sum()
        self.parts = {"lovasz": loss.detach()}
        return loss

    @torch.no_grad()
    def slope(self, probs: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        """The derivative of the loss by each probability: its pixel's g, negative at the target's own class."""
        # an ignored pixel has error 0 and is no class's pixel: it comes last and weighs nothing
        errors = (truth.to(probs.dtype) - probs).abs_().mul_(labelled)  # (B, C, H W)
        if not self.per_image:
            errors, truth = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (errors, truth))  # (1, C, B H W)
        present = truth.any(2)  # (B, C), or (1, C) of the batch
        divisor = present.sum(1, keepdim=True).clamp(min=1) if self.divide_by == "present" else self.num_classes
        share = present.to(probs.dtype) / (divisor * present.any(1).sum().clamp(min=1))  # of each row in the mean
        rows = jaccard_growth(errors[present], truth[present]).mul_(share[present].unsqueeze(1))  # (R, P)
        slope = torch.zeros_like(errors)
        slope[present] = rows
        if not self.per_image:
            slope = slope.view(self.num_classes, *probs[:, 0].shape).transpose(0, 1)  # (B, C, H W)
        return slope.mul_(labelled)


def jaccard_growth(errors: Tensor, truth: Tensor) -> Tensor:
    """g of each pixel, at its own place: by how much its class's Jaccard loss grows when it joins the wrong ones.

    With the k largest errors wrong, the intersection is I_k = true pixels - true ones among them, the union U_k = true
    pixels + others among them. A true pixel takes 1 from I: 1 / U_k. Any other adds 1 to U: I_k / (U_k (U_k - 1)).
    Written so, nothing cancels, unlike differences of nearly equal Jaccard losses; and counts are integers, which no
    number of pixels makes inexact.
    Shapes: errors (R, P) >= 0, truth (R, P) bool with a true pixel in every row -> (R, P), negative at true pixels.
    """
    order = ascending(errors)  # (R, P): so k = P - position
    truth = truth.gather(1, order)
    right = truth.cumsum(1, dtype=torch.int32) - truth.int()  # I_k: true pixels of smaller error
    k = torch.arange(truth.shape[1], 0, -1, dtype=torch.int32, device=errors.device)
    union = (right + k).to(errors.dtype)  # the k wrong ones, and the true ones among the others
    growth = torch.where(truth, -1 / union, right / (union * (union - 1)))
    return torch.empty_like(errors).scatter_(1, order, growth)


def ascending(errors: Tensor) -> Tensor:
    """Indices that sort each row of non-negative numbers (R, P) by their bits: as integers these are in the same order.

    On the CPU torch sorts one row of integers by radix, in a fraction of the time that comparing numbers takes; on a
    GPU one sort takes all rows.
    """
    keys = errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32)
    if keys.device.type != "cpu":
        return keys.argsort(1)
    order, in_order = torch.empty(keys.shape, dtype=torch.int64), keys.new_empty(keys.shape[1])
    for i, row in enumerate(keys):
        torch.sort(row, out=(in_order, order[i]))
    return order
