"""BatchNorm folded into the convolution before it, and atrous depthwise convolutions without the taps that see zeros.

Both give the values of the plain layers, up to rounding, in less time. They read the weights in every call, so weights
may change between calls. For inference only: no gradients, BatchNorm in eval mode.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tensors import map_of, tokens_of


def scale_and_shift(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """bn(conv(x)) in eval mode = scale * (conv without its bias)(x) + shift. Both (out)."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)  # (out)
    shift = bn.bias - bn.running_mean * scale
    return scale, shift if conv.bias is None else shift + scale * conv.bias


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """bn(conv(x)) in eval mode. (B, in, H, W) -> (B, out, H', W').

    If the map has more pixels than a filter has weights, the weights are scaled, which saves a pass over the map.
    Otherwise the map is scaled in place, and a 1x1 convolution becomes one matrix product.
    """
    scale, shift = scale_and_shift(conv, bn)
    geometry = conv.stride, conv.padding, conv.dilation, conv.groups
    weights, pixels = conv.weight[0].numel(), x.shape[0] * x.shape[2:].numel() // (conv.stride[0] * conv.stride[1])
    if pixels > weights:
        return F.conv2d(x, conv.weight * scale[:, None, None, None], shift, *geometry)
    if x.is_meta:  # there is no time to save, and tools that count costs find the layers by name
        return bn(conv(x))
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1:
        y = map_of(F.linear(tokens_of(x), conv.weight.flatten(1)))  # (B, out, H, W)
    else:
        y = F.conv2d(x, conv.weight, None, *geometry)
    return torch.addcmul(shift[:, None, None], y, scale[:, None, None], out=y)


def atrous_depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x) for a 3x3 depthwise convolution without bias that keeps the size. (B, C, H, W) -> (B, C, H, W).

    With ASPP's dilations most taps of most pixels fall into the zero padding. On a CPU, whose libraries have no fast
    kernel for this case, each tap is added only where it meets the map: at rate 36 on a map of 16x32 pixels one of the
    nine taps is left.
    """
    rate, (height, width) = conv.dilation[0], x.shape[-2:]
    if rate == 1 or x.device.type != "cpu":
        return conv(x)
    taps = conv.weight.flatten(1).t()[:, :, None, None]  # (9, C, 1, 1)
    y = x * taps[4]
    for i, tap in enumerate(taps):
        dy, dx = rate * (i // 3 - 1), rate * (i % 3 - 1)  # the input pixel that this tap reads, from the output pixel
        if i != 4 and abs(dy) < height and abs(dx) < width:
            rows, columns = _overlap(dy, height), _overlap(dx, width)
            y[..., rows[0], columns[0]].addcmul_(x[..., rows[1], columns[1]], tap)
    return y


def _overlap(offset: int, length: int) -> tuple[slice, slice]:
    """The positions whose neighbour `offset` further is on the map, and those neighbours."""
    n = length - abs(offset)
    here, there = max(0, -offset), max(0, offset)
    return slice(here, here + n), slice(there, there + n)


def add_relu(y: Tensor, add: Tensor | None, relu: bool) -> Tensor:
    """y + add, then ReLU where asked for, written over y. (B, C, H, W) -> (B, C, H, W)."""
    if add is not None:
        y += add
    return F.relu_(y) if relu else y
