"""Theoretical receptive field: the pixels of the image that a unit of a feature map can depend on.

A copy of the network gets positive weights, averages in place of maxima, and no norms. No path through it can cancel
another one then, so the gradient of a unit is positive at exactly the pixels that the unit can read, over every path:
kernels, strides, dilations, padding, resizing, pooling to cells, attention and its windows. For plain kernels the
result equals the recurrences of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill 2019. stage_maps.py has the effective receptive field: how much a real unit depends on each pixel.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.analysis.stage_maps import stage_maps
from models.encoders.mix_transformer import EfficientSelfAttention
from models.encoders.swin import WindowAttention
from models.segmenter import SMALLEST


def theoretical(model: nn.Module, size: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{stage: (rows (H,) bool, columns (W,) bool)} of an image of `size` on which the stage's centre unit depends.

    "out" is the centre pixel of the logits. Rows and columns do not depend on each other in any of our networks, so
    each is measured on a strip as narrow as the networks take. The model itself does not change.
    """
    model = with_positive_weights(model)
    rows, columns = (support(model, strip) for strip in ((size[0], SMALLEST), (SMALLEST, size[1])))
    return {name: (rows[name][0], columns[name][1]) for name in rows}


def support(model: nn.Module, size: tuple[int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{stage: (rows (H,) bool, columns (W,) bool)} that the gradient of the stage's centre unit reaches."""
    image = torch.ones(1, 3, *size, dtype=torch.double, requires_grad=True)
    with torch.enable_grad(), Averages():
        maps = stage_maps(model, image)
    found = {}
    for name, out in maps.items():
        unit = out[0, :, out.shape[2] // 2, out.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(unit, image, retain_graph=True)
        read = gradient[0].sum(0).numpy() > 0  # (H, W)
        found[name] = read.any(1), read.any(0)
    return found


def with_positive_weights(model: nn.Module) -> nn.Module:
    """A copy in float64 on the CPU whose gradients cannot cancel."""
    model = deepcopy(model).double().cpu().eval()
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.constant_(m.weight, 1 / m.weight[0].numel())
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            m.reset_parameters()  # the identity
        elif isinstance(m, nn.LayerNorm):
            m.forward = lambda x: x
    for m in model.modules():  # without queries every key has the same weight
        if isinstance(m, EfficientSelfAttention):
            nn.init.zeros_(m.q.weight)
        elif isinstance(m, WindowAttention):
            nn.init.zeros_(m.qkv.weight[: len(m.qkv.weight) // 3].data)
    return model


class Averages(TorchFunctionMode):
    """Max pooling hands the gradient to one pixel of its window; averaging hands it to all that it reads."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (F.max_pool2d, torch.max_pool2d):
            return average_of(*args, **{k: v for k, v in kwargs.items() if k != "return_indices"})
        return function(*args, **kwargs)


def average_of(
    x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> Tensor:
    """The average over the windows of a max pooling. (B, C, H, W) -> (B, C, H', W')."""
    return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)


def extent(mask: np.ndarray) -> tuple[int, int]:
    """First position and length of the span of a mask."""
    at = np.flatnonzero(mask)
    return (int(at[0]), int(at[-1] - at[0] + 1)) if len(at) else (0, 0)
