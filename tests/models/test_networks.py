"""U-Nets, BetterSegNetwork and the basic network equal their publishers' networks, rewritten here from their code.

The references are functions of a plain dictionary of weights under the publishers' own names; each test renames ours to
theirs one to one, so nothing is left over on either side. smp is installed and is its own reference.
"""

from __future__ import annotations

import copy
import re

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import build_model
from models.networks.basic_seg_network import bilinear_
from tests.model_helpers import assert_close, perturb_norms

Weights = dict[str, Tensor]


def perturbed(name: str, num_classes: int, **options) -> nn.Module:
    """A model in float64 and eval mode where every weight matters: no zero bias, no BatchNorm that is the identity."""
    torch.manual_seed(0)
    model = build_model(name, num_classes, **options).double().eval()
    perturb_norms(model)
    for m in model.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(m.weight, std=m.weight[0].numel() ** -0.5)
            if m.bias is not None:
                nn.init.normal_(m.bias, std=0.2)
    return model


def renamed(weights: Weights, names: dict[str, str]) -> Weights:
    """Our state dict under the publisher's names; `names` maps modules to modules."""
    out = {}
    for key, value in weights.items():
        module, leaf = key.rsplit(".", 1)
        out[f"{names[module]}.{leaf}"] = value
    assert len(out) == len(weights)
    return out


def compare(model: nn.Module, reference, names: dict[str, str], sizes: list[tuple[int, int]]) -> None:
    used = Used(renamed(model.state_dict(), names))
    for size in sizes:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            assert_close(model(x)["out"], reference(used, x), 1e-9)
    assert {k for k in used if not k.endswith("num_batches_tracked")} == used.seen


class Used(dict):
    """Remembers which weights were read, to show that a reference uses all of them."""

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.seen = set()

    def __getitem__(self, key: str) -> Tensor:
        self.seen.add(key)
        return super().__getitem__(key)


def conv(p: Weights, name: str, x: Tensor, **options) -> Tensor:
    bias = p[f"{name}.bias"] if f"{name}.bias" in p else None
    return F.conv2d(x, p[f"{name}.weight"], bias, **options)


def norm(p: Weights, name: str, x: Tensor) -> Tensor:
    statistics = (p[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *statistics, eps=1e-5)


# --- system B: BetterSegNetwork ---------------------------------------------------------------------------------------


def better_names() -> dict[str, str]:
    names = {"classifier": "segmentation_head.14"}
    for s, depth in enumerate((2, 2, 3, 3, 3)):
        names[f"stages.{s}.shortcut"] = f"res_conv{s + 1}"
        for i in range(depth):
            names |= {
                f"stages.{s}.convs.{i}.0.0": f"conv{s + 1}_{i + 1}",
                f"stages.{s}.convs.{i}.0.1": f"gn{s + 1}_{i + 1}",
            }
    for i in range(2):
        names |= {f"center.{i}.0.0": f"center_conv{i + 1}", f"center.{i}.0.1": f"center_gn{i + 1}"}
        for u in range(4):
            names |= {f"up.{u}.conv.{i}.0": f"dec{5 - u}.conv{i + 1}", f"up.{u}.conv.{i}.1": f"dec{5 - u}.gn{i + 1}"}
    for i, place in enumerate((0, 3, 7, 10)):
        names |= {f"last.{i}.0.{j}": f"segmentation_head.{place + j}" for j in range(2)}
    return names


def better_reference(p: Weights, x: Tensor) -> Tensor:
    size = x.shape[-2:]
    pooled = []
    for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
        shortcut = conv(p, f"res_conv{stage}", x)
        d = 2 if stage == 5 else 1
        for i in range(1, depth + 1):
            x = conv(p, f"conv{stage}_{i}", x, padding=d, dilation=d)
            x = norm(p, f"gn{stage}_{i}", x).relu()
        x = x + shortcut
        if stage < 5:
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            pooled.append(x)
    for i in (1, 2):
        x = norm(p, f"center_gn{i}", conv(p, f"center_conv{i}", x, padding=4, dilation=4)).relu()
    for stage in (5, 4, 3, 2):
        skip = pooled[stage - 2]
        x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, skip], dim=1)
        for i in (1, 2):
            x = norm(p, f"dec{stage}.gn{i}", conv(p, f"dec{stage}.conv{i}", x, padding=1)).relu()
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    for i in (0, 3, 7, 10):
        x = norm(p, f"segmentation_head.{i + 1}", conv(p, f"segmentation_head.{i}", x, padding=1)).relu()
    return conv(p, "segmentation_head.14", x)


def test_better_seg_network_equals_its_description():
    model = perturbed("better_seg_network", 5, base_channels=4)
    compare(model, better_reference, better_names(), [(64, 96), (97, 161)])


