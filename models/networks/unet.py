"""U-Net. Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv 1505.04597.

Like most of today's versions it differs from the paper in padded convolutions, so that input and output have one size,
and in BatchNorm after each of them. Two ways up: transposed convolutions (the paper's "up-convolution"), or bilinear
resizing with half the channels in the deeper maps. Widths: base, 2 base, 4 base, 8 base, 16 base (64 .. 1024).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.layers import conv_bn_relu, kaiming_fan_out, resize
from models.segmenter import check_size


def double_conv(in_channels: int, out_channels: int, middle: int | None = None) -> nn.Sequential:
    """Two 3x3 convolutions, each with BatchNorm and ReLU. (B, in, H, W) -> (B, out, H, W)."""
    middle = middle or out_channels
    return nn.Sequential(conv_bn_relu(in_channels, middle), conv_bn_relu(middle, out_channels))


class Up(nn.Module):
    """One step of the expanding path: enlarge x to the skip's size, concatenate [skip, x], double convolution.

    Shapes: x (B, in, h, w), skip (B, in / 2, H, W) -> (B, out, H, W). Any H, W: where a pooling rounded an odd side
    down, the enlarged map is resized to the skip's exact size.
    """

    def __init__(self, in_channels: int, out_channels: int, up: str) -> None:
        super().__init__()
        half = in_channels // 2
        self.up = nn.ConvTranspose2d(in_channels, half, 2, stride=2) if up == "transposed" else None
        self.conv = double_conv(in_channels, out_channels, None if self.up is not None else half)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.up is not None:
            x = self.up(x)  # (B, in / 2, 2 h, 2 w)
        x = resize(x, skip.shape[-2:])  # (B, in / 2, H, W)
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """images (B, 3, H, W) -> {"out": logits (B, num_classes, H, W)}, any H, W >= 64.

    At base_channels 64: 31.0 M parameters with transposed convolutions, 17.3 M with bilinear resizing.
    """

    def __init__(self, num_classes: int, base_channels: int = 64, up: Literal["transposed", "bilinear"] = "transposed"):
        super().__init__()
        widths = [base_channels * 2**i for i in range(5)]
        halve = 2 if up == "bilinear" else 1  # without a layer that halves the channels, the maps themselves have half
        down = [*widths[:4], widths[4] // halve]
        self.stem = double_conv(3, down[0])
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), double_conv(a, b)) for a, b in zip(down, down[1:]))
        outs = [widths[3] // halve, widths[2] // halve, widths[1] // halve, widths[0]]
        self.up = nn.ModuleList(Up(a, b, up) for a, b in zip(widths[:0:-1], outs))
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        check_size(images)
        x = self.stem(images)  # (B, base, H, W)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)  # H/2, H/4, H/8, H/16
        for up, skip in zip(self.up, reversed(skips)):
            x = up(x, skip)  # back to (B, base, H, W)
        return {"out": self.classifier(x)}
