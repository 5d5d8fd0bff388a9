"""VGG-16 as an encoder. Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
arXiv 1409.1556.

3x3 convolutions and ReLUs in five groups, a 2x2 max pooling after each, no BatchNorm. Parameter names are torchvision's
(`features.N`), so its weights load unchanged, without `classifier`. As there, pooling drops an odd last row or column;
the Caffe original rounds up. The two large layers that follow belong to the head (models/heads/fcn_skips.py).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import kaiming_fan_out


class VGG(nn.Module):
    """images (B, 3, H, W) -> maps after pool2 .. pool5: strides 4, 8, 16, 32; 128, 256, 512, 512 channels.

    stem=True prepends pool1 (stride 2, 64 channels). Sizes are rounded down. base_channels: width of the first group.
    """

    def __init__(self, depths: tuple[int, ...], stem: bool = False, base_channels: int = 64) -> None:
        super().__init__()
        self.stem = stem
        widths = [base_channels * factor for factor in (1, 2, 4, 8, 8)]
        layers, channels = [], 3
        for depth, width in zip(depths, widths):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        first = 0 if stem else 1
        self.channels, self.strides = widths[first:], [2, 4, 8, 16, 32][first:]
        kaiming_fan_out(self, biased=True)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)  # H/2, H/4, H/8, H/16, H/32
        return maps if self.stem else maps[1:]


VGG_DEPTHS = {  # convolutions in each group
    "vgg16": ((2, 2, 3, 3, 3),),
}
