"""DeepLabV3 (arXiv 1706.05587) and DeepLabV3+ (arXiv 1802.02611), both around ASPP.

Options reproduce the public forms: torchvision's DeepLabV3; for DeepLabV3+ dense or separable convolutions, one or two
of them in the decoder, and the order in which ASPP's output and the low-level map are concatenated.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.errors import UserError
from models.layers import conv_bn_relu, kaiming_fan_out, resize, separable_conv_bn_relu

RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # per output stride: the same reach in pixels of the image


def _rates(given: tuple[int, ...] | None, output_stride: int) -> tuple[int, ...]:
    rates = RATES[output_stride] if given is None else tuple(given)
    if not rates or min(rates) < 1:
        raise UserError(f"atrous_rates: expected whole numbers of at least 1, got {list(rates)}")
    return rates


class ImagePooling(nn.Module):
    """Mean over the image, 1x1 convolution, BatchNorm, ReLU: one vector an image. (B, in, h, w) -> (B, out, 1, 1).

    BatchNorm cannot take statistics from a single value per channel, so a training step with one image uses the running
    statistics here and leaves them as they are; gradients flow as usual. From two images on it is the plain layer.
    torchvision keeps the same parameters in `convs[-1]` as `1` (convolution) and `2` (BatchNorm).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.mean((2, 3), keepdim=True))  # (B, out, 1, 1)
        bn = self.bn
        if bn.training and x.shape[0] == 1:
            x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, training=False, eps=bn.eps)
        else:
            x = bn(x)
        return F.relu(x)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLabV3, arXiv 1706.05587): 1x1, one 3x3 per rate, the mean; 1x1 over all.

    The textbook expands the pooled vector p to the map's size, concatenates it and applies the 1x1 projection W:
        y = W [b_0, b_1, .., expand(p)]
    p is constant over the image, so its share of y is constant too: a bias per image, which costs nothing:
        y = W_maps [b_0, b_1, ..] + W_pool p
    Same parameters, same function (tests/test_models.py). Shapes: (B, in, h, w) -> (B, out, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...], separable: bool, dropout: float):
        super().__init__()
        conv = separable_conv_bn_relu if separable else conv_bn_relu
        branches = [conv_bn_relu(in_channels, out_channels, 1)]
        branches += [conv(in_channels, out_channels, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.pooling = ImagePooling(in_channels, out_channels)
        self.project = conv_bn_relu((len(branches) + 1) * out_channels, out_channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.cat([branch(x) for branch in self.branches], dim=1)  # (B, n * out, h, w)
        conv, bn, relu = self.project
        w_maps, w_pool = conv.weight.split([maps.shape[1], conv.weight.shape[1] - maps.shape[1]], dim=1)
        y = F.conv2d(maps, w_maps) + F.conv2d(self.pooling(x), w_pool)  # (B, out, h, w) + (B, out, 1, 1)
        return self.dropout(relu(bn(y)))


class DeepLabV3Head(nn.Module):
    """ASPP on the last map, a 3x3 convolution, 1x1 to classes. features -> (B, num_classes, h, w) of the last map.

    The defaults are torchvision's. atrous_rates None: RATES of the last map's stride.
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        atrous_rates: tuple[int, ...] | None = None,
        aspp_channels: int = 256,
        decoder_channels: int = 256,
        separable: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.aspp = ASPP(channels[-1], aspp_channels, _rates(atrous_rates, strides[-1]), separable, dropout)
        self.conv = (separable_conv_bn_relu if separable else conv_bn_relu)(aspp_channels, decoder_channels)
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.conv(self.aspp(features[-1])))


class DeepLabV3PlusHead(nn.Module):
    """ASPP on the last map, enlarged and joined with the first: features -> (B, num_classes, H/4, W/4).

    The decoder of DeepLabV3+ (arXiv 1802.02611): the low-level map is first reduced to few channels by a 1x1, so that
    it sharpens borders without drowning the richer map. `aspp_conv` adds a 3x3 convolution to ASPP's output before it
    is enlarged; `decoder_convs` counts the 3x3 convolutions after joining. Known forms (decoder_convs, concat, others):
    system D (2, aspp_first, whole-stage dilation); VainF (1, low_first); smp (1, aspp_first, separable, aspp_conv).
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        atrous_rates: tuple[int, ...] | None = None,
        aspp_channels: int = 256,
        decoder_channels: int = 256,
        low_level_channels: int = 48,
        decoder_convs: int = 2,
        aspp_conv: bool = False,
        separable: bool = False,
        concat: Literal["aspp_first", "low_first"] = "aspp_first",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        conv = separable_conv_bn_relu if separable else conv_bn_relu
        self.concat = concat
        self.aspp = ASPP(channels[-1], aspp_channels, _rates(atrous_rates, strides[-1]), separable, dropout)
        self.aspp_conv = conv(aspp_channels, aspp_channels) if aspp_conv else nn.Identity()
        self.low = strides.index(4)
        self.low_level = conv_bn_relu(channels[self.low], low_level_channels, 1)
        widths = [aspp_channels + low_level_channels, *[decoder_channels] * decoder_convs]
        self.decoder = nn.Sequential(*[conv(a, b) for a, b in zip(widths, widths[1:])])
        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        low = self.low_level(features[self.low])  # (B, low, H/4, W/4)
        x = resize(self.aspp_conv(self.aspp(features[-1])), low.shape[-2:])  # (B, aspp, H/4, W/4)
        pair = [x, low] if self.concat == "aspp_first" else [low, x]
        return self.classifier(self.decoder(torch.cat(pair, dim=1)))
