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
        labelled, index = (x.flatten(1) for x in labelled_pixels(target, self.ignore_index))  # (B, H W)
        classes = torch.arange(self.num_classes, device=logits.device)[:, None]  # (C, 1)
        truth = (index.unsqueeze(1) == classes) & labelled.unsqueeze(1)  # (B, C, H W)
        truth = truth.to(probs.dtype)
        slope = self.slope(probs.detach(), truth, labelled)  # (B, C, H W)
        loss = ((probs - truth) * slope).sum()  # of which the gradient is the slope: no sort to go back through
        self.parts = {"lovasz": loss.detach()}
        return loss

    @torch.no_grad()
    def slope(self, probs: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        """The derivative of the loss by each probability: its pixel's g, times -1 at the target's own class."""
        batch, slope = len(probs), torch.zeros_like(probs)
        groups = [slice(b, b + 1) for b in range(batch)] if self.per_image else [slice(None)]
        groups = [g for g in groups if labelled[g].any()]
        for group in groups:
            present = truth[group].amax((0, 2)).nonzero().flatten().tolist()
            share = 1 / (len(groups) * (len(present) if self.divide_by == "present" else self.num_classes))
            for c in present:
                q, p = truth[group, c], probs[group, c]  # (images, H W)
                # an ignored pixel has error 0 and is no class's pixel: it comes last and weighs nothing
                errors = (q - p).abs_().mul_(labelled[group])
                growth = jaccard_growth(errors.flatten(), q.flatten() > 0).view_as(errors)
                slope[group, c] = growth * (1 - 2 * q) * labelled[group] * share
        return slope


def jaccard_growth(errors: Tensor, truth: Tensor) -> Tensor:
    """g of each pixel, at its own place: by how much a class's Jaccard loss grows when it joins the wrong ones.

    With the k largest errors wrong, the intersection is I_k = true pixels - true ones among them, the union U_k = true
    pixels + others among them. A true pixel takes 1 from I: g = 1 / U_k. Any other adds 1 to U: g = I_k / (U_k (U_k -
    1)). Written so, nothing cancels, unlike differences of nearly equal Jaccard losses; and counts are integers, which
    no number of pixels makes inexact.
    Shapes: errors (P,) >= 0, truth (P,) bool with a true pixel -> (P,) of errors' type.
    """
    order = ascending(errors)  # so k = P - position
    truth = truth[order]
    total = truth.sum()
    wrong = total - truth.cumsum(0) + truth  # true pixels among the k largest errors
    k = torch.arange(len(truth), 0, -1, device=errors.device)
    union = (total + k - wrong).to(errors.dtype)
    growth = torch.where(truth, 1 / union, (total - wrong) / (union * (union - 1)))
    return torch.empty_like(errors).scatter_(0, order, growth)


def ascending(errors: Tensor) -> Tensor:
    """Indices that sort non-negative numbers (P,), by their bits: these, read as an integer, are in the same order.

    On the CPU torch sorts integers by radix, in a fraction of the time that comparing floats takes.
    """
    return errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32).argsort()
