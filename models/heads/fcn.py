"""The FCN head in torchvision's form: Long et al., "Fully Convolutional Networks", arXiv 1411.4038, on one map.

Also the auxiliary head that other networks hang on an earlier stage while training (PSPNet, arXiv 1612.01105).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import conv_bn_relu


class FCNHead(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, dropout, 1x1 to classes, on the last map it is given.

    fcn_channels None: a quarter of the map's channels. Shapes: features[-1] (B, C, h, w) -> (B, num_classes, h, w).
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        fcn_channels: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        middle = fcn_channels or channels[-1] // 4
        self.conv = conv_bn_relu(channels[-1], middle)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(middle, num_classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.conv(features[-1])))
