"""Swin, EfficientNet and VGG with FCN's skips equal the peers with random weights, and the papers."""

from __future__ import annotations

import math
import re

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from transformers import SwinBackbone, SwinConfig

from common.errors import UserError
from models import build_encoder, build_model, load_public
from models.checkpoints.layouts.swin import MERGED
from models.encoders.efficientnet import EFFICIENTNET, same_padding
from models.encoders.swin import PatchMerging, WindowAttention
from models.heads.fcn_skips import Up
from models.layers import kaiming_fan_out
from models.tensors import resize
from tests.model_helpers import assert_close, parameters, perturb_norms

SIZES = [(64, 96), (97, 65)]


def check_maps(ours: list[Tensor], theirs: list[Tensor], relative: float) -> None:
    assert len(ours) == len(theirs)
    for our_map, their_map in zip(ours, theirs):
        assert_close(our_map, their_map, relative)


# --- Swin -------------------------------------------------------------------------------------------------------------


def perturb_swin(model: nn.Module) -> nn.Module:
    """Larger weights and biases, so that errors in attention show: it is nearly uniform at first. In eval mode."""
    for name, p in model.eval().named_parameters():
        if "relative_position_bias_table" in name:
            nn.init.normal_(p)
        elif p.ndim == 1:
            nn.init.uniform_(p, 0.5, 1.5) if name.endswith("weight") else nn.init.normal_(p, std=0.2)
        elif p.ndim == 2:
            nn.init.normal_(p, std=2 * p.shape[1] ** -0.5)
    return model


def loaded(peer: nn.Module, layout: str, **options) -> nn.Module:
    """The peer's weights in our encoder, loaded as from its file; both in float64."""
    ours, report = load_public(peer.state_dict(), **options)
    assert report.layout == layout, str(report)
    peer.double()
    return ours.double()


def rename(weights: dict, table: list[tuple[str, str]], drop: str) -> dict:
    """Keys rewritten by the first pattern that matches; keys that match `drop` are left out."""
    out = {}
    for key, value in weights.items():
        if not re.match(drop, key):
            pattern, new = next(row for row in table if re.match(row[0], key))
            out[re.sub(pattern, new, key)] = value
    return out


@pytest.mark.parametrize("size", [(64, 64), (97, 161), (128, 256)])
def test_swin_equals_torchvision(size):
    torch.manual_seed(0)
    peer = perturb_swin(torchvision.models.swin_t(weights=None))
    ours = loaded(peer, "torchvision Swin")
    x = y = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = []
    with torch.no_grad():
        for i, layer in enumerate(peer.features):
            y = layer(y)
            if i % 2:
                expected.append(y.permute(0, 3, 1, 2))
        check_maps(ours(x), expected, 1e-9)
        always = build_encoder("swin_t", form="torchvision", shift="always").double().eval()
        always.load_state_dict(ours.state_dict())  # the same parameters, another function where one window is enough
        assert (always(x)[-1] - expected[-1]).abs().max() > 1e-2 * expected[-1].abs().max()
        padded = build_encoder("swin_t", form="torchvision", patch_padding=True).eval()
        assert [tuple(f.shape[2:]) for f in padded(x.float())] == [
            tuple(math.ceil(n / s) for n in size) for s in padded.strides
        ]


@pytest.mark.parametrize("size", [(224, 224), (64, 160), (256, 288)])
def test_swin_equals_timm(size):
    torch.manual_seed(0)
    peer = perturb_swin(timm.create_model("swin_tiny_patch4_window7_224", strict_img_size=size == (224, 224)))
    ours = loaded(peer, "timm Swin")
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        check_maps(ours(x), peer.forward_intermediates(x, intermediates_only=True), 1e-9)


