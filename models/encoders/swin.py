"""Swin Transformer as an encoder. Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted
Windows", arXiv 2103.14030.

Attention within windows of 7x7 tokens has a cost proportional to the image, not to its square. Every second block
shifts the windows by half a window, which connects neighbouring windows. Between stages 2x2 tokens merge into one with
twice the channels: strides 4, 8, 16, 32, as in a CNN. Maps of any size are padded to whole windows and cropped again.

Published forms (see models/forms.py) have the same parameters, except for the LayerNorm that mmseg applies to each of
the four maps (`out_norms`); a classifier normalises only its last map, and that norm belongs to its head.
`shift`          "always" (mmseg, Hugging Face): every second block shifts. "fitting" (torchvision, Microsoft): not on
                 an axis that one window covers. "built" (timm): decided once for images of 224x224, where one window
                 covers the map only in the last stage. The first two agree on maps larger than 7 tokens. Microsoft's
                 code takes only images of the size it was built for; "fitting" agrees with it there.
`pad_last`       timm rolls maps before padding them, so that padding separates tokens that were not neighbours. No
                 difference on maps of whole windows, such as those of 224x224 images.
`patch_padding`  True (mmseg): images are padded to whole patches. False (torchvision, timm): the rest is dropped.
mmseg orders the 4 C merged channels differently; its weights are permuted when they are loaded, so this is no option.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import DropPath, drop_path_rates, truncated_normal
from models.tensors import add_into, map_of, tokens_of

WINDOW = 7  # tokens a side
Shift = Literal["always", "fitting", "built"]


def windows_of(x: Tensor) -> Tensor:
    """Cut a map of tokens into windows: (B, H, W, C) -> (B windows, 49, C); H and W are multiples of 7."""
    B, H, W, C = x.shape
    x = x.view(B, H // WINDOW, WINDOW, W // WINDOW, WINDOW, C).transpose(2, 3)  # (B, H/7, W/7, 7, 7, C)
    return x.reshape(-1, WINDOW**2, C)  # (B windows, 49, C)


def map_of_windows(x: Tensor, H: int, W: int) -> Tensor:
    """The inverse, which also joins the heads: (B windows, heads, 49, d) -> (B, H, W, C), C = heads d."""
    heads, d = x.shape[1], x.shape[3]
    x = x.view(-1, H // WINDOW, W // WINDOW, heads, WINDOW, WINDOW, d)  # (B, H/7, W/7, heads, 7, 7, d)
    x = x.permute(0, 1, 4, 2, 5, 3, 6)  # (B, H/7, 7, W/7, 7, heads, d)
    # an explicit copy: reshape copies only if needed, and exporters would fix that decision
    return x.clone(memory_format=torch.contiguous_format).view(-1, H, W, heads * d)  # (B, H, W, C)


def roll(x: Tensor, shift: tuple[int, int]) -> Tensor:
    """(B, H, W, C) moved by `shift`; what leaves at one border comes in at the opposite one."""
    return torch.roll(x, shift, dims=(1, 2)) if any(shift) else x


def relative_positions() -> Tensor:
    """(49, 49): for a query and a key of a window, the row of the bias table for their distance, -6..6 on each axis."""
    at = torch.arange(WINDOW)
    distance = at[:, None] - at + WINDOW - 1  # (7, 7), 0..12
    rows = distance[:, None, :, None] * (2 * WINDOW - 1)  # (7, 1, 7, 1): query row, key row
    return (rows + distance[None, :, None, :]).reshape(WINDOW**2, WINDOW**2)  # (49, 49)


def neighbours(H: int, W: int, shift: tuple[int, int], device: torch.device) -> Tensor:
    """(windows, 49, 49): whether a query may see a key, in a map of H x W tokens rolled up and left by `shift`.

    Rolling puts the first rows below the last ones. They share windows now but are not neighbours in the image.
    """
    wrapped = [torch.arange(n, device=device) >= n - s for n, s in zip((H, W), shift)]
    side = 2 * wrapped[0][:, None] + wrapped[1].int()  # (H, W), 0..3: which of the four parts it came from
    side = windows_of(side[None, :, :, None]).squeeze(-1)  # (windows, 49)
    return side[:, :, None] == side[:, None, :]


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias for each distance between two tokens.

    Shapes: (B, H, W, C) -> (B, H, W, C). Padding takes part, as in all published forms: its tokens are zeros, and their
    keys and values are the bias of `qkv`. `shift` None: the windows of this block are not shifted.

    The published forms apply `proj` before cropping the padding, here it comes after: the same values for the tokens
    that stay, without the work for the others.
    """

    textbook = False  # True: use the published order (counting tools set it)

    def __init__(self, dim: int, num_heads: int, shift: Shift | None, pad_last: bool = False) -> None:
        super().__init__()
        self.num_heads, self.shift, self.pad_last = num_heads, shift, pad_last
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, num_heads))
        self.register_buffer("relative_position_index", relative_positions(), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        B, height, width, _ = x.shape
        H, W = (math.ceil(n / WINDOW) * WINDOW for n in (height, width))  # whole windows
        padding = (0, 0, 0, W - width, 0, H - height)
        dy, dx = self._shift_of(H, W)
        if self.pad_last:
            x = F.pad(roll(x, (-dy, -dx)), padding)  # (B, H, W, C)
        else:
            x = roll(F.pad(x, padding), (-dy, -dx))  # (B, H, W, C)
        bias = self.relative_position_bias_table[self.relative_position_index]  # (49, 49, heads)
        bias = bias.permute(2, 0, 1)[None]  # (1, heads, 49, 49)
        if dy or dx:
            may_look = neighbours(H, W, (dy, dx), x.device)[:, None]  # (windows, 1, 49, 49)
            bias = torch.where(may_look, bias, float("-inf"))  # (windows, heads, 49, 49)
            bias = bias.expand(B, *bias.shape).flatten(0, 1)  # (B windows, heads, 49, 49)
        x = map_of_windows(self._attend(windows_of(x), bias), H, W)  # (B, H, W, C)
        if self.textbook:
            x = self.proj(x)
        if self.pad_last:
            x = roll(x[:, :height, :width], (dy, dx))
        else:
            x = roll(x, (dy, dx))[:, :height, :width]
        return x if self.textbook else self.proj(x)

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """softmax(q k^T / sqrt(d) + bias) v in each window. (B windows, 49, C) -> (B windows, heads, 49, d)."""
        windows, N, C = x.shape
        qkv = self.qkv(x).view(windows, N, 3, self.num_heads, C // self.num_heads)  # (B windows, 49, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B windows, heads, 49, d)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def _shift_of(self, H: int, W: int) -> tuple[int, int]:
        """How many tokens the windows shift on each axis: half a window, or none."""
        if self.shift is None:
            return 0, 0
        return tuple(0 if self.shift == "fitting" and n <= WINDOW else WINDOW // 2 for n in (H, W))


class MLP(nn.Module):
    """Linear, GELU (exact), Linear on each token. (B, H, W, C) -> (B, H, W, C), 4 C in between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, num_heads: int, drop_path: float, shift: Shift | None, pad_last: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, shift, pad_last)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = add_into(self.drop_path(self.attn(self.norm1(x))), x)
        return add_into(self.drop_path(self.mlp(self.norm2(x))), x)


class PatchEmbed(nn.Module):
    """4x4 pixels become one token. (B, 3, H, W) -> (B, H/4, W/4, dim), rounded up where padded, else down."""

    def __init__(self, dim: int, padding: bool) -> None:
        super().__init__()
        self.padding = padding
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        if self.padding:
            H, W = images.shape[-2:]
            images = F.pad(images, (0, -W % 4, 0, -H % 4))  # (B, 3, H, W): whole patches
        return self.norm(tokens_of(self.proj(images)))  # (B, H/4, W/4, dim)


class PatchMerging(nn.Module):
    """2x2 tokens become one: (B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), 2 dim). Odd sides are padded with zeros."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))  # (B, H, W, C): even sides
        x = x.view(B, (H + 1) // 2, 2, (W + 1) // 2, 2, C)  # (B, H/2, 2, W/2, 2, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, 4 C): (0,0), (1,0), (0,1), (1,1) as (row, column)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Patch embedding (first stage) or merging (other stages), then blocks; every second one shifts its windows."""

    def __init__(self, embed: nn.Module, blocks: list[Block]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x))


class SwinTransformer(nn.Module):
    """images (B, 3, H, W) -> four maps (B, embed_dim 2^i, H / 2^(i+2), W / 2^(i+2)), sizes rounded up.

    drop_path_rate is that of the last block; it grows linearly from 0 over all blocks (see DropPath). Without
    patch_padding the first map has floor(H / 4) rows and the others follow from it, rounded up.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        drop_path_rate: float = 0.1,
        out_norms: bool = True,
        shift: Shift = "always",
        patch_padding: bool = True,
        pad_last: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.strides = [embed_dim * 2**i for i in range(4)], [4, 8, 16, 32]
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, depth, heads) in enumerate(zip(self.channels, depths, num_heads)):
            embed = PatchEmbed(dim, patch_padding) if i == 0 else PatchMerging(dim // 2)
            moves = None if shift == "built" and i == 3 else shift
            blocks = [Block(dim, heads, next(rates), moves if j % 2 else None, pad_last) for j in range(depth)]
            stages.append(Stage(embed, blocks))
        self.stages = nn.ModuleList(stages)
        self.out_norms = nn.ModuleList(nn.LayerNorm(dim) if out_norms else nn.Identity() for dim in self.channels)
        truncated_normal(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = images, []
        for stage, norm in zip(self.stages, self.out_norms):
            x = stage(x)  # (B, H / 2^(i+2), W / 2^(i+2), embed_dim 2^i)
            features.append(map_of(norm(x)))  # the next stage sees x without this norm
        return features


SWIN = {  # embed_dim, depths, num_heads
    "swin_t": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
}
