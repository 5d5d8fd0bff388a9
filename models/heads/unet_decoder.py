"""U-Net's expanding path as a head for any encoder, in the form of segmentation_models_pytorch (smp).

U-Net: Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation", arXiv 1505.04597.
Here the contracting path is an encoder, which may be pretrained; the original network is models/networks/unet.py.
As in smp: nearest-neighbour enlarging (`interpolation`), concatenation as [x, skip], a 3x3 classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.layers import double_conv, kaiming_fan_out

Interpolation = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area"]


class Up(nn.Module):
    """Enlarge x to `size`, concatenate [x, skip] if there is a skip, two convolutions. -> (B, out, *size)."""

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, interpolation: Interpolation = "nearest"
    ) -> None:
        super().__init__()
        self.interpolation = interpolation
        self.conv = double_conv(in_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, size: Sequence[int], skip: Tensor | None) -> Tensor:
        if tuple(x.shape[-2:]) != tuple(size):
            x = F.interpolate(x, size=tuple(size), mode=self.interpolation)  # (B, in, *size)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)  # (B, in + skip, *size)
        return self.conv(x)


class UNetDecoder(nn.Module):
    """features, size of the images (H, W) -> logits (B, num_classes, H, W): one block per halving, back to full size.

    Each map but the last is the skip of one block; the blocks after the finest map only enlarge. Without `size` the
    last block doubles, which is right for even sides. decoder_widths: channels of the blocks, deepest first.
    Raises: UserError unless there are as many widths as blocks: five for maps of strides 2..32 and of 4..32.
    """

    full_size = True  # the caller passes the size of the images: a halved map does not show whether a side was odd

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        decoder_widths: tuple[int, ...] = (256, 128, 64, 32, 16),
        interpolation: Interpolation = "nearest",
    ) -> None:
        super().__init__()
        skips = [*channels[-2::-1], *[0] * int(math.log2(strides[0]))]  # channels, deepest first
        widths = tuple(decoder_widths)
        if len(widths) != len(skips) or min(widths) < 1:
            raise UserError(f"decoder_widths: expected {len(skips)} whole numbers of at least 1, got {list(widths)}")
        inputs = [channels[-1], *widths]
        self.blocks = nn.ModuleList(Up(*row, interpolation) for row in zip(inputs, skips, widths))
        self.classifier = nn.Conv2d(widths[-1], num_classes, 3, padding=1)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor], size: Sequence[int] | None = None) -> Tensor:
        x, skips = features[-1], features[-2::-1]
        for i, block in enumerate(self.blocks):
            skip = skips[i] if i < len(skips) else None
            if skip is not None:
                target = skip.shape[-2:]
            elif size is not None and i == len(self.blocks) - 1:
                target = size
            else:
                target = (2 * x.shape[-2], 2 * x.shape[-1])
            x = block(x, target, skip)
        return self.classifier(x)
