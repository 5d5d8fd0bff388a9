"""The small blocks that several models share: convolution + BatchNorm + ReLU, stochastic depth, initialisation.

Shape comments, here and in all models: `# (B, C, H/4, W/4)` is the shape of what the line computes; after an arrow, the
shape of the result. A name keeps its meaning within a function. tests/models/test_shape_comments.py checks them all.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ConvBNReLU(nn.Sequential):
    """Convolution, BatchNorm, ReLU: an nn.Sequential with a name, by which models/inference/blocks.py finds it."""


class SeparableConvBNReLU(nn.Sequential):
    """Depthwise convolution, pointwise convolution, BatchNorm, ReLU."""


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> ConvBNReLU:
    """Convolution, BatchNorm, ReLU, padded so that only the stride changes the size.

    BatchNorm subtracts any bias of the convolution and adds its own; `bias` is for networks whose files hold one.
    Shapes: (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)) for odd kernel sizes.
    """
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
    return ConvBNReLU(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def double_conv(in_channels: int, out_channels: int, middle: int | None = None, bias: bool = False) -> nn.Sequential:
    """Two 3x3 convolutions, each with BatchNorm and ReLU: the block of every U-Net. (B, in, H, W) -> (B, out, H, W)."""
    middle = middle or out_channels
    return nn.Sequential(conv_bn_relu(in_channels, middle, bias=bias), conv_bn_relu(middle, out_channels, bias=bias))


def separable_conv_bn_relu(
    in_channels: int, out_channels: int, dilation: int = 1, depthwise_norm: bool = False
) -> nn.Sequential:
    """3x3 depthwise convolution, 1x1 pointwise convolution, BatchNorm, ReLU: about 1/9 of the cost of a dense 3x3.

    The atrous separable convolution of DeepLabV3+ (arXiv 1802.02611). depthwise_norm: BatchNorm and ReLU after the
    depthwise convolution too, as in mmseg. (B, in, H, W) -> (B, out, H, W).
    """
    if depthwise_norm:
        depthwise = conv_bn_relu(in_channels, in_channels, dilation=dilation, groups=in_channels)
        return nn.Sequential(depthwise, conv_bn_relu(in_channels, out_channels, 1))
    depthwise = nn.Conv2d(in_channels, in_channels, 3, 1, dilation, dilation, groups=in_channels, bias=False)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return SeparableConvBNReLU(depthwise, pointwise, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382). In training, zero the residual branch of an image with probability `rate`,
    else scale it by 1 / (1 - rate). (B, ...) -> (B, ...). The branch is computed either way."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ..): one draw per image
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """The rate of each block: from 0 at the first linearly to `last` at the last."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def kaiming_fan_out(module: nn.Module, biased: bool = False) -> None:
    """He initialisation (arXiv 1502.01852) with fan-out for convolutions; BatchNorm starts as the identity.

    Convolutions with a bias keep torch's initialisation unless `biased`, which also zeroes the bias. In most networks
    they are the classifiers, the only ones without BatchNorm after them. Their fan-out is the number of classes:
    He's weights would give logits several units wide, which the first steps would have to unlearn, while torch's small
    weights start near the loss of a uniform guess.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d) and (m.bias is None or biased):
            # per group: an output of a depthwise convolution depends on kernel_size^2 weights, not on all channels
            fan_out = m.out_channels // m.groups * m.kernel_size[0] * m.kernel_size[1]
            nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)


def truncated_normal(module: nn.Module) -> None:
    """The usual initialisation of transformers: Linear weights from a normal of sigma 0.02 cut at +-2, biases zero."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def bilinear_(weight: Tensor) -> None:
    """Initialise a transposed convolution (kernel 4, stride 2) as bilinear interpolation of each class on its own.

    As in arXiv 1411.4038: each output lies at 1/4 or 3/4 between two inputs on each axis. weight: (C, C, 4, 4).
    """
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25], device=weight.device)
    classes = range(weight.shape[0])
    with torch.no_grad():
        weight.zero_()
        weight[classes, classes] = taps[:, None] * taps  # (C, C, 4, 4)[c, c] = (4, 4)
