"""The FCN head in torchvision's form: Long et al., "Fully Convolutional Networks", arXiv 1411.4038, on one map.

Also the auxiliary head that other networks hang on an earlier stage while training (PSPNet, arXiv 1612.01105).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import conv_bn_relu


class FCNHead(nn.Module):
    """3x3 convolution to in_channels / 4, BatchNorm, ReLU, dropout, 1x1 to classes, on features[index].

    Shapes: features[index] (B, in_channels, h, w) -> (B, num_classes, h, w).
    """

    def __init__(self, in_channels: int, num_classes: int, index: int = -1, dropout: float = 0.1) -> None:
        super().__init__()
        self.index = index
        self.conv = conv_bn_relu(in_channels, in_channels // 4)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(in_channels // 4, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.conv(features[self.index])))
