"""The FCN head of today's CNNs: 3x3 convolutions on one map. Long et al., "Fully Convolutional Networks for Semantic
Segmentation", arXiv 1411.4038; their own network, with skips, is in fcn_skips.py.

Public forms: torchvision's (one convolution, a quarter of the map's channels); mmseg's (two of 512 channels, then a
third on their output concatenated with the map). It is also the auxiliary head that other networks put on an earlier
stage for training (PSPNet, arXiv 1612.01105).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import conv_bn_relu, kaiming_fan_out


class FCNHead(nn.Module):
    """features -> (B, num_classes, h, w) of the last map, which is the only one used.

    fcn_channels None: a quarter of the map's channels. num_convs: the number of 3x3 convolutions with BatchNorm and
    ReLU. concat_input: one more convolution on their output concatenated with the map.
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        fcn_channels: int | None = None,
        num_convs: int = 1,
        concat_input: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        width = fcn_channels or channels[-1] // 4
        self.convs = nn.Sequential(*[conv_bn_relu(width if i else channels[-1], width) for i in range(num_convs)])
        self.mix = conv_bn_relu(channels[-1] + width, width) if concat_input else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.convs(features[-1])  # (B, width, h, w)
        if self.mix is not None:
            x = self.mix(torch.cat([features[-1], x], dim=1))  # (B, channels + width, h, w) -> (B, width, h, w)
        return self.classifier(self.dropout(x))
