"""Attention weights of one query pixel, for SegFormer and Swin.

The networks use one fused operation that returns softmax(q k^T / sqrt(d)) v and keeps no weights. Here we compute the
weights of a single query, one row of the matrix, again from the layers and the input of a block.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.encoders.mix_transformer import EfficientSelfAttention
from models.encoders.swin import WINDOW, WindowAttention, neighbours, roll, windows_of
from models.tensors import map_of, tokens_of

Token = tuple[int, int]  # row, column on the map of tokens


@dataclass(frozen=True)
class Weights:
    """The attention weights of one query in one block."""

    block: str  # its name in the model
    stage: int  # 0-based
    query: Token
    grid: tuple[int, int]  # size of the map of queries
    heads: Tensor  # (heads, h, w): the weight of each key; h, w are smaller than the grid if keys are reduced
    padding: Tensor  # (heads): the weight on padding; together with `heads` it sums to 1
    what: str  # the keys in words


def reduced_keys(m: EfficientSelfAttention, x: Tensor) -> Tensor:
    """The map that keys and values are read from: (1, H, W, C) -> (1, H/R, W/R, C)."""
    return x if m.sr is None else m.norm(tokens_of(m.sr(map_of(x))))


def mix_weights(m: EfficientSelfAttention, x: Tensor, query: Token) -> tuple[Tensor, Tensor]:
    """SegFormer: tokens (1, H, W, C) before the attention -> weights (heads, H/R, W/R) of one query, and zeros for the
    padding that it has not."""
    C = x.shape[-1]
    d = C // m.num_heads
    q = m.q(x[0, query[0], query[1]]).view(m.num_heads, 1, d)  # (heads, 1, d)
    keys = reduced_keys(m, x)
    h, w = keys.shape[1:3]
    k = m.kv(keys).view(h * w, 2, m.num_heads, d)[:, 0].transpose(0, 1)  # (heads, h w, d)
    weights = (q @ k.transpose(1, 2) / math.sqrt(d)).softmax(-1)  # (heads, 1, h w)
    return weights.view(m.num_heads, h, w), weights.new_zeros(m.num_heads)


def shift_of(m: WindowAttention, grid: tuple[int, int]) -> tuple[int, int]:
    """How many tokens the windows of a block are shifted on a map of this size."""
    return m._shift_of(*(math.ceil(n / WINDOW) * WINDOW for n in grid))


def cut_windows(m: WindowAttention, x: Tensor) -> Tensor:
    """Pad, roll and cut tokens into windows as the block does: (1, H, W, C) -> (windows, 49, C)."""
    grid = tuple(x.shape[1:3])
    padding = (0, 0, 0, -grid[1] % WINDOW, 0, -grid[0] % WINDOW)
    back = tuple(-s for s in shift_of(m, grid))
    return windows_of(F.pad(roll(x, back), padding) if m.pad_last else roll(F.pad(x, padding), back))


def window_weights(m: WindowAttention, x: Tensor, query: Token) -> tuple[Tensor, Tensor]:
    """Swin: tokens (1, H, W, C) before the attention -> weights (heads, H, W), zero outside the query's window, and the
    weight (heads) on padding, whose tokens are keys like all others."""
    H, W, C = x.shape[1:]
    names = torch.arange(1, H * W + 1, device=x.device).view(1, H, W, 1)  # 0 will be padding
    names = cut_windows(m, names)[..., 0]  # (windows, 49)
    at, place = (int(i[0]) for i in torch.where(names == 1 + query[0] * W + query[1]))
    tokens, d = cut_windows(m, x)[at], C // m.num_heads  # (49, C)
    q, k, _ = m.qkv(tokens).view(WINDOW**2, 3, m.num_heads, d).permute(1, 2, 0, 3)  # each (heads, 49, d)
    scores = q[:, place, None] @ k.transpose(1, 2) / math.sqrt(d)  # (heads, 1, 49)
    scores = scores[:, 0] + m.relative_position_bias_table[m.relative_position_index[place]].T  # (heads, 49)
    if any(shift := shift_of(m, (H, W))):
        sides = (math.ceil(n / WINDOW) * WINDOW for n in (H, W))
        scores = scores.masked_fill(~neighbours(*sides, shift, x.device)[at, place], float("-inf"))
    weights = scores.softmax(-1)
    out = weights.new_zeros(m.num_heads, 1 + H * W).index_add(1, names[at], weights)
    return out[:, 1:].view(m.num_heads, H, W), out[:, 0]


def blocks_of(model: nn.Module) -> list[tuple[str, int, nn.Module]]:
    """(name, stage, attention module) of all blocks, in order; empty for a network without attention."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, EfficientSelfAttention | WindowAttention):  # encoder.stages.I.blocks.J.attn
            i, j = (int(word) for word in path.split(".") if word.isdigit())
            found.append((f"stage {i + 1} block {j + 1}", i, module))
    return found


def shown_blocks(model: nn.Module) -> list[tuple[str, int, nn.Module]]:
    """The last block of each stage; with windows the last two, of which one has shifted windows."""
    blocks = blocks_of(model)
    count = {i: 2 if isinstance(m, WindowAttention) else 1 for _, i, m in blocks}
    return [b for i in count for b in [b for b in blocks if b[1] == i][-count[i] :]]


def weights_at(name: str, stage: int, m: nn.Module, x: Tensor, query: tuple[float, float]) -> Weights:
    """The weights of the token at `query`, given as fractions (row, column) of the image's sides."""
    grid = tuple(x.shape[1:3])
    token = tuple(min(int(q * n), n - 1) for q, n in zip(query, grid))
    if isinstance(m, WindowAttention):
        heads, padding = window_weights(m, x, token)
        what = f"{WINDOW} x {WINDOW} {'shifted ' if any(shift_of(m, grid)) else ''}keys"
    else:
        heads, padding = mix_weights(m, x, token)
        what = f"{heads.shape[1]} x {heads.shape[2]} keys"
    return Weights(name, stage, token, grid, heads, padding, what)


@torch.no_grad()
def attention(network: nn.Module, inner: nn.Module, images: Tensor, query: tuple[float, float]) -> list[Weights]:
    """Run network(images) and return the weights of shown_blocks(inner). query: fractions (row, column) of the sides.

    Raises: UserError if the query is outside the image.
    """
    if not all(0 <= q < 1 for q in query):
        raise UserError("--query: the pixel is outside the image")
    found: list[Weights] = []
    with ExitStack() as stack:
        for name, stage, m in shown_blocks(inner):
            hook = lambda m, args, name=name, stage=stage: found.append(weights_at(name, stage, m, args[0], query))  # noqa: E731
            stack.callback(m.register_forward_pre_hook(hook).remove)
        network(images)
    return found
