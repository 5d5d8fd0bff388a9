"""One copy of each small block that several models share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution (no bias: BatchNorm has one) + BatchNorm + ReLU; padded so that only the stride changes the size.

    Shapes: (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)) for odd kernel sizes.
    """
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def separable_conv_bn_relu(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """3x3 depthwise convolution, then 1x1 pointwise, one BatchNorm + ReLU: the same reach at about 1/9 of the products.

    The atrous separable convolution of DeepLabV3+ (arXiv 1802.02611). (B, in, H, W) -> (B, out, H, W).
    """
    depthwise = nn.Conv2d(in_channels, in_channels, 3, 1, dilation, dilation, groups=in_channels, bias=False)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(depthwise, pointwise, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Bilinear, to size (H, W); nothing is done (nor copied) where it already fits."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def kaiming_fan_out(module: nn.Module) -> None:
    """He initialisation (arXiv 1502.01852) with fan-out for convolutions; norm layers start as the identity.

    Convolutions with a bias are left as torch made them: here these are the classifiers, the only ones without a norm
    layer behind them. Fan-out there is the number of classes, so He's weights would give logits several units wide,
    and the first steps would go into unlearning them; torch's small ones start near the loss of a uniform guess.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d) and m.bias is None:
            # per group: an output of a depthwise convolution hangs on kernel_size^2 weights, not on all channels
            fan_out = m.out_channels // m.groups * m.kernel_size[0] * m.kernel_size[1]
            nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
