"""A 3x3 convolution with 16 products where the definition takes 36. Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", arXiv 1509.09308: F(2x2, 3x3), Winograd's minimal filtering in two dimensions.

A tile of 2x2 outputs reads a patch d of 4x4 inputs. By the definition each output takes 9 products, a tile 36. In
another basis of patches and filters g a tile takes 16 products, one for each place of the patch:

    y = A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

          1  0 -1  0           1    0    0           1  1  1  0
    B^T = 0  1  1  0     G =  1/2  1/2  1/2    A^T = 0  1 -1 -1
          0 -1  1  0          1/2 -1/2  1/2
          0  1  0 -1           0    0    1

The changes of basis are sums. Their cost grows with the number of channels, the cost of the products with its square,
so this pays for maps of many channels. Changing the basis of the filters in every call would cost what it saves at
256x512 pixels, so only a deployed copy (models/inference/deploy.py) uses it: there it is done once. The result is that
of a direct convolution, with rounding errors of the same size (tests/models/test_deploy.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.tensors import map_of

G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
SCRATCH = 1 << 21  # numbers in the transformed patches of a few rows of tiles (8 MiB in float32), to stay in the caches


def pays(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether conv(x) can be computed this way, and faster.

    The bounds come from benchmarks/winograd.py on two cores of an AVX-512 CPU. With 256 channels on both sides this is
    no faster, with 512 it takes 0.8 of the time, from 2048 to 512 channels 0.6. With fewer than 64 tiles, reading the
    filters (16 numbers each) takes longest; on grids of a few rows (see conv3x3) most of a tile is padding.
    """
    large_enough = x[:, 0].numel() >= 4 * 64 and min(x.shape[2:]) >= 8 * conv.dilation[0]
    rate, fan_in, fan_out = conv.dilation[0], conv.in_channels, conv.out_channels
    plain = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.groups == 1
    same = conv.padding == conv.dilation == (rate, rate)
    return plain and same and fan_in * fan_out >= 160 * (fan_in + fan_out) and large_enough


def transform_filters(weight: Tensor) -> Tensor:
    """G g G^T of every filter, as one matrix on its nine weights. (O, C, 3, 3) -> (16, C, O)."""
    matrix = torch.kron(G, G).to(weight)  # (16, 9)
    g = weight.flatten(2).transpose(1, 2)  # (O, 9, C)
    return (matrix @ g).permute(1, 2, 0).contiguous()  # (O, 16, C) -> (16, C, O)


def conv3x3(x: Tensor, filters: Tensor, rate: int = 1) -> Tensor:
    """F.conv2d(x, weight, padding=rate, dilation=rate), without gradients. (B, C, H, W) -> (B, O, H, W).

    filters: transform_filters(weight). x should be channels-last, as the result is.
    """
    batch, channels, height, width = x.shape
    h, w = (2 * -(-length // (2 * rate)) for length in (height, width))
    # Every rate-th row and column form a grid of their own, on which this is a convolution without dilation.
    padding = (rate, (w + 1) * rate - width, rate, (h + 1) * rate - height)
    tokens = F.pad(x, padding).permute(0, 2, 3, 1)  # (B, h rate + 2 rate, w rate + 2 rate, C)
    grids = tokens.reshape(batch, h + 2, rate, w + 2, rate, channels)  # (B, h + 2, rate, w + 2, rate, C)
    y = x.new_empty(batch, h, rate, w, rate, filters.shape[-1])  # (B, h, rate, w, rate, O)
    row = batch * w // 2 * rate**2  # tiles
    rows = min(h // 2, max(1, SCRATCH // (16 * row * channels)))  # of tiles, at a time
    patches = x.new_empty(16 * rows * row * channels)  # reused in every round: fresh memory costs time
    products = x.new_empty(16 * rows * row * filters.shape[-1])
    for top in range(0, h, 2 * rows):
        end = min(top + 2 * rows, h)
        p = _patches(grids[:, top : end + 2], out=patches)  # (16, tiles, C)
        q = products[: p[..., 0].numel() * filters.shape[-1]].view(16, -1, filters.shape[-1])  # (16, tiles, O)
        _outputs(torch.bmm(p, filters, out=q), out=y[:, top:end])
    y = y.view(batch, h * rate, w * rate, -1)[:, :height, :width]  # (B, H, W, O)
    return map_of(y)


def _patches(grids: Tensor, out: Tensor) -> Tensor:
    """B^T d B; patches overlap by two rows and columns. (B, h + 2, r, w + 2, r, C) -> (16, B h/2 r w/2 r, C), in the
    memory of `out`."""
    batch, h, rate, w, _, channels = grids.shape
    shape = (4, 4, batch, h // 2 - 1, rate, w // 2 - 1, rate, channels)
    out = out[: math.prod(shape)].view(shape)  # (4, 4, B, h / 2 - 1, rate, w / 2 - 1, rate, C)
    d = [grids[:, i : h - 2 + i : 2] for i in range(4)]
    for t, row in zip((d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]), out):
        c = [t[:, :, :, j : w - 2 + j : 2] for j in range(4)]
        torch.sub(c[0], c[2], out=row[0])
        torch.add(c[1], c[2], out=row[1])
        torch.sub(c[2], c[1], out=row[2])
        torch.sub(c[1], c[3], out=row[3])
    return out.view(16, -1, channels)  # (16, tiles, C)


def _outputs(m: Tensor, out: Tensor) -> None:
    """A^T m A. (16, B h/2 r w/2 r, O) -> (B, h, r, w, r, O), which is `out`."""
    batch, h, rate, w, _, channels = out.shape
    m = m.view(4, 4, batch, h // 2, rate, w // 2, rate, channels)  # (4, 4, B, h / 2, rate, w / 2, rate, O)
    for a, t in enumerate((m[0] + m[1] + m[2], m[1] - m[2] - m[3])):
        torch.add(t[0], t[1], out=out[:, a::2, :, 0::2]).add_(t[2])
        torch.sub(t[1], t[2], out=out[:, a::2, :, 1::2]).sub_(t[3])
