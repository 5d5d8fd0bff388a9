"""Tensors as maps and as tokens: views, sums in place, bilinear resizing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear, to size (H, W). A map of that size is returned as it is, without a copy."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def full_precision(x: Tensor) -> AbstractContextManager:
    """Switch autocast off on the device of x. The meta device, on which tools count costs, has no autocast."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C). A view: a channels-last map already has this order in memory."""
    return x.permute(0, 2, 3, 1)


def map_of(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W). A view of the same memory, which is a channels-last map."""
    return x.permute(0, 3, 1, 2)


def add_into(y: Tensor, x: Tensor) -> Tensor:
    """x + y, written over y. y must be the output of a layer whose backward pass does not need it again.

    This saves allocating a map for each residual. Under autocast y is in half precision and x is not: then a plain sum,
    which does not round the residual stream.
    """
    return y.add_(x) if y.dtype == x.dtype else x + y