def test_better_seg_network_drops_where_the_original_does():
    model = build_model("better_seg_network", 5, base_channels=4)
    rates = {key: m.p for key, m in model.named_modules() if isinstance(m, nn.Dropout2d) and m.p}
    deep = {f"stages.{s}.convs.{i}.1": r for s, r in ((3, 0.1), (4, 0.2)) for i in range(3)}
    assert rates == deep | {"last.1.1": 0.1, "last.3.1": 0.1}
    again = build_model("better_seg_network", 5, base_channels=4, dropout=0.0)
    again.load_state_dict(model.state_dict())  # the rate names no parameter
    assert not any(m.p for m in again.modules() if isinstance(m, nn.Dropout2d))


# --- system E: the basic network --------------------------------------------------------------------------------------

BASIC = {
    "stages.0.0.0": "backbone.conv1_1", "stages.0.1.0": "backbone.conv1_2", "stages.1.0.0": "backbone.conv2_1",
    "stages.2.0.0": "backbone.conv3_1", "stages.3.0.0": "backbone.conv4_1", "deep.0": "backbone.conv5_1",
    "deep.3": "backbone.conv5_2", "classifier": "backbone.conv5_3", "up.0": "decode_head.upsample_cov1",
    "up.1": "decode_head.upsample_cov2", "up.2": "decode_head.upsample_cov3",
}  # fmt: skip


def basic_reference(p: Weights, images: Tensor) -> Tensor:
    x = images
    for names in (("1_1", "1_2"), ("2_1",), ("3_1",), ("4_1",)):
        for name in names:
            x = conv(p, f"backbone.conv{name}", x, padding=1).relu()
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
    x = conv(p, "backbone.conv5_1", x).relu()
    x = conv(p, "backbone.conv5_2", x).relu()
    x = conv(p, "backbone.conv5_3", x)
    x = F.conv_transpose2d(x, p["decode_head.upsample_cov1.weight"], stride=2, output_padding=1)
    x = F.conv_transpose2d(x, p["decode_head.upsample_cov2.weight"], stride=2)
    x = F.conv_transpose2d(x, p["decode_head.upsample_cov3.weight"], stride=2, padding=1)
    assert x.shape[-2:] == tuple(8 * -(-side // 16) for side in images.shape[-2:])
    return F.interpolate(x, size=images.shape[2:], mode="bilinear", align_corners=True)


def test_basic_seg_network_equals_its_description():
    model = perturbed("basic_seg_network", 5, base_channels=4)
    compare(model, basic_reference, BASIC, [(64, 64), (97, 161)])
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout2d)] == [0.5, 0.5]


def test_basic_seg_network_is_blind_at_two_edges():
    """As published: no tap reaches the row and column that output_padding adds, so the logits there are 0."""
    model = perturbed("basic_seg_network", 5, base_channels=4)
    with torch.no_grad():
        x = model.up(model.classifier(model.deep(model.stages(torch.randn(1, 3, 80, 96, dtype=torch.float64)))))
    assert x.shape[-2:] == (40, 48)
    assert not x[..., 37:, :].any() and not x[..., 45:].any()
    assert (x[..., :37, :45].abs().amin(1) > 0).all()


