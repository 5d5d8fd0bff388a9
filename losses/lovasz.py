"""Lovasz-softmax: a convex extension of the IoU loss from decisions to probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from losses.regions import at_least_float32, labelled_pixels


class Lovasz(nn.Module):
    """Mean over the classes present in the target of the Lovasz extension of the Jaccard loss. arXiv 1705.08790.

    Errors of class c: m_i = 1 - p_i(c) where the target is c, else p_i(c) (Eq. 11 there), p = softmax(logits). They are
    sorted, largest first. Error k is weighted by how much the Jaccard loss grows when its pixel joins the k - 1 wrong
    ones before it: loss_c = sum_k m_(k) g_k, g_k = J(k) - J(k - 1) (Eq. 8, 9, Alg. 1). A perfect prediction costs 0;
    decisions (p 0 or 1) cost exactly 1 - IoU.
    The loss is over the batch, or with per_image the mean over images. divide_by "all" divides the sum over present
    classes by the number of all classes, as system A's original does.
    Shapes: logits (B, C, H, W), target (B, H, W) int64 -> scalar.
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
        # the gradient is the slope, so autograd need not go back through the sort
        loss = ((probs - truth.to(probs.dtype)) * self.slope(probs.detach(), truth, labelled)).sum()
        self.parts = {"lovasz": loss.detach()}
        return loss

    @torch.no_grad()
    def slope(self, probs: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        """The derivative of the loss by each probability: g of its pixel, negative at the target's class."""
        # an ignored pixel has error 0 and belongs to no class: it comes last and has no weight
        errors = (truth.to(probs.dtype) - probs).abs_().mul_(labelled)  # (B, C, H W)
        if not self.per_image:
            errors, truth = (x.transpose(0, 1).flatten(1).unsqueeze(0) for x in (errors, truth))  # (1, C, B H W)
        present = truth.any(2)  # (B, C), or (1, C) of the batch
        divisor = present.sum(1, keepdim=True).clamp(min=1) if self.divide_by == "present" else self.num_classes
        share = present.to(probs.dtype) / (divisor * present.any(1).sum().clamp(min=1))  # of each row in the mean
        slope = torch.zeros_like(errors)
        slope[present] = jaccard_growth(errors[present], truth[present]).mul_(share[present].unsqueeze(1))  # (R, P)
        if not self.per_image:
            slope = slope.view(self.num_classes, *probs[:, 0].shape).transpose(0, 1)  # (B, C, H W)
        return slope.mul_(labelled)


def jaccard_growth(errors: Tensor, truth: Tensor) -> Tensor:
    """How much the class's Jaccard loss grows when each pixel joins the wrong ones (g), in the order of the pixels.

    If the pixels of the k largest errors are wrong, the intersection I_k is the true pixels not among them, the union
    U_k the true pixels and the others among them. A true pixel takes 1 from I, which costs 1 / U_k; any other adds 1 to
    U, which costs I_k / (U_k (U_k - 1)). Unlike differences of nearly equal Jaccard losses, these formulas do not
    cancel; the counts are integers and stay exact for any number of pixels.
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
    """Indices that sort each row of non-negative floats (R, P) by their bits, which are in the same order as integers.

    On the CPU torch radix-sorts one row of integers, which is much faster than a sort that compares floats.
    """
    keys = errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32)
    if keys.device.type != "cpu":
        return keys.argsort(1)
    order, in_order = torch.empty(keys.shape, dtype=torch.int64), keys.new_empty(keys.shape[1])
    for i, row in enumerate(keys):
        torch.sort(row, out=(in_order, order[i]))
    return order
