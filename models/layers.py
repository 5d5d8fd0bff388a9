"""One copy of each small block that several models share.

A shape behind a line, here and in all models: `# (B, C, H/4, W/4)`, what the line computes; after an arrow, what comes
of it. Names keep their meaning within a function. tests/models/test_shape_comments.py holds every one of them against a run.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tensors import map_of, tokens_of


def conv_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
    """bn(conv(x)) + add, and relu of it. (B, in, H, W) -> (B, out, H', W'), the shape of `add`.

    In inference BatchNorm is a scale and a shift of each channel. Where the map is larger than the weights, as on the
    fine maps, the weights and the bias take them: one pass over the map less. Where it is smaller the map takes them in
    place, and a 1x1 convolution is a plain product of tokens. Compilers fold by themselves, and on CUDA it was
    never measured: the plain layers there. A deployed copy (models/inference/deploy.py) has done all this beforehand.
    """
    if hasattr(conv, "folded"):
        return conv.folded(bn, x, add, relu)
    if bn.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_cuda:
        y = bn(conv(x))
    else:
        y = _conv_bn_in_inference(conv, bn, x)
    return add_relu(y, add, relu)


def add_relu(y: Tensor, add: Tensor | None, relu: bool) -> Tensor:
    """y + add, and relu of it, in the memory of y, which must be fresh. (B, C, H, W) -> (B, C, H, W)."""
    if add is not None:
        y += add
    return F.relu_(y) if relu else y


def _conv_bn_in_inference(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    scale, shift = scale_and_shift(conv, bn)
    shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
    weights, tokens = conv.weight[0].numel(), x.shape[0] * x.shape[2:].numel() // (conv.stride[0] * conv.stride[1])
    if tokens > weights:
        return F.conv2d(x, conv.weight * scale[:, None, None, None], shift, *shape)
    if x.is_meta:  # nothing to save; tools that count see the layers by their names
        return bn(conv(x))
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1:
        y = map_of(F.linear(tokens_of(x), conv.weight.flatten(1)))  # (B, out, H, W)
    else:
        y = F.conv2d(x, conv.weight, None, *shape)
    return torch.addcmul(shift[:, None, None], y, scale[:, None, None], out=y)


def scale_and_shift(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """bn(conv(x)) in inference = scale * (conv without its bias)(x) + shift. Both (out)."""
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)  # (out)
    shift = bn.bias - bn.running_mean * scale
    return scale, shift if conv.bias is None else shift + scale * conv.bias


class ConvBNReLU(nn.Sequential):
    """A Sequential that ends in convolution, BatchNorm, activation; computed by conv_bn. Its first layer may be a
    depthwise convolution (see atrous_depthwise)."""

    def forward(self, x: Tensor) -> Tensor:
        *depthwise, conv, bn, activation = self
        for layer in depthwise:
            x = atrous_depthwise(layer, x)
        if isinstance(activation, nn.ReLU):
            return conv_bn(conv, bn, x, relu=True)
        return activation(conv_bn(conv, bn, x))


def atrous_depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x) for a 3x3 depthwise convolution padded to keep the size. (B, C, H, W) -> (B, C, H, W).

    Dilated as far as in ASPP, most taps of most pixels fall into the zero padding. In inference on a CPU, whose
    libraries have no fast kernel for this case, each of the nine taps is applied where it meets the map, and a tap that
    never does is left out: at rate 36 on a map of 16x32 pixels one of nine remains.
    """
    rate, (height, width) = conv.dilation[0], x.shape[-2:]
    if rate == 1 or torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
        return conv(x)
    taps = conv.weight.flatten(1).t()[:, :, None, None]  # (9, C, 1, 1)
    y = x * taps[4]
    for i, tap in enumerate(taps):
        dy, dx = rate * (i // 3 - 1), rate * (i % 3 - 1)  # where this tap looks, from the pixel it writes to
        if i != 4 and abs(dy) < height and abs(dx) < width:
            rows, columns = _overlap(dy, height), _overlap(dx, width)
            y[..., rows[0], columns[0]].addcmul_(x[..., rows[1], columns[1]], tap)
    return y


def _overlap(offset: int, length: int) -> tuple[slice, slice]:
    """Positions that can look `offset` further and still see the map, and the positions they see."""
    n = length - abs(offset)
    here, there = max(0, -offset), max(0, offset)
    return slice(here, here + n), slice(there, there + n)


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> ConvBNReLU:
    """Convolution + BatchNorm + ReLU; padded so that only the stride changes the size.

    BatchNorm subtracts whatever bias the convolution adds and has its own: `bias` is for networks whose files hold one.
    Shapes: (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)) for odd kernel sizes.
    """
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
    return ConvBNReLU(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def double_conv(in_channels: int, out_channels: int, middle: int | None = None, bias: bool = False) -> nn.Sequential:
    """Two 3x3 convolutions, each with BatchNorm and ReLU: the block of every U-Net. (B, in, H, W) -> (B, out, H, W)."""
    middle = middle or out_channels
    return nn.Sequential(conv_bn_relu(in_channels, middle, bias=bias), conv_bn_relu(middle, out_channels, bias=bias))


def separable_conv_bn_relu(
    in_channels: int, out_channels: int, dilation: int = 1, depthwise_norm: bool = False
) -> nn.Sequential:
    """3x3 depthwise convolution, then 1x1 pointwise, one BatchNorm + ReLU: the same reach at about 1/9 of the products.

    The atrous separable convolution of DeepLabV3+ (arXiv 1802.02611). depthwise_norm: BatchNorm and ReLU behind the
    depthwise convolution too, as in mmseg. (B, in, H, W) -> (B, out, H, W).
    """
    if depthwise_norm:
        depthwise = conv_bn_relu(in_channels, in_channels, dilation=dilation, groups=in_channels)
        return nn.Sequential(depthwise, conv_bn_relu(in_channels, out_channels, 1))
    depthwise = nn.Conv2d(in_channels, in_channels, 3, 1, dilation, dilation, groups=in_channels, bias=False)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return ConvBNReLU(depthwise, pointwise, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): in training an image's whole residual branch is zeroed with probability
    `rate` and scaled up by 1 / (1 - rate) otherwise. (B, ...) -> (B, ...). It multiplies; it skips no work."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ..): one draw an image
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


def drop_path_rates(last: float, blocks: int) -> list[float]:
    """From 0 at the first block linearly to `last` at the last one."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]


def kaiming_fan_out(module: nn.Module, biased: bool = False) -> None:
    """He initialisation (arXiv 1502.01852) with fan-out for convolutions; norm layers start as the identity.

    Convolutions with a bias are left as torch made them unless `biased`, which zeroes their bias: in most networks they
    are the classifiers, the only ones without a norm layer behind them. Fan-out there is the number of classes, so
    He's weights would give logits several units wide, and the first steps would go into unlearning them; torch's small
    ones start near the loss of a uniform guess.
    """
    for m in module.modules():
        if isinstance(m, nn.Conv2d) and (m.bias is None or biased):
            # per group: an output of a depthwise convolution hangs on kernel_size^2 weights, not on all channels
            fan_out = m.out_channels // m.groups * m.kernel_size[0] * m.kernel_size[1]
            nn.init.normal_(m.weight, std=math.sqrt(2 / fan_out))
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)


def truncated_normal(module: nn.Module) -> None:
    """The usual start of transformers: weights of Linear layers from a normal of sigma 0.02 cut at +-2, biases zero."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
