"""A convolution and the BatchNorm behind it, with everything done once that depends on the weights alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.inference import winograd
from models.inference.fold import add_relu, scale_and_shift


class PreparedConv(nn.Conv2d):
    """bn(conv(x)) + add, then ReLU where asked for; without gradients. Its weights must not change any more.

    The first call chooses the fastest of three ways for maps of that size; the result is right for maps of any size.
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d) -> None:
        self.__dict__ = conv.__dict__ | {"bn": bn, "way": None}  # the same parameters and settings as `conv`

    def forward(self, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
        if self.way is None:
            self._prepare(x)
        if self.way == "mkldnn":
            return mkldnn_conv(x, self.filters, self.shift, geometry(self), add, relu)
        if self.way == "winograd":
            y = winograd.conv3x3(x, self.filters, self.dilation[0]).add_(self.shift[:, None, None])
        else:
            y = F.conv2d(x, self.filters, self.shift, self.stride, self.padding, self.dilation, self.groups)
        return add_relu(y, add, relu)

    def _prepare(self, x: Tensor) -> None:
        scale, self.shift = scale_and_shift(self, self.bn)
        weight = (self.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        if winograd.pays(self, x):
            self.way, self.filters = "winograd", winograd.transform_filters(weight)
        elif weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            self.way, self.filters = "mkldnn", reordered(weight, geometry(self), x.shape)
        else:
            self.way, self.filters = "plain", weight
        self.weight = None  # not needed any more, and as large as the filters


def geometry(conv: nn.Conv2d) -> tuple:
    """In the order of mkldnn's functions."""
    return conv.padding, conv.stride, conv.dilation, conv.groups


def reordered(weight: Tensor, geometry: tuple, size: torch.Size) -> Tensor:
    """The weights in the order in which mkldnn's kernel reads them: best for maps of `size`, right for any."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(size))


def mkldnn_conv(x: Tensor, weight: Tensor, bias: Tensor, geometry: tuple, add: Tensor | None, relu: bool) -> Tensor:
    """Convolution with reordered weights, as torch.compile emits it; torch has no public function for this.

    The sum and the ReLU are computed while the result is written.
    """
    kernel = torch.ops.mkldnn._convolution_pointwise
    if add is None:
        return kernel(x, weight, bias, *geometry, "relu" if relu else "none", [], "")
    return kernel.binary(x, add, weight, bias, *geometry, "add", 1.0, "relu" if relu else None, [], None)
