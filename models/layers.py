"""The small blocks that several models share: convolution + BatchNorm + ReLU, stochastic depth, initialisation.

Shape comments, here and in all models: `# (B, C, H/4, W/4)` is the shape of what the line computes; after an arrow, the
shape of the result. A name keeps its meaning within a function. tests/models/test_shape_comments.py checks them all.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class ConvBNReLU(nn.Sequential):
    """Convolution, BatchNorm, ReLU."""


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
    """3x3 depthwise convolution, then 1x1 pointwise, one BatchNorm + ReLU: the same reach at about 1/9 of the products.

    The atrous separable convolution of DeepLabV3+ (arXiv 1802.02611). depthwise_norm: BatchNorm and ReLU behind the
    depthwise convolution too, as in mmseg. (B, in, H, W) -> (B, out, H, W).
    """
    if depthwise_norm:
        depthwise = conv_bn_relu(in_channels, in_channels, dilation=dilation, groups=in_channels)
        return nn.Sequential(depthwise, conv_bn_relu(in_channels, out_channels, 1))
    depthwise = nn.Conv2d(in_channels, in_channels, 3, 1, dilation, dilation, groups=in_channels, bias=False)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return SeparableConvBNReLU(depthwise, pointwise, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training an image's whole residual branch is zeroed with probability
    `rate` and scaled up by 1 / (1 - rate) otherwise. (B, ...) -> (B, ...). It multiplies; it skips no work."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ..): one draw an image
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """From 0 at the first block linearly to `last` at the last one."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def kaiming_fan_out(module: nn.Module, biased: bool = False) -> None:
    """He initialisation (arXiv 1502.01852) with fan-out for convolutions; norm layers start as the identity.

    Convolutions with a bias are left as torch made them unless `biased`, which zeroes their bias: in most networks they
    are the classifiers, the only ones without a norm layer behind them. Fan-out there is the number of classes, so
    He's weights would give logits several units wide, and the first steps would go into unlearning them; torch's small
    ones start near the loss of a uniform guess.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d) and (m.bias is None or biased):
            # per group: an output of a depthwise convolution hangs on kernel_size^2 weights, not on all channels
            fan_out = m.out_channels // m.groups * m.kernel_size[0] * m.kernel_size[1]
            nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)


def truncated_normal(module: nn.Module) -> None:
    """The usual start of transformers: weights of Linear layers from a normal of sigma 0.02 cut at +-2, biases zero."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
