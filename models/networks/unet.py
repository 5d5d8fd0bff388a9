"""U-Net. Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv 1505.04597.

Like most of today's versions it differs from the paper in padded convolutions, so that input and output have the same
size, and in BatchNorm after each of them. Widths: base, 2 base, 4 base, 8 base, 16 base (64 .. 1024).

Three ways to enlarge a map: `transposed` convolutions (the paper's "up-convolution"); `bilinear` resizing with half the
channels in the deeper maps; `bilinear_conv`, resizing and then a 1x1 convolution that halves the channels. The public
forms (models/forms.py) also differ in the order of concatenation, in what they do after a pooling has rounded an odd
side down (mmseg and mateuszbuda refuse such images; here they are resized), in biases, and in a last 3x3 convolution:
  milesial, milesial_bilinear, mmseg ("s5-d16" with an FCN head), mateuszbuda (its forward ends in a sigmoid, ours in
  the logits before it), system_d. smp's U-Net takes any encoder: models/heads/unet_decoder.py.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.inference.blocks import folded_in_inference
from models.layers import conv_bn_relu, double_conv, kaiming_fan_out
from models.segmenter import prepare
from models.tensors import resize

Way = Literal["transposed", "bilinear", "bilinear_conv"]
Order = Literal["skip_first", "up_first"]
Fit = Literal["resize", "pad"]


class Up(nn.Module):
    """One step of the expanding path: enlarge x to the skip's size, concatenate the two, double convolution.

    Shapes: x (B, in, h, w), skip (B, in / 2, H, W) -> (B, out, H, W); x has only in / 2 channels if `way` is bilinear.
    If a pooling rounded an odd side down, the enlarged map is one pixel short of the skip. It is then resized to the
    skip's size, or padded with zeros below and to the right.
    """

    def __init__(
        self, in_channels: int, out_channels: int, way: Way, order: Order, fit: Fit, align_corners: bool, bias: bool
    ) -> None:
        super().__init__()
        self.order, self.fit, self.align_corners = order, fit, align_corners
        half = in_channels // 2
        self.up = nn.ConvTranspose2d(in_channels, half, 2, stride=2) if way == "transposed" else None
        self.reduce = conv_bn_relu(in_channels, half, 1, bias=bias) if way == "bilinear_conv" else nn.Identity()
        self.conv = double_conv(in_channels, out_channels, half if way == "bilinear" else None, bias)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.reduce(self.enlarge(x, skip))  # (B, in / 2, H, W)
        pair = [skip, x] if self.order == "skip_first" else [x, skip]
        return self.conv(torch.cat(pair, dim=1))  # (B, in, H, W) -> (B, out, H, W)

    def enlarge(self, x: Tensor, skip: Tensor) -> Tensor:
        height, width = skip.shape[-2:]
        if self.up is not None:
            x = self.up(x)  # (B, in / 2, 2 h, 2 w)
        if self.fit == "resize":
            return resize(x, (height, width), self.align_corners)
        if self.up is None:
            x = resize(x, (2 * x.shape[-2], 2 * x.shape[-1]), self.align_corners)
        below, right = height - x.shape[-2], width - x.shape[-1]  # 0 or 1; split as in the publisher's code
        if below == right == 0:
            return x
        return F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))


class UNet(nn.Module):
    """images (B, 3, H, W) -> {"out": logits (B, num_classes, H, W)}, any H, W >= 64.

    At base_channels 64: 31.0 M parameters with transposed convolutions, 17.3 M with bilinear resizing. `align_corners`:
    of every resize. `bias`: of the 3x3 convolutions, which BatchNorm makes redundant. `last_conv`: one more 3x3
    convolution before the classifier. `dropout`: drops whole maps before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        base_channels: int = 64,
        up: Way = "transposed",
        concat: Order = "skip_first",
        fit: Fit = "resize",
        align_corners: bool = False,
        bias: bool = False,
        last_conv: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [base_channels * 2**i for i in range(5)]
        halve = 2 if up == "bilinear" else 1  # no layer halves the channels, so the maps have half
        down = [*widths[:4], widths[4] // halve]
        outs = [widths[3] // halve, widths[2] // halve, widths[1] // halve, widths[0]]
        self.stem = double_conv(3, down[0], bias=bias)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), double_conv(a, b, bias=bias)) for a, b in zip(down, down[1:])
        )
        self.up = nn.ModuleList(Up(a, b, up, concat, fit, align_corners, bias) for a, b in zip(widths[:0:-1], outs))
        self.last = conv_bn_relu(widths[0], widths[0]) if last_conv else nn.Identity()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)
        for part in (self.stem, self.down, self.up, self.last):
            kaiming_fan_out(part, biased=True)

    @folded_in_inference
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(prepare(images))  # (B, base, H, W)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)  # H/2, H/4, H/8, H/16
        for up, skip in zip(self.up, reversed(skips)):
            x = up(x, skip)  # back to (B, base, H, W)
        return {"out": self.classifier(self.dropout(self.last(x)))}
