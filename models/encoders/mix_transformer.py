"""Mix Transformer, the encoder of SegFormer. Xie et al., "SegFormer: Simple and Efficient Design for Semantic
Segmentation with Transformers", arXiv 2105.15203.

The encoder is a pyramid like a CNN: overlapping patch embeddings halve the resolution from stage to stage (strides 4,
8, 16, 32), with blocks of attention and feed-forward layers in between. There is no positional encoding: the 3x3
depthwise convolution in the feed-forward layer sees the zero padding, which tells it where the borders are.

Memory: a map (B, C, H, W) in channels-last format is stored as (B, H, W, C), which is also the layout of tokens
(B, N, C) with N = H W. Attention, LayerNorm and Linear use this memory as tokens, convolutions use it as a map, and
`map_of` and `tokens_of` switch between the two views without a copy.

Published forms differ in the epsilon of LayerNorm (see models/forms.py): 1e-6 in blocks and at stage ends, 1e-5 after
patch embeddings and reductions (NVlabs, smp: our default), 1e-6 everywhere (mmseg), 1e-5 everywhere (Hugging Face).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import DropPath, drop_path_rates, kaiming_fan_out, truncated_normal
from models.tensors import add_into, map_of, tokens_of


class OverlapPatchEmbed(nn.Module):
    """A strided convolution whose windows overlap, and LayerNorm.

    Shapes: (B, in, H, W) -> (B, ceil(H / stride), ceil(W / stride), out): tokens in the order of a map.
    """

    def __init__(self, in_channels: int, dim: int, kernel_size: int, stride: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(tokens_of(self.proj(x)))  # (B, h, w, out)


class EfficientSelfAttention(nn.Module):
    """Self-attention whose keys and values come from a map reduced sr_ratio times on each side.

    Cost: N * N / sr_ratio^2 products of queries with keys instead of N^2. This follows the official code, which reduces
    by a strided convolution and LayerNorm; the paper writes a reshape and a Linear layer, which are the same products.
    Shapes: x (B, H, W, C) -> (B, H, W, C). If sr_ratio does not divide a side, its last pixels are not among the keys.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, eps: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"expected dim divisible by num_heads, got {dim} and {num_heads}")
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)  # keys, then values, in one product
        self.proj = nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio) if sr_ratio > 1 else None
        self.norm = nn.LayerNorm(dim, eps) if sr_ratio > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        heads, d = self.num_heads, C // self.num_heads
        q = self.q(x).view(B, H * W, heads, d).transpose(1, 2)  # (B, heads, N, d)
        if self.sr is not None:
            x = self.norm(tokens_of(self.sr(map_of(x))))  # (B, H/R, W/R, C)
        k, v = self.kv(x).view(B, -1, 2, heads, d).permute(2, 0, 3, 1, 4)  # each (B, heads, N/R^2, d)
        x = F.scaled_dot_product_attention(q, k, v)  # softmax(q k^T / sqrt(d)) v: (B, heads, N, d)
        return self.proj(x.transpose(1, 2).reshape(B, H, W, C))  # heads side by side: (B, H, W, C)


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU (exact), Linear. (B, H, W, C) -> (B, H, W, C), mlp_ratio C in between."""

    def __init__(self, dim: int, mlp_ratio: int) -> None:
        super().__init__()
        hidden = dim * mlp_ratio
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(map_of(self.fc1(x)))  # (B, hidden, H, W)
        return self.fc2(F.gelu(tokens_of(x)))  # (B, H, W, C)


class Block(nn.Module):
    """x + attention(norm(x)), then x + FFN(norm(x)): the pre-norm transformer block. (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, num_heads: int, sr_ratio: int, mlp_ratio: int, drop_path: float, eps: tuple) -> None:
        super().__init__()
        norm_eps, patch_norm_eps = eps
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attn = EfficientSelfAttention(dim, num_heads, sr_ratio, patch_norm_eps)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.mlp = MixFFN(dim, mlp_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = add_into(self.drop_path(self.attn(self.norm1(x))), x)
        return add_into(self.drop_path(self.mlp(self.norm2(x))), x)


class Stage(nn.Module):
    """Patch embedding, blocks, LayerNorm. (B, in, H, W) -> (B, dim, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, embed: OverlapPatchEmbed, blocks: list[Block], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return map_of(self.norm(self.blocks(self.embed(x))))


class MixTransformer(nn.Module):
    """images (B, 3, H, W) -> four maps (B, embed_dims[i], H / 2^(i+2), W / 2^(i+2)), sizes rounded up.

    drop_path_rate is that of the last block; it grows linearly from 0 over all blocks (see DropPath).
    """

    def __init__(
        self,
        embed_dims: tuple[int, ...],
        depths: tuple[int, ...],
        drop_path_rate: float = 0.1,
        norm_eps: float = 1e-6,
        patch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.channels, self.strides = list(embed_dims), [4, 8, 16, 32]
        rates = iter(drop_path_rates(drop_path_rate, sum(depths)))
        stages = []
        for i, (dim, depth, num_heads, sr_ratio) in enumerate(zip(embed_dims, depths, NUM_HEADS, SR_RATIOS)):
            kernel_size, stride = (7, 4) if i == 0 else (3, 2)
            in_channels = 3 if i == 0 else embed_dims[i - 1]
            embed = OverlapPatchEmbed(in_channels, dim, kernel_size, stride, patch_norm_eps)
            eps = (norm_eps, patch_norm_eps)
            blocks = [Block(dim, num_heads, sr_ratio, MLP_RATIO, next(rates), eps) for _ in range(depth)]
            stages.append(Stage(embed, blocks, nn.LayerNorm(dim, norm_eps)))
        self.stages = nn.ModuleList(stages)
        kaiming_fan_out(self, biased=True)
        truncated_normal(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, features = images, []
        for stage in self.stages:
            x = stage(x)  # (B, embed_dims[i], H / 2^(i+2), W / 2^(i+2))
            features.append(x)
        return features


NUM_HEADS, SR_RATIOS, MLP_RATIO = (1, 2, 5, 8), (8, 4, 2, 1), 4  # the same for all sizes

MIT = {  # embed_dims, depths
    "mit_b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "mit_b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "mit_b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "mit_b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "mit_b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}
