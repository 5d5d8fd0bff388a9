"""Tensors as maps and as tokens: views, sums in place, bilinear resizing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear, to size (H, W); nothing is done (nor copied) where it already fits."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def full_precision(x: Tensor) -> AbstractContextManager:
    """No autocast on the device of x. The meta device, on which tools count a model's cost, has none to begin with."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C). A channels-last map already lies like this in memory: a view then, no copy."""
    return x.permute(0, 2, 3, 1)


def map_of(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W): the same memory as a channels-last map, no copy."""
    return x.permute(0, 3, 1, 2)


def add_into(y: Tensor, x: Tensor) -> Tensor:
    """x + y in the memory of y, which must be fresh: the output of a layer whose backward does not need it again.

    Saves a map of memory traffic a residual. Under autocast y is half precision and x is not: a plain sum then, or the
    residual stream would be rounded.
    """
    return y.add_(x) if y.dtype == x.dtype else x + y
