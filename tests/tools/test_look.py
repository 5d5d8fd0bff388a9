"""tools.look: attention weights reproduce the block's output; sheets and branches show the right numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import command
from engine.analysis.attention_weights import (
    attention,
    blocks_of,
    mix_weights,
    reduced_keys,
    shown_blocks,
    window_weights,
)
from engine.config import Config
from engine.evaluation.networks import Opened
from models import build_model
from models.encoders.mix_transformer import EfficientSelfAttention
from models.encoders.swin import WINDOW, WindowAttention
from tests.helpers import refuses, write_image
from tests.tools.test_export_command import write_checkpoint
from tools import look


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


def test_attention_weights_of_a_network_sum_to_one():
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
    assert blocks_of(build_model("deeplabv3plus_resnet18", 3, aspp_channels=8)) == []


def test_a_query_off_the_image():
    model = build_model("segformer_b0", 3, decoder_dim=16).eval()
    with refuses("outside the image"):
        attention(model, model, torch.randn(1, 3, 64, 64), (0.5, 1.0))


def test_hooks_do_not_stay():
    model = build_model("segformer_b0", 3, decoder_dim=16).eval()
    attention(model, model, torch.randn(1, 3, 64, 64), (0.5, 0.5))
    assert not any(m._forward_pre_hooks for m in model.modules())


# --- the pages --------------------------------------------------------------------------------------------------------


def opened(name: str, num_classes: int = 3, **options) -> Opened:
    torch.manual_seed(0)
    model = build_model(name, num_classes, **options).eval()
    palette = [(0, 0, 0), (255, 0, 0), (0, 255, 0)]
    return Opened([model], Path("x.pt"), name, ("a", "b", "c"), palette, torch.device("cpu"), Config())


def test_components_are_the_main_axes():
    """A map that is one pattern along one direction: one component, the pattern itself, with its sign."""
    pattern = torch.linspace(-1, 1, 12).view(3, 4)
    direction = torch.tensor([0.0, -2.0, 0.5, 0.1])
    parts, share = look.components(direction[:, None, None] * pattern)
    assert share == pytest.approx(1)
    assert np.allclose(parts[0], -pattern.double().numpy() * direction.norm().item(), atol=1e-5)  # -2 is turned to +2
    assert np.abs(parts[1:]).max() < 1e-5


def test_aspp_responses_are_those_of_its_branches():
    o = opened("deeplabv3_resnet18", aspp_channels=8, decoder_channels=8, output_stride=16)
    images, seen = torch.randn(1, 3, 64, 96), {}
    handle = o.inner.head.aspp.register_forward_hook(lambda m, args, out: seen.update(x=args[0]))
    found = look.aspp_responses(o.network, look.aspp_of(o.inner), images)
    handle.remove()
    assert list(found) == ["1x1", "3x3, rate 6", "3x3, rate 12", "3x3, rate 18", "image pooling"]
    with torch.no_grad():
        aspp = o.inner.head.aspp
        for name, branch in zip(found, [*aspp.branches, aspp.pooling]):
            assert torch.allclose(found[name], branch(seen["x"])[0].mean(0), atol=1e-6), name
    assert found["image pooling"].shape == (1, 1)
    assert list(look.aspp_responses(o.network, look.aspp_of(o.inner), images)) == list(found)  # hooks were removed


def test_separable_branches_have_their_rates():
    o = opened("deeplabv3plus_resnet18", separable=True, aspp_channels=8, atrous_rates=(2, 5))
    assert [look.branch_name(b) for b in look.aspp_of(o.inner).branches] == ["1x1", "3x3, rate 2", "3x3, rate 5"]


def test_the_overlay_is_brightest_at_the_heaviest_key():
    weights = np.zeros((4, 4))
    weights[1, 2] = 1.0
    picture = look.overlay(np.full((64, 64, 3), 90, np.uint8), weights, (0.9, 0.1), (64, 64))
    light = np.asarray(picture).astype(int).sum(2)
    assert light[24, 40] == light.max() and light[24, 40] > 500 and light[8, 8] < 150


@pytest.mark.parametrize(
    "name, pages",
    [
        ("segformer_b0", ["input", "attention", *[f"attention_stage{i}" for i in (1, 2, 3, 4)]]),
        ("segformer_swin_t", ["input", "attention", *[f"attention_stage{i}" for i in (1, 2, 3, 4)]]),
        ("unet", ["input"]),
        ("deeplabv3plus_resnet18", ["input"]),
    ],
)
def test_command_writes_its_pages(name, pages, tmp_path, capsys):
    path, image = write_checkpoint(tmp_path / "best.pt", name), write_image(tmp_path / "photo.png", (50, 70))
    words = ["--checkpoint", path, "--image", image, "--query", 49, 69, "--out", tmp_path / "look"]
    assert call(*words) == 0
    written = {p.stem for p in (tmp_path / "look").glob("*.png")}
    assert set(pages) <= written and "features_out" in written
    assert ("aspp" in written) == name.startswith("deeplab")
    assert ("no attention in this network" in capsys.readouterr().out) == ("attention" not in written)
    for p in (tmp_path / "look").glob("*.png"):
        with Image.open(p) as picture:
            assert picture.width >= look.WIDTH and len(picture.convert("RGB").getcolors(1 << 24)) > 2, p


def test_command_refuses(tmp_path, capsys):
    path, image = write_checkpoint(tmp_path / "best.pt"), write_image(tmp_path / "photo.png", (50, 70))
    for words, expected in [
        (["--query", 50, 0], "row 50, column 0 is outside"),
        (["--query", -1, 0], "is outside"),
        (["--size", 32, 64], "at least 64 64"),
        (["--run", tmp_path], "not both"),
    ]:
        assert call("--checkpoint", path, "--image", image, "--out", tmp_path / "o", *words) == 2
        err = capsys.readouterr().err
        assert expected in err and err.count("\n") == 1, err
    assert call("--checkpoint", path, "--image", tmp_path / "none.png", "--out", tmp_path / "o") == 2


def call(*words) -> int:
    return command.run(look.main, look.build_parser(), [str(w) for w in words])
