"""tools.look: attention weights that give the block's own output, sheets and branches that show what is there."""

from __future__ import annotations

import pytest
import torch

from engine.attention import attention, blocks_of, mix_weights, reduced_keys, shown_blocks, window_weights
from models import build_model
from models.encoders.mix_transformer import EfficientSelfAttention
from models.encoders.swin import WINDOW, WindowAttention
from tests.helpers import refuses


@pytest.mark.parametrize("heads, sr, grid", [(1, 8, (16, 24)), (2, 4, (9, 14)), (4, 1, (5, 7))])
def test_mix_attention_equals_the_block(heads, sr, grid):
    """Weights times values, projected, are what the fused operation of the block gives."""
    torch.manual_seed(0)
    m = EfficientSelfAttention(32, heads, sr, 1e-6).double()
    x = torch.randn(1, *grid, 32, dtype=torch.double)
    out = m(x)
    keys = reduced_keys(m, x)
    v = m.kv(keys).view(-1, 2, heads, 32 // heads)[:, 1]  # (keys, heads, d)
    for query in [(0, 0), (grid[0] // 2, 3), (grid[0] - 1, grid[1] - 1)]:
        weights, padding = mix_weights(m, x, query)
        assert weights.shape == (heads, *keys.shape[1:3]) and not padding.any()
        assert torch.allclose(weights.sum((1, 2)), torch.ones(heads).double())
        ours = m.proj(torch.einsum("hk,khd->hd", weights.flatten(1), v).flatten())
        assert torch.allclose(ours, out[0, query[0], query[1]], atol=1e-12)


@pytest.mark.parametrize("shift", [None, "always", "fitting", "built"])
@pytest.mark.parametrize("pad_last", [False, True])
@pytest.mark.parametrize("grid", [(14, 21), (10, 16), (7, 7), (5, 9)])
def test_window_attention_equals_the_block(shift, pad_last, grid):
    torch.manual_seed(0)
    m = WindowAttention(24, 3, shift, pad_last).double()
    torch.nn.init.normal_(m.relative_position_bias_table)
    x = torch.randn(1, *grid, 24, dtype=torch.double)
    out = m(x)
    v = m.qkv(x[0]).view(*grid, 3, 3, 8)[:, :, 2]  # (H, W, heads, d)
    v_padding = m.qkv(torch.zeros(24).double()).view(3, 3, 8)[2]  # (heads, d): the bias
    for query in [(0, 0), (grid[0] // 2, grid[1] // 2), (grid[0] - 1, 0), (grid[0] - 1, grid[1] - 1), (1, grid[1] - 2)]:
        weights, padding = window_weights(m, x, query)
        assert torch.allclose(weights.sum((1, 2)) + padding, torch.ones(3).double())
        rows, columns = (w.any(0).nonzero().flatten() for w in ((weights > 0).any(2), (weights > 0).any(1)))
        assert len(rows) <= WINDOW and len(columns) <= WINDOW
        joined = torch.einsum("hyx,yxhd->hd", weights, v) + padding[:, None] * v_padding
        assert torch.allclose(m.proj(joined.flatten()), out[0, query[0], query[1]], atol=1e-12), query


def test_rows_sum_to_one_inside_a_network():
    for name in ("segformer_b0", "segformer_swin_t"):
        model = build_model(name, 3, decoder_dim=16).eval()
        found = attention(model, model, torch.randn(1, 3, 100, 150), (0.3, 0.99))
        assert len(found) == (4 if name == "segformer_b0" else 8)
        assert [w.stage for w in found] == sorted(w.stage for w in found)
        for w in found:
            assert torch.allclose(w.heads.sum((1, 2)) + w.padding, torch.ones(len(w.heads)), atol=1e-5)
            assert w.query == (int(0.3 * w.grid[0]), w.grid[1] - 1)
    assert {b.shift is None for _, _, b in shown_blocks(model)} == {True, False}


def test_networks_without_attention_have_none():
    assert blocks_of(build_model("unet", 3, base_channels=4)) == []
    assert blocks_of(build_model("segformer_efficientnet_b0", 3, decoder_dim=16)) == []


def test_a_query_off_the_image():
    model = build_model("segformer_b0", 3, decoder_dim=16).eval()
    with refuses("outside of the image"):
        attention(model, model, torch.randn(1, 3, 64, 64), (0.5, 1.0))


def test_hooks_do_not_stay():
    model = build_model("segformer_b0", 3, decoder_dim=16).eval()
    attention(model, model, torch.randn(1, 3, 64, 64), (0.5, 0.5))
    assert not any(m._forward_pre_hooks for m in model.modules())
