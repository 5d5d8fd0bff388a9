"""EfficientNet as an encoder. Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
arXiv 1905.11946.

B0 is a small network found by a search; one rule makes it deeper, wider and fit for larger images at the same time (the
table at the end). Its block is MobileNetV2's inverted bottleneck (arXiv 1801.04381) with squeeze and excitation
(arXiv 1709.01507): a 1x1 convolution widens, a depthwise convolution, a weight for each channel, a 1x1 narrows.

The four maps are the last of each resolution, without the final 1x1 convolution and the classifier. Publishers have the
same parameters but differ in these options (see models/forms.py):
`bn_eps`, `bn_momentum`  1e-5 and 0.1 (torchvision, timm); 1e-3 in those that come from TensorFlow: timm's tf_ with 0.1,
                         lukemelas and smp with 0.01.
`padding`  of convolutions with stride 2. "symmetric" (torchvision, timm): kernel_size // 2 on all sides. "same"
           (timm's tf_): TensorFlow's, as little as ceil(size / 2) outputs need; an odd one goes below and right.
           "static_same" (lukemelas, smp): the same, computed for the image size the variant was made for and used for
           images of any size; odd sides may then be rounded down.
`early_stride16`  smp takes B0's map of stride 16 after the first of the three blocks with 112 channels.
`drop_path_rate`  0.2 in the original, lukemelas, smp and torchvision, 0 in timm, 0.1 here. Block i of n drops with
           drop_path_rate * i / n in all of them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import DropPath, kaiming_fan_out

Padding = Literal["symmetric", "static_same", "same"]


def same_padding(size: int, kernel_size: int) -> tuple[int, int]:
    """Zeros before and after a side of `size` pixels with which stride 2 gives ceil(size / 2), as in TensorFlow."""
    total = max((math.ceil(size / 2) - 1) * 2 + kernel_size - size, 0)
    return total // 2, total - total // 2


class ConvBN(nn.Module):
    """Convolution, BatchNorm and, with `activation`, SiLU. (B, in, H, W) -> (B, out, H / stride, W / stride).

    native: size of the input for images of the size the network was made for; "static_same" pads for this size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: bool = True,
        padding: Padding = "symmetric",
        native: int = 0,
    ) -> None:
        super().__init__()
        uneven = stride == 2 and padding != "symmetric"  # at stride 1 the three rules agree
        self.pad, self.native = padding if uneven else None, native
        inside = 0 if uneven else kernel_size // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, inside, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.SiLU(inplace=True) if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(self.padded(x))))

    def padded(self, x: Tensor) -> Tensor:
        """x with the uneven padding that nn.Conv2d cannot add."""
        if self.pad is None:
            return x
        height, width = (self.native, self.native) if self.pad == "static_same" else x.shape[-2:]
        k = self.conv.kernel_size[0]
        return F.pad(x, (*same_padding(width, k), *same_padding(height, k)))  # (B, in, H + 1 .. 4, W + 1 .. 4)


class SqueezeExcite(nn.Module):
    """Weight each channel by a number in 0..1 that two small layers compute from the means of all channels.

    Shapes: (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.expand(F.silu(self.reduce(s))).sigmoid()


class MBConv(nn.Module):
    """Widen by `ratio`, depthwise, squeeze and excite, narrow; add the input if the shape stays the same.

    Shapes: (B, in, H, W) -> (B, out, H / stride, W / stride). The last convolution has no activation: its output has
    few channels, and setting their negative half to zero would lose too much.
    """

    def __init__(
        self, in_channels: int, out_channels: int, ratio: int, kernel_size: int, stride: int, rate: float, **padding
    ) -> None:
        super().__init__()
        wide = in_channels * ratio
        self.expand = ConvBN(in_channels, wide) if ratio > 1 else nn.Identity()
        self.depthwise = ConvBN(wide, wide, kernel_size, stride, groups=wide, **padding)
        self.se = SqueezeExcite(wide, in_channels // 4)  # a quarter of the narrow input, not of the wide map
        self.project = ConvBN(wide, out_channels, activation=False)
        self.drop_path = DropPath(rate)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + self.drop_path(y) if self.residual else y


class EfficientNet(nn.Module):
    """images (B, 3, H, W) -> maps at strides 4, 8, 16, 32; B0: 24, 40, 112, 320 channels, B3: 32, 48, 136, 384.

    stem=True prepends the map of stride 2 after the first convolution (32, B3: 40 channels), as smp does; timm takes
    the one after the first stage (16, B3: 24 channels).
    """

    def __init__(
        self,
        width: float,
        depth: float,
        image_size: int,
        stem: bool = False,
        drop_path_rate: float = 0.1,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
        padding: Padding = "symmetric",
        early_stride16: bool = False,
    ) -> None:
        super().__init__()
        channels = scale_width(32, width)
        self.stem_map = stem
        self.stem = ConvBN(3, channels, 3, 2, padding=padding, native=image_size)
        self.channels, self.strides = ([channels], [2]) if stem else ([], [])
        depths = [math.ceil(depth * row[-1]) for row in B0]  # repeats round up: the paper's depth scaling
        stages, stride, block, self.taps = [], 2, 0, set()
        for i, ((ratio, kernel_size, step, out, _), repeats) in enumerate(zip(B0, depths)):
            blocks, out = [], scale_width(out, width)
            for j in range(repeats):
                pad = dict(padding=padding, native=math.ceil(image_size / stride))
                rate = drop_path_rate * block / sum(depths)
                blocks.append(MBConv(channels, out, ratio, kernel_size, step if j == 0 else 1, rate, **pad))
                channels, block = out, block + 1
            stages.append(nn.Sequential(*blocks))
            stride *= step
            if i in LAST:
                self.channels.append(channels)
                self.strides.append(stride)
                self.taps.add((i, 0 if early_stride16 and stride == 16 else repeats - 1))
        self.stages = nn.ModuleList(stages)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps, m.momentum = bn_eps, bn_momentum
        kaiming_fan_out(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)  # (B, 32 width, H/2, W/2)
        features = [x] if self.stem_map else []
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                x = block(x)
                if (i, j) in self.taps:
                    features.append(x)  # H/4, H/8, H/16, H/32
        return features


def scale_width(channels: int, width: float) -> int:
    """channels * width to the nearest multiple of 8, but never more than a tenth below."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


B0 = (  # expansion ratio, kernel size, stride of the first block, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
LAST = (1, 2, 4, 6)  # the last stage of each resolution: strides 4, 8, 16, 32

EFFICIENTNET = {  # width, depth, image size (pixels a side): roughly 1.1^phi, 1.2^phi, 1.15^phi for Bphi
    "efficientnet_b0": (1.0, 1.0, 224),
    "efficientnet_b1": (1.0, 1.1, 240),
    "efficientnet_b2": (1.1, 1.2, 260),
    "efficientnet_b3": (1.2, 1.4, 300),
}
