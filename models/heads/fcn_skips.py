"""FCN-32s, FCN-16s and FCN-8s, the classic. Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic
Segmentation", arXiv 1411.4038.

The fully connected layers of a classifier are convolutions: the first, on VGG's 7x7 map, is a 7x7 convolution (fc6),
the second a 1x1 (fc7), and they take images of any size. A 1x1 scores the classes at stride 32. FCN-16s doubles the
size of these scores and adds scores of the map of stride 16; FCN-8s does so once more with stride 8.

A transposed convolution doubles the size. It starts as bilinear interpolation and is trained. The last enlargement, by
32, 16 or 8, is bilinear and fixed in the paper; here it is the resizing that ends every model (models/segmenter.py),
which differs only at the border, where a transposed convolution mixes in zeros.

The original does not pad fc6 but pads the image by 100 pixels on each side, so that something is left of a small image,
and crops the result. Padding fc6 by 3 keeps maps and image aligned at any size, for less work.
"""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.layers import bilinear_
from models.tensors import resize


class Up(nn.Module):
    """Double the size of x, resize to the size of `skip`, add. (B, C, h, w), (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
        bilinear_(self.conv.weight)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = resize(self.conv(x), skip.shape[-2:])  # (B, C, 2h, 2w), then one row or column more or less where odd
        return x + skip


class FCNSkipsHead(nn.Module):
    """features -> logits at stride `finest` (B, num_classes, H / finest, W / finest).

    fc_channels: 4096 as in VGG; then fc6 has 103 million weights. Raises: UserError if the encoder lacks a map of a
    needed stride (32, 16, 8), as dilated encoders do.
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        finest: Literal[32, 16, 8] = 8,
        fc_channels: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        needed = [stride for stride in (32, 16, 8) if stride >= finest]
        missing = [stride for stride in needed if stride not in strides]
        if missing:
            raise UserError(f"finest={finest}: expected maps of strides {needed}, the encoder has {strides}")
        self.levels = [strides.index(stride) for stride in needed]
        self.fc6 = nn.Conv2d(channels[self.levels[0]], fc_channels, 7, padding=3)
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, 1)
        self.dropout = nn.Dropout(dropout)
        inputs = [fc_channels, *[channels[level] for level in self.levels[1:]]]
        self.scores = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in inputs)
        self.ups = nn.ModuleList(Up(num_classes) for _ in inputs[1:])
        for conv in (self.fc6, self.fc7):
            nn.init.normal_(conv.weight, std=math.sqrt(2 / conv.weight[0].numel()))  # He, fan-in
            nn.init.zeros_(conv.bias)
        for conv in self.scores:  # the paper starts at zero; with small weights the layers below learn at once
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[self.levels[0]]
        x = self.dropout(F.relu(self.fc6(x)))  # (B, fc, H/32, W/32)
        x = self.dropout(F.relu(self.fc7(x)))
        x = self.scores[0](x)  # (B, num_classes, H/32, W/32)
        for level, score, up in zip(self.levels[1:], self.scores[1:], self.ups):
            x = up(x, score(features[level]))  # (B, num_classes, H / s, W / s), s = 16, then 8
        return x
