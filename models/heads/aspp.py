"""Atrous spatial pyramid pooling. Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation"
(DeepLabV3), arXiv 1706.05587; with separable convolutions in "Encoder-Decoder with Atrous Separable Convolution"
(DeepLabV3+), arXiv 1802.02611.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.layers import conv_bn_relu, separable_conv_bn_relu

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # per output stride: the same reach in pixels of the image


def rates_for(given: tuple[int, ...] | None, output_stride: int) -> tuple[int, ...]:
    """The given rates, or those of the stride. Raises: UserError for an empty list or a rate below 1."""
    rates = RATES[output_stride] if given is None else tuple(given)
    if not rates or min(rates) < 1:
        raise UserError(f"atrous_rates: expected whole numbers of at least 1, got {list(rates)}")
    return rates


def conv3x3(separable: bool, depthwise_norm: bool) -> Callable[..., nn.Module]:
    """The builder of a head's 3x3 convolutions: dense, or depthwise + pointwise with one BatchNorm or two."""
    return partial(separable_conv_bn_relu, depthwise_norm=depthwise_norm) if separable else conv_bn_relu


class ImagePooling(nn.Module):
    """Mean over the image, 1x1 convolution, BatchNorm, ReLU: one vector per image. (B, in, h, w) -> (B, out, 1, 1).

    BatchNorm cannot take statistics from a single value per channel. A training step with one image therefore uses the
    running statistics here and does not update them; gradients flow as usual. With two images or more it is the plain
    layer. Without `norm` (smp's PSPNet) the convolution has a bias instead.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=not norm)
        self.bn = nn.BatchNorm2d(out_channels) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x, bn = self.conv(x.mean((2, 3), keepdim=True)), self.bn  # (B, out, 1, 1)
        if bn is None:
            return F.relu(x)
        if bn.training and x.shape[0] == 1:
            x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, training=False, eps=bn.eps)
        else:
            x = bn(x)
        return F.relu(x)


class ASPP(nn.Module):
    """1x1, one 3x3 per rate and the mean over the image in parallel, then mixed. (B, in, h, w) -> (B, out, h, w).

    The textbook expands the pooled vector p to the size of the map, concatenates it and applies the 1x1 projection W:
        y = W [b_0, b_1, .., expand(p)]
    p is constant over the image, so its part of y is constant too, a bias for each image that costs nothing:
        y = W_maps [b_0, b_1, ..] + W_pool p
    This is the same function of the same parameters (tests/models/test_deeplab.py). mmseg projects by a padded 3x3
    (project_kernel=3), for which it does not hold at the border, so that form is computed as in the textbook. mmseg
    also puts p first (pool_first=True).
    """

    textbook = False  # True: compute the formula of the paper (tests and counting tools set it)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: tuple[int, ...],
        conv: Callable[..., nn.Module] = conv_bn_relu,
        dropout: float = 0.0,
        project_kernel: int = 1,
        pool_first: bool = False,
    ) -> None:
        super().__init__()
        self.pool_first = pool_first
        branches = [conv_bn_relu(in_channels, out_channels, 1)]
        branches += [conv(in_channels, out_channels, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooling = ImagePooling(in_channels, out_channels)
        self.project = conv_bn_relu((len(branches) + 1) * out_channels, out_channels, project_kernel)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        maps, pooled = [branch(x) for branch in self.branches], self.pooling(x)
        conv, bn, relu = self.project
        if self.textbook or conv.kernel_size != (1, 1):
            everywhere = pooled.expand(-1, -1, *x.shape[-2:])  # (B, out, 1, 1) -> (B, out, h, w)
            maps = [everywhere, *maps] if self.pool_first else [*maps, everywhere]
            return self.dropout(self.project(torch.cat(maps, dim=1)))  # (B, n * out + out, h, w) -> (B, out, h, w)
        maps = torch.cat(maps, dim=1)  # (B, n * out, h, w)
        sizes = [maps.shape[1], pooled.shape[1]]
        if self.pool_first:
            w_pool, w_maps = conv.weight.split(sizes[::-1], dim=1)
        else:
            w_maps, w_pool = conv.weight.split(sizes, dim=1)
        y = F.conv2d(maps, w_maps) + F.conv2d(pooled, w_pool)  # (B, out, h, w) + (B, out, 1, 1)
        return self.dropout(relu(bn(y)))
