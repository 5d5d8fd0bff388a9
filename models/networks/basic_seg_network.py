"""The basic segmentation network: convolutions and poolings down, transposed convolutions up. The simplest baseline.

It has no paper: it is the simplest network of a students' project on KITTI (system E). It is fully convolutional as in
Long et al., "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038, but without skips, so thin
objects are lost in the four poolings. It has no BatchNorm.

Some oddities of the original are kept so that its weights work. The 3x3 convolution after the last pooling has no
padding, so the map loses one pixel on each side. The transposed convolutions (kernel 4, stride 2, no bias) pad in three
ways (2 h + 3, 2 h + 2, 2 h), which together restore these pixels: 8 times the pooled size, resized to the images with
align_corners. No tap reaches the row and column that `output_padding` adds: at the lower and right edge the logits are
exactly 0 for the last 3 of the 8 ceil(H/16) rows and columns. The original resizes to the size in its config (256x864)
and its framework then to the images; here it is one step for any size.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import bilinear_, kaiming_fan_out
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

    15,279,747 parameters at 19 classes. dropout: the rate, twice, for the 2048 deepest maps.
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
