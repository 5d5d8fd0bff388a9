"""BetterSegNetwork: a VGG-like network with shortcuts, a dilated last stage and a U-Net's expanding path.

It has no paper: it is a student's entry to a road segmentation competition (system B), trained on 150 images of
375x1242 resized to 256x864. Its parts come from VGG (Simonyan and Zisserman, arXiv 1409.1556), the 1x1 shortcuts
of ResNet (He et al., arXiv 1512.03385), dilation in place of a fifth pooling (Yu and Koltun, arXiv 1511.07122) and
U-Net (Ronneberger et al., arXiv 1505.04597).

The original writes out its layers one by one (`conv1_1`, `gn1_1` for a BatchNorm, ..); here they are a table, a block
and a loop with the same parameters. It enlarges the last map by a factor of 2, which makes an odd side one pixel too
long; here the map is resized to the images, which is the same function for even sides.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError
from models.inference.blocks import folded_in_inference
from models.layers import conv_bn_relu, double_conv, kaiming_fan_out
from models.segmenter import prepare
from models.tensors import resize

STAGES = (  # convolutions, width (x base_channels), dilation, dropout (x the option's rate)
    (2, 1, 1, 0),
    (2, 2, 1, 0),
    (3, 4, 1, 0),
    (3, 8, 1, 1),
    (3, 16, 2, 2),
)


def conv_block(in_channels: int, out_channels: int, dilation: int = 1, dropout: float = 0.0) -> nn.Sequential:
    """3x3 convolution with a bias, BatchNorm, ReLU; whole maps dropped with probability `dropout`."""
    return nn.Sequential(conv_bn_relu(in_channels, out_channels, dilation=dilation, bias=True), nn.Dropout2d(dropout))


class Stage(nn.Module):
    """`depth` convolution blocks and a shortcut around all of them. (B, in, H, W) -> (B, out, H, W).

    The shortcut is a 1x1 convolution, added after the last ReLU: unlike in a ResNet, the sum may be negative.
    """

    def __init__(self, in_channels: int, out_channels: int, depth: int, dilation: int, dropout: float) -> None:
        super().__init__()
        inputs = [in_channels] + [out_channels] * (depth - 1)
        self.convs = nn.Sequential(*[conv_block(c, out_channels, dilation, dropout) for c in inputs])
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x) + self.shortcut(x)


class Up(nn.Module):
    """Bilinear to the skip's size, concatenate [x, skip], two convolutions. -> (B, out, H, W) of the skip."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = double_conv(in_channels + skip_channels, out_channels, bias=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = resize(x, skip.shape[-2:])  # (B, in, H, W)
        return self.conv(torch.cat([x, skip], dim=1))  # (B, in + skip, H, W) -> (B, out, H, W)


class BetterSegNetwork(nn.Module):
    """images (B, 3, H, W) -> {"out": logits (B, num_classes, H, W)}, any H, W >= 64.

    49,305,075 parameters at 19 classes. Stages 1..4 end in 2x2 poolings that round up (1/2 .. 1/16), and the pooled
    maps are the skips; stage 5 stays at 1/16. dropout: the rate in stage 4 and before the classifier; stage 5 drops
    at twice the rate. Raises: UserError for a rate of 0.5 and above, which would drop all maps of stage 5.
    """

    def __init__(self, num_classes: int, base_channels: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        if dropout >= 0.5:
            raise UserError(f"dropout of better_seg_network: expected below 0.5 (stage 5 doubles it), got {dropout}")
        widths = [base_channels * row[1] for row in STAGES]
        self.stages = nn.ModuleList(
            Stage(c, out, depth, dilation, drop * dropout)
            for c, out, (depth, _, dilation, drop) in zip([3, *widths], widths, STAGES)
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        *skips, deepest = widths
        outs = skips[::-1]  # each step up leaves as many channels as its skip has
        self.center = nn.Sequential(conv_block(deepest, outs[0], dilation=4), conv_block(outs[0], outs[0], dilation=4))
        self.up = nn.ModuleList(Up(c, out, out) for c, out in zip([outs[0], *outs], outs))
        half = max(base_channels // 2, 1)
        self.last = nn.Sequential(
            conv_block(base_channels, base_channels),
            conv_block(base_channels, base_channels, dropout=dropout),
            conv_block(base_channels, half),
            conv_block(half, half, dropout=dropout),
        )
        self.classifier = nn.Conv2d(half, num_classes, 1)
        for part in (self.stages, self.center, self.up, self.last):
            kaiming_fan_out(part, biased=True)

    @folded_in_inference
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x, skips = prepare(images), []
        for stage in self.stages[:-1]:
            x = self.pool(stage(x))  # H/2, H/4, H/8, H/16, rounded up
            skips.append(x)
        x = self.center(self.stages[-1](x))  # (B, 8 base, H/16, W/16)
        for up, skip in zip(self.up, reversed(skips)):  # the first skip has the size of x: the input of stage 5
            x = up(x, skip)  # back to (B, base, H/2, W/2)
        x = resize(x, images.shape[-2:])  # (B, base, H, W)
        return {"out": self.classifier(self.last(x))}
