"""The heads of DeepLabV3 and DeepLabV3+, both around ASPP (aspp.py).

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587, and "Encoder-Decoder
with Atrous Separable Convolution for Semantic Image Segmentation", arXiv 1802.02611.

Public forms (options in models/forms.py): the DeepLabV3 of torchvision, VainF and smp differ only in dropout, in the
encoder's dilation and in the last upsampling. DeepLabV3+ is dense with one 3x3 in the decoder and the low-level map
first (VainF), separable with one more convolution after ASPP and rates 12, 24, 36 at stride 16 (smp), separable with
BatchNorm after every part, a 3x3 projection and 512 channels (mmseg), or dense with two 3x3 at stride 8 (system D).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.heads.aspp import ASPP, conv3x3, rates_for
from models.layers import conv_bn_relu, kaiming_fan_out
from models.tensors import resize


class DeepLabV3Head(nn.Module):
    """ASPP on the last map, a 3x3 convolution, 1x1 to classes. features -> (B, num_classes, h, w) of the last map.

    The defaults are torchvision's. atrous_rates None: RATES for the stride of the last map.
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
        conv = conv3x3(separable, depthwise_norm=False)
        self.aspp = ASPP(channels[-1], aspp_channels, rates_for(atrous_rates, strides[-1]), conv, dropout)
        self.conv = conv(aspp_channels, decoder_channels)
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.classifier(self.conv(self.aspp(features[-1])))


class DeepLabV3PlusHead(nn.Module):
    """ASPP on the last map, enlarged and concatenated with the map of stride 4. -> (B, num_classes, H/4, W/4).

    A 1x1 convolution first reduces the low-level map to few channels, so that it sharpens borders but does not outweigh
    the richer map. `aspp_conv`: a 3x3 convolution after ASPP; `decoder_convs`: the number of 3x3 convolutions after
    concatenation. `dropout` acts after ASPP, `final_dropout` drops whole maps before the classifier.
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
        depthwise_norm: bool = False,
        project_kernel: Literal[1, 3] = 1,
        pool_first: bool = False,
        concat: Literal["aspp_first", "low_first"] = "aspp_first",
        align_corners: bool = False,
        dropout: float = 0.1,
        final_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        conv, rates = conv3x3(separable, depthwise_norm), rates_for(atrous_rates, strides[-1])
        self.low, self.concat, self.align_corners = strides.index(4), concat, align_corners
        self.aspp = ASPP(channels[-1], aspp_channels, rates, conv, dropout, project_kernel, pool_first)
        self.aspp_conv = conv(aspp_channels, aspp_channels) if aspp_conv else nn.Identity()
        self.low_level = conv_bn_relu(channels[self.low], low_level_channels, 1)
        widths = [aspp_channels + low_level_channels, *[decoder_channels] * decoder_convs]
        self.decoder = nn.Sequential(*[conv(a, b) for a, b in zip(widths, widths[1:])])
        self.dropout = nn.Dropout2d(final_dropout)
        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        low = self.low_level(features[self.low])  # (B, low, H/4, W/4)
        x = self.aspp_conv(self.aspp(features[-1]))  # (B, aspp, h, w)
        x = resize(x, low.shape[-2:], self.align_corners)  # (B, aspp, H/4, W/4)
        pair = [x, low] if self.concat == "aspp_first" else [low, x]
        x = self.decoder(torch.cat(pair, dim=1))  # (B, aspp + low, H/4, W/4) -> (B, decoder, H/4, W/4)
        return self.classifier(self.dropout(x))
