"""The basic segmentation network: convolutions and poolings down, transposed convolutions up. The baseline to beat.

No paper: the simplest network of a students' project on KITTI (system E). It is fully convolutional in the manner of
Long et al., "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038, without its skips: what the four
poolings lose is gone, so thin things vanish. No BatchNorm either.

Odd things are the original's and are kept, for its weights. The 3x3 convolution after the last pooling has no padding,
so the map loses a frame one wide; and the transposed convolutions (kernel 4, stride 2, no bias) pad in three ways
(2 h + 3, 2 h + 2, 2 h), which together give that frame back: 8 times the pooled size, stretched onto the images with
align_corners. But the row and column that `output_padding` adds are reached by no tap: along the lower and right edge
the logits are exactly 0, for the last 3 of the 8 ceil(H/16) rows and columns. The original stretches to the one size of
its config (256x864) and its framework goes on to the images from there; here it is one step, for any size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import kaiming_fan_out
from models.segmenter import prepare
from models.tensors import resize

STAGES = ((1, 1), (2,), (4,), (8,))  # convolutions of each stage: their widths (x base_channels); then a 2x2 pooling
DEEPEST = 32  # width (x base_channels) at 1/16
UP = (dict(output_padding=1), dict(), dict(padding=1))  # the three transposed convolutions


def conv_relu(in_channels: int, out_channels: int, kernel_size: int = 3, padding: int = 1) -> nn.Sequential:
    """Convolution + ReLU; padding 1 keeps the size of a 3x3."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding), nn.ReLU(inplace=True))


class BasicSegNetwork(nn.Module):
    """images (B, 3, H, W) -> {"out": logits (B, num_classes, H, W)}, any H, W >= 64.

    15,279,747 parameters at 19 classes. dropout: the share of the 2048 deepest maps dropped, twice, while training.
    """

    def __init__(self, num_classes: int, base_channels: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        stages, channels = [], 3
        for row in STAGES:
            widths = [base_channels * n for n in row]
            convs = [conv_relu(a, b) for a, b in zip([channels, *widths], widths)]
            stages.append(nn.Sequential(*convs, nn.MaxPool2d(2, ceil_mode=True)))
            channels = widths[-1]
        self.stages = nn.Sequential(*stages)
        deepest = base_channels * DEEPEST
        self.deep = nn.Sequential(
            *conv_relu(channels, deepest, padding=0),
            nn.Dropout2d(dropout),
            *conv_relu(deepest, deepest, kernel_size=1, padding=0),
            nn.Dropout2d(dropout),
        )
        self.classifier = nn.Conv2d(deepest, num_classes, 1)
        self.up = nn.Sequential(*[nn.ConvTranspose2d(num_classes, num_classes, 4, 2, bias=False, **row) for row in UP])
        kaiming_fan_out(self.stages, biased=True)
        kaiming_fan_out(self.deep, biased=True)
        for up in self.up:
            bilinear_(up.weight)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.deep(self.stages(prepare(images)))  # (B, 32 base, ceil(H/16) - 2, ceil(W/16) - 2)
        x = self.up(self.classifier(x))  # (B, num_classes, 8 ceil(H/16), 8 ceil(W/16)), about H/2
        return {"out": resize(x, images.shape[-2:], align_corners=True)}


def bilinear_(weight: Tensor) -> None:
    """Start a transposed convolution (kernel 4, stride 2) as bilinear enlarging of each class by itself.

    As in arXiv 1411.4038; each output is the sum of two taps a side, with weights 1/4 and 3/4.
    """
    line = torch.tensor([0.25, 0.75, 0.75, 0.25], device=weight.device)
    with torch.no_grad():
        weight.zero_()
        classes = range(weight.shape[0])
        weight[classes, classes] = line[:, None] * line  # (C, C, 4, 4)[c, c] = (4, 4)