def test_mmsegs_merged_channels_are_ours_in_another_order():
    """mmseg merges 2x2 patches by nn.Unfold, then LayerNorm and Linear; MERGED converts the weights both ways."""
    torch.manual_seed(0)
    ours = perturb_swin(PatchMerging(6).double())
    theirs = {k: MERGED.to_theirs(v)[0][1] for k, v in ours.state_dict().items()}
    assert all(torch.equal(MERGED.to_ours([theirs[k]], v.shape), v) for k, v in ours.state_dict().items())
    x = torch.randn(2, 4, 8, 6, dtype=torch.float64)
    patches = nn.Unfold(2, stride=2)(x.permute(0, 3, 1, 2)).transpose(1, 2)  # (B, 8, 24)
    normed = F.layer_norm(patches, (24,), theirs["norm.weight"], theirs["norm.bias"])
    assert_close(ours(x).flatten(1, 2), normed @ theirs["reduction.weight"].T, 1e-12)


def from_huggingface_swin(weights: dict) -> dict:
    weights = dict(weights)
    for key in [k for k in weights if ".q_proj." in k]:
        parts = [weights.pop(key.replace(".q_proj.", f".{name}_proj.")) for name in "qkv"]
        weights[key.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    table = [(r"swin\.embeddings\.patch_embeddings\.projection\.", "stages.0.embed.proj."),
             (r"swin\.embeddings\.norm\.", "stages.0.embed.norm."),
             (r"hidden_states_norms\.stage1\.", "out_norms.0."), (r"hidden_states_norms\.stage2\.", "out_norms.1."),
             (r"hidden_states_norms\.stage3\.", "out_norms.2."), (r"hidden_states_norms\.stage4\.", "out_norms.3."),
             *[(rf"swin\.encoder\.layers\.{i}\.downsample\.", f"stages.{i + 1}.embed.") for i in range(3)],
             (r"swin\.encoder\.layers\.", "stages.")]  # fmt: skip
    inner = [("attention.relative_position_bias.", "attn."), ("attention.o_proj.", "attn.proj."),
             ("attention.", "attn."), ("layernorm_before", "norm1"), ("layernorm_after", "norm2")]  # fmt: skip
    out = {}
    for key, value in rename(weights, table, r"swin\.layernorm|.*relative_position_index").items():
        for old, new in inner:
            key = key.replace(old, new)
        out[key] = value
    return out


@pytest.mark.parametrize("size", [(64, 64), (97, 161), (129, 230)])
def test_swin_equals_transformers(size):
    """Its backbone has a LayerNorm over each map, pads patches and always shifts: mmseg's form in other names."""
    torch.manual_seed(0)
    peer = perturb_swin(SwinBackbone(SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"]))).double()
    ours = build_encoder("swin_t", form="huggingface").double().eval()
    ours.load_state_dict(from_huggingface_swin(peer.state_dict()), strict=True)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        check_maps(ours(x), list(peer(x).feature_maps), 1e-9)


WINDOWS = [(None, (10, 15)), ("always", (10, 15)), ("always", (4, 7)), ("fitting", (5, 9))]


@pytest.mark.parametrize("shift, size", WINDOWS)
def test_window_attention_is_attention_among_those_of_a_window(shift, size):
    """The textbook without rolling and masks: all tokens attend to all, but outside the window with weight zero.
    Windows moved by s start at tokens s - 7, s, s + 7, ..: the first and the last ones are cut by the border."""
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, shift)
    perturb_swin(attention.double())
    H, W = size
    padded = [math.ceil(n / 7) * 7 for n in size]
    moved = [0 if shift is None or (shift == "fitting" and n == 7) else 3 for n in padded]
    x = torch.randn(2, H, W, 8, dtype=torch.float64)
    tokens = F.pad(x, (0, 0, 0, padded[1] - W, 0, padded[0] - H)).flatten(1, 2)  # (2, N, 8)
    rows, columns = (a.flatten() for a in torch.meshgrid(*map(torch.arange, padded), indexing="ij"))
    window = (rows - moved[0]).div(7, rounding_mode="floor") * 100 + (columns - moved[1]).div(7, rounding_mode="floor")
    dy, dx = rows[:, None] - rows, columns[:, None] - columns
    table = attention.relative_position_bias_table.view(13, 13, 2)
    bias = table[(dy + 6).clamp(0, 12), (dx + 6).clamp(0, 12)].permute(2, 0, 1)  # (heads, N, N)
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in attention.qkv(tokens).chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) / 2 + bias
    scores = scores.masked_fill(window[:, None] != window, float("-inf"))
    expected = attention.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(1, padded)[:, :H, :W]
    assert_close(attention(x), expected, 1e-12)


def test_swins_maps_are_channels_last_views():
    encoder = build_encoder("swin_t").eval()
    with torch.no_grad():
        for f in encoder(torch.randn(2, 3, 64, 97).contiguous(memory_format=torch.channels_last)):
            assert f.is_contiguous(memory_format=torch.channels_last)


# --- EfficientNet -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    """(publisher, variant) -> its network, perturbed, in eval."""
    torch.manual_seed(0)
    peers = {}
    for n in range(4):
        peers["smp", n] = smp.encoders.get_encoder(f"efficientnet-b{n}", weights=None)
    for n in (0, 3):
        peers["torchvision", n] = getattr(torchvision.models, f"efficientnet_b{n}")(weights=None)
        peers["timm", n] = timm.create_model(f"efficientnet_b{n}", features_only=True)
        peers["timm_tf", n] = timm.create_model(f"tf_efficientnet_b{n}", features_only=True)
    for peer in peers.values():
        kaiming_fan_out(peer)  # or the deep maps would be their biases and little else
        perturb_norms(peer.eval())
    return peers


def torchvision_maps(peer: nn.Module, x: Tensor) -> list[Tensor]:
    maps = []
    for layer in peer.features[:-1]:
        x = layer(x)
        maps.append(x)
    return [maps[i] for i in (2, 3, 5, 7)]


MAPS = {
    "torchvision": torchvision_maps,
    "timm": lambda peer, x: peer(x)[1:],  # its stride-2 map is another one
    "timm_tf": lambda peer, x: peer(x)[1:],
    "smp": lambda peer, x: peer(x)[1:],
}


@pytest.mark.parametrize("publisher, n", [*[(p, n) for p in MAPS for n in (0, 3)], ("smp", 1), ("smp", 2)])
def test_efficientnet_equals_its_publishers(built, publisher, n):
    peer, maps = built[publisher, n], MAPS[publisher]
    ours, report = load_public(peer.state_dict(), form=publisher)
    assert report.architecture == f"efficientnet_b{n}"
    torch.manual_seed(1)
    for size in SIZES:
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            features, expected = ours(x), maps(peer, x)
            check_maps(features, expected, 1e-4)
        assert [f.shape[1] for f in features] == ours.channels
        if publisher != "smp":  # its static padding may round down
            assert [math.ceil(size[0] / s) for s in ours.strides] == [f.shape[2] for f in features]


def test_paddings_are_different_functions(built):
    torch.manual_seed(1)
    x = torch.randn(1, 3, 64, 64)
    maps = []
    for padding in ("symmetric", "static_same", "same"):
        ours, _ = load_public(built["smp", 3].state_dict(), padding=padding)
        with torch.no_grad():
            maps.append(ours(x)[-1])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (maps[a] - maps[b]).abs().max() > 1e-2 * maps[0].abs().max()


def test_same_padding():
    assert same_padding(300, 3) == (0, 1) and same_padding(75, 5) == (2, 2)  # B3's, as recorded from its file's owner
    assert same_padding(56, 5) == (1, 2) and same_padding(7, 3) == (1, 1)


@pytest.mark.parametrize("name", EFFICIENTNET)
def test_efficientnet_parameter_counts(name):
    """timm's whole network without its last 1x1 convolution and classifier."""
    with torch.device("meta"):
        ours, peer = build_encoder(name, stem=True), timm.create_model(name)
    head = parameters(peer.conv_head) + parameters(peer.bn2) + parameters(peer.classifier)
    assert parameters(ours) == parameters(peer) - head


def test_drop_path_grows_as_in_the_original():
    encoder = build_encoder("efficientnet_b0", drop_path_rate=0.2)
    rates = [block.drop_path.rate for stage in encoder.stages for block in stage]
    assert rates == pytest.approx([0.2 * i / 16 for i in range(16)])
    theirs = torchvision.models.efficientnet_b0(weights=None)
    assert rates == pytest.approx([block.stochastic_depth.p for stage in theirs.features[1:-1] for block in stage])


# --- VGG and FCN's skips ----------------------------------------------------------------------------------------------


def test_vgg_equals_torchvision():
    torch.manual_seed(0)
    peer = torchvision.models.vgg16(weights=None, init_weights=False).features.eval()
    ours = build_encoder("vgg16", stem=True).eval()
    ours.load_state_dict({f"features.{k}": v for k, v in peer.state_dict().items()}, strict=True)
    x = y = torch.randn(1, 3, 97, 65)
    expected = []
    with torch.no_grad():
        for layer in peer:
            y = layer(y)
            expected += [y] if isinstance(layer, nn.MaxPool2d) else []
        check_maps(ours(x), expected, 1e-5)
    assert [f.shape[1] for f in expected] == ours.channels and ours.strides == [2, 4, 8, 16, 32]


def test_vggs_large_layers_are_convolutions():
    """At each pixel fc6 and fc7 give what VGG's fully connected layers give for its window of 7x7."""
    torch.manual_seed(0)
    small = dict(base_channels=4, fc_channels=16)
    head = build_model("fcn32s_vgg16", 3, **small).head.eval()
    first, second = nn.Linear(32 * 7 * 7, 16), nn.Linear(16, 16)
    for conv, linear in ((head.fc6, first), (head.fc7, second)):
        conv.load_state_dict({"weight": linear.weight.view_as(conv.weight), "bias": linear.bias})
    x = torch.randn(1, 32, 7, 7)
    expected = head.scores[0](second(first(x.flatten(1)).relu()).relu()[:, :, None, None])
    assert_close(head([x, x, x, x])[:, :, 3:4, 3:4], expected)


def test_enlarging_starts_as_bilinear_interpolation():
    up = Up(3)
    assert up.conv.weight[0, 0].sum() == 4  # each input spreads over four outputs
    x = torch.randn(1, 3, 5, 6)
    y, expected = up(x, torch.zeros(1, 3, 10, 12)), resize(x, (10, 12))
    assert_close(y[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])  # at the border it reads zeros
    assert up(x, torch.zeros(1, 3, 11, 12)).shape == (1, 3, 11, 12)


@pytest.mark.parametrize("finest", [32, 16, 8])
def test_fcn_reads_the_maps_it_needs(finest):
    torch.manual_seed(0)
    model = build_model(f"fcn{finest}s_vgg16", 4, base_channels=4, fc_channels=16).eval()
    maps = [m.detach().requires_grad_() for m in model.encoder(torch.randn(1, 3, 96, 160))]
    scores = model.head(maps)
    assert scores.shape == (1, 4, 96 // finest, 160 // finest)
    scores.sum().backward()
    assert [m.grad is not None for m in maps] == [False, finest <= 8, finest <= 16, True]
    assert len(model.head.scores) == {32: 1, 16: 2, 8: 3}[finest]


def test_fcn_needs_its_strides():
    with pytest.raises(UserError, match="strides") as e:
        build_model("fcn_skips", 3, encoder="resnet18", output_stride=8, fc_channels=8)
    assert "[32, 16, 8]" in str(e.value) and "[4, 8, 8, 8]" in str(e.value)
    model = build_model("fcn_skips", 3, encoder="resnet18", fc_channels=8).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 97))["out"].shape == (1, 3, 64, 97)