def test_basic_seg_network_starts_as_bilinear_enlarging():
    """Away from the border each class is enlarged separately: a ramp becomes a ramp of half the slope."""
    up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1, bias=False)
    bilinear_(up.weight)
    ramp = torch.arange(6.0).expand(1, 2, 6, 6) * torch.tensor([1.0, 0.0])[None, :, None, None]
    expected = F.interpolate(ramp, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(up(ramp)[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert torch.equal(build_model("basic_seg_network", 2, base_channels=2).up[1].weight, up.weight)


# --- U-Net: milesial, system D, mateuszbuda, mmseg --------------------------------------------------------------------


def milesial_names() -> dict[str, str]:
    """conv and BatchNorm of the two halves of a double convolution: 0, 1 and 3, 4 there; 0.0, 0.1, 1.0, 1.1 here."""
    names = {"classifier": "outc.conv"} | {f"up.{i}.up": f"up{i + 1}.up" for i in range(4)}
    for ours, theirs in (("0.0", 0), ("0.1", 1), ("1.0", 3), ("1.1", 4)):
        names[f"stem.{ours}"] = f"inc.double_conv.{theirs}"
        for i in range(4):
            names[f"down.{i}.1.{ours}"] = f"down{i + 1}.maxpool_conv.1.double_conv.{theirs}"
            names[f"up.{i}.conv.{ours}"] = f"up{i + 1}.conv.double_conv.{theirs}"
    return names


def milesial_reference(p: Weights, x: Tensor) -> Tensor:
    """Transposed convolutions if the weights have them, else bilinear with align_corners; pads to the skip."""

    def double(name: str, x: Tensor) -> Tensor:
        x = norm(p, f"{name}.double_conv.1", conv(p, f"{name}.double_conv.0", x, padding=1)).relu()
        return norm(p, f"{name}.double_conv.4", conv(p, f"{name}.double_conv.3", x, padding=1)).relu()

    maps = [double("inc", x)]
    for i in range(1, 5):
        maps.append(double(f"down{i}.maxpool_conv.1", F.max_pool2d(maps[-1], 2)))
    x = maps.pop()
    for i in range(1, 5):
        skip = maps.pop()
        if f"up{i}.up.weight" in p:
            x = F.conv_transpose2d(x, p[f"up{i}.up.weight"], p[f"up{i}.up.bias"], stride=2)
        else:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        x = double(f"up{i}.conv", torch.cat([skip, x], dim=1))
    return conv(p, "outc.conv", x)


@pytest.mark.parametrize("form", ["milesial", "milesial_bilinear", "system_d"])
def test_unet_equals_milesial(form):
    model = perturbed("unet", 2, form=form, base_channels=4)
    compare(model, milesial_reference, milesial_names(), [(64, 96), (97, 161)])
    biases = [m.bias for m in model.stem.modules() if isinstance(m, nn.Conv2d)]
    assert all((bias is not None) == (form == "system_d") for bias in biases)


def mateuszbuda_names() -> dict[str, str]:
    names = {"classifier": "conv"}
    levels = [f"encoder{n}.enc{n}" for n in range(1, 5)] + ["bottleneck.bottleneck"]
    for i in range(2):
        for j, kind in enumerate(("conv", "norm")):
            names[f"stem.{i}.{j}"] = f"{levels[0]}{kind}{i + 1}"
            for n in range(4):
                names[f"down.{n}.1.{i}.{j}"] = f"{levels[n + 1]}{kind}{i + 1}"
                names[f"up.{n}.conv.{i}.{j}"] = f"decoder{4 - n}.dec{4 - n}{kind}{i + 1}"
                names[f"up.{n}.up"] = f"upconv{4 - n}"
    return names


def mateuszbuda_reference(p: Weights, x: Tensor) -> Tensor:
    def double(name: str, x: Tensor) -> Tensor:
        for i in (1, 2):
            x = norm(p, f"{name}norm{i}", conv(p, f"{name}conv{i}", x, padding=1)).relu()
        return x

    skips = []
    for level in (1, 2, 3, 4):
        skips.append(double(f"encoder{level}.enc{level}", x))
        x = F.max_pool2d(skips[-1], 2)
    x = double("bottleneck.bottleneck", x)
    for level in (4, 3, 2, 1):
        x = F.conv_transpose2d(x, p[f"upconv{level}.weight"], p[f"upconv{level}.bias"], stride=2)
        x = double(f"decoder{level}.dec{level}", torch.cat([x, skips[level - 1]], dim=1))
    return conv(p, "conv", x)


def test_unet_equals_mateuszbuda():
    model = perturbed("unet", 1, form="mateuszbuda", base_channels=4)
    compare(model, mateuszbuda_reference, mateuszbuda_names(), [(64, 96), (80, 64)])
    with torch.no_grad():
        assert model(torch.randn(1, 3, 97, 161).double())["out"].shape == (1, 1, 97, 161)  # there: refused
    assert build_model("unet", 1, form="mateuszbuda").stem[0][0].out_channels == 32


def mmseg_names() -> dict[str, str]:
    names = {"classifier": "decode_head.conv_seg"}
    for j, kind in enumerate(("conv", "bn")):
        names[f"last.{j}"] = f"decode_head.convs.0.{kind}"
        for n in range(4):
            names[f"up.{n}.reduce.{j}"] = f"backbone.decoder.{3 - n}.upsample.interp_upsample.1.{kind}"
        for i in range(2):
            names[f"stem.{i}.{j}"] = f"backbone.encoder.0.0.convs.{i}.{kind}"
            for n in range(4):
                names[f"down.{n}.1.{i}.{j}"] = f"backbone.encoder.{n + 1}.1.convs.{i}.{kind}"
                names[f"up.{n}.conv.{i}.{j}"] = f"backbone.decoder.{3 - n}.conv_block.convs.{i}.{kind}"
    return names


def mmseg_reference(p: Weights, x: Tensor) -> Tensor:
    def module(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return norm(p, f"{name}.bn", conv(p, f"{name}.conv", x, padding=padding)).relu()

    maps = []
    for level in range(5):
        if level > 0:
            x = F.max_pool2d(x, 2)
        for i in range(2):
            x = module(f"backbone.encoder.{level}.{min(level, 1)}.convs.{i}", x)
        maps.append(x)
    for level in (3, 2, 1, 0):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = module(f"backbone.decoder.{level}.upsample.interp_upsample.1", x, padding=0)
        x = torch.cat([maps[level], x], dim=1)
        for i in range(2):
            x = module(f"backbone.decoder.{level}.conv_block.convs.{i}", x)
    return conv(p, "decode_head.conv_seg", module("decode_head.convs.0", x))


def test_unet_equals_mmseg():
    model = perturbed("unet", 5, form="mmseg", base_channels=4)
    compare(model, mmseg_reference, mmseg_names(), [(64, 96), (80, 64)])
    with torch.no_grad():
        assert model(torch.randn(1, 3, 97, 161).double())["out"].shape == (1, 5, 97, 161)  # there: refused
    assert model.dropout.p == 0.1


def test_ways_to_fit_an_odd_side_agree_on_even_ones_only():
    x = torch.randn(1, 3, 96, 64), torch.randn(1, 3, 97, 65)
    for up in ("transposed", "bilinear", "bilinear_conv"):
        torch.manual_seed(0)
        resized = build_model("unet", 3, base_channels=4, up=up, fit="resize").eval()
        padded = build_model("unet", 3, base_channels=4, up=up, fit="pad").eval()
        padded.load_state_dict(resized.state_dict())
        with torch.no_grad():
            assert torch.equal(resized(x[0])["out"], padded(x[0])["out"])
            assert not torch.allclose(resized(x[1])["out"], padded(x[1])["out"], atol=1e-3)


@pytest.mark.parametrize("form", ["milesial", "milesial_bilinear", "mmseg", "mateuszbuda", "system_d"])
def test_every_form_of_unet_trains_on_one_image(form):
    torch.manual_seed(0)
    model = build_model("unet", 1, form=form, base_channels=4, dropout=0.0).train()
    out = model(torch.randn(1, 3, 64, 97))["out"]
    assert out.shape == (1, 1, 64, 97)
    F.binary_cross_entropy_with_logits(out, torch.rand(1, 1, 64, 97).round()).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, key


# --- U-Net on an encoder: smp -----------------------------------------------------------------------------------------


def from_smp(weights: Weights) -> Weights:
    """smp's names -> ours: blocks.0.conv1.0 -> head.blocks.0.conv.0.0."""
    out = {}
    for key, value in weights.items():
        key = re.sub(r"^decoder\.blocks\.(\d)\.conv(\d)\.", lambda m: f"head.blocks.{m[1]}.conv.{int(m[2]) - 1}.", key)
        out[re.sub(r"^segmentation_head\.0\.", "head.classifier.", key)] = value
    return out


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_unet_on_an_encoder_equals_smp(name):
    torch.manual_seed(0)
    peer = smp.Unet(name, encoder_weights=None, classes=5).double().eval()
    perturb_norms(peer)
    ours = build_model(f"unet_{name}", 5, form="smp").double().eval()
    ours.load_state_dict(from_smp(peer.state_dict()), strict=True)
    for size in ((64, 96), (97, 161)) if name == "resnet18" else ((65, 98),):
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            assert_close(ours(x)["out"], peer(x), 1e-9)


def test_unet_decoder_on_other_maps():
    """Without a stem map two blocks only enlarge; dilated maps stay as large; without size the last one doubles."""
    x = torch.randn(1, 3, 65, 98)
    for options in ({}, dict(stem=True, output_stride=8)):
        small = dict(encoder="resnet18", decoder_widths=(16, 16, 8, 8, 8), **options)
        model = build_model("unet_decoder", 3, **small).eval()
        with torch.no_grad():
            assert model(x)["out"].shape == (1, 3, 65, 98)
            if options:
                assert model.head(model.encoder(x)).shape == (1, 3, 66, 98)


# --- exports ----------------------------------------------------------------------------------------------------------


SMALL = [
    ("unet", dict(base_channels=4, form="milesial_bilinear")),
    ("unet", dict(base_channels=4, form="mmseg")),
    ("unet_resnet18", dict(decoder_widths=(16, 16, 8, 8, 8))),
    ("better_seg_network", dict(base_channels=4)),
    ("basic_seg_network", dict(base_channels=4)),
]


@pytest.mark.parametrize("name, options", SMALL)
def test_exported_program_gives_the_same_logits(name, options):
    torch.manual_seed(0)
    model = build_model(name, 3, **options).eval()
    perturb_norms(model)
    x = torch.randn(1, 3, 65, 97)
    program = torch.export.export(copy.deepcopy(model), (x,))
    with torch.no_grad():
        assert_close(program.module()(x)["out"], model(x)["out"])
