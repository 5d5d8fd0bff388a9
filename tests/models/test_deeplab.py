"""ResNet, ASPP and DeepLab: equal to torchvision's from random weights, dilation rules, the pooled branch as a bias."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from models import build_encoder, build_model
from models.encoders.resnet import RESNET
from models.heads.aspp import ASPP, ImagePooling
from models.layers import conv_bn_relu, separable_conv_bn_relu
from tests.model_helpers import assert_close, perturb_norms

SMALL_PLUS = dict(separable=True, aspp_channels=32, decoder_channels=32, low_level_channels=16, dropout=0.0)
SYSTEM_D = dict(output_stride=8, dilate="whole_stage", decoder_convs=2, concat="aspp_first", dropout=0.5)


# --- parity with torchvision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RESNET)
def test_resnet_equals_torchvision(name):
    torch.manual_seed(0)
    peer = getattr(torchvision.models, name)(weights=None).eval()
    perturb_norms(peer)
    weights = {k: v for k, v in peer.state_dict().items() if not k.startswith("fc.")}
    ours = build_encoder(name, stem=True).eval()
    ours.load_state_dict(weights, strict=True)
    x = torch.randn(1, 3, 97, 65)
    with torch.no_grad():
        features = ours(x)
        y = peer.relu(peer.bn1(peer.conv1(x)))
        expected = [y]
        y = peer.maxpool(y)
        for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4):
            y = layer(y)
            expected.append(y)
    assert len(features) == 5
    for ours_map, their_map in zip(features, expected):
        assert_close(ours_map, their_map)
    assert [f.shape[1] for f in features] == ours.channels
    assert [math.ceil(97 / s) for s in ours.strides] == [f.shape[2] for f in features]


@pytest.mark.parametrize("output_stride, replace", [(16, (False, False, True)), (8, (False, True, True))])
def test_dilated_resnet50_equals_torchvision(output_stride, replace):
    torch.manual_seed(0)
    peer = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=replace).eval()
    perturb_norms(peer)
    ours = build_encoder("resnet50", output_stride=output_stride).eval()
    ours.load_state_dict({k: v for k, v in peer.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        y = peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        for layer in (peer.layer1, peer.layer2, peer.layer3, peer.layer4):
            y = layer(y)
        assert_close(ours(x)[-1], y)
        whole = build_encoder("resnet50", output_stride=output_stride, dilate="whole_stage").eval()
        whole.load_state_dict(ours.state_dict())  # the same parameters, another function
        assert (whole(x)[-1] - y).abs().max() > 1e-2 * y.abs().max()


def from_torchvision(weights: dict) -> dict:
    """torchvision's names of DeepLabV3 -> ours."""
    renames = [("backbone.", "encoder."), ("classifier.0.convs.4.1.", "head.aspp.pooling.conv."),
               ("classifier.0.convs.4.2.", "head.aspp.pooling.bn."), ("classifier.0.convs.", "head.aspp.branches."),
               ("classifier.0.project.", "head.aspp.project."), ("classifier.1.", "head.conv.0."),
               ("classifier.2.", "head.conv.1."), ("classifier.4.", "head.classifier."),
               ("aux_classifier.0.", "aux_head.convs.0.0."), ("aux_classifier.1.", "aux_head.convs.0.1."),
               ("aux_classifier.4.", "aux_head.classifier.")]  # fmt: skip
    out = {}
    for key, value in weights.items():
        theirs, ours = next(pair for pair in renames if key.startswith(pair[0]))
        out[ours + key.removeprefix(theirs)] = value
    return out


@pytest.fixture(scope="module")
def deeplab_pair():
    torch.manual_seed(0)
    make = torchvision.models.segmentation.deeplabv3_resnet50
    peer = make(weights=None, weights_backbone=None, num_classes=19, aux_loss=True)
    perturb_norms(peer)
    ours = build_model("deeplabv3_resnet50", 19, aux=True)
    ours.load_state_dict(from_torchvision(peer.state_dict()), strict=True)
    return ours, peer


def test_deeplabv3_equals_torchvision(deeplab_pair):
    ours, peer = (m.eval() for m in deeplab_pair)
    x = torch.randn(2, 3, 64, 97)
    with torch.no_grad():
        out, expected = ours(x), peer(x)["out"]
    assert list(out) == ["out"]  # aux only while training
    assert_close(out["out"], expected)


def test_deeplabv3_trains_as_torchvision(deeplab_pair):
    """Logits of both heads and a gradient at the far end, with batch statistics."""
    results = []
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for model in deeplab_pair:
        model = copy.deepcopy(model).train().double()
        for m in model.modules():
            m.p = 0.0 if isinstance(m, nn.Dropout) else getattr(m, "p", None)
        out = model(x.double())
        (out["out"].square().mean() + out["aux"].square().mean()).backward()
        encoder = getattr(model, "encoder", None) or model.backbone
        results.append((out["out"], out["aux"], encoder.conv1.weight.grad))
    for ours, theirs in zip(*results):
        assert_close(ours, theirs, 1e-9)


# --- ASPP: the pooled branch as a bias --------------------------------------------------------------------------------


def textbook_aspp(aspp: ASPP, x: torch.Tensor) -> torch.Tensor:
    """As in the paper: the pooled vector expanded to the map's size and concatenated."""
    pooled = F.relu(aspp.pooling.bn(aspp.pooling.conv(F.adaptive_avg_pool2d(x, 1))))
    pooled = F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return aspp.project(torch.cat([*[branch(x) for branch in aspp.branches], pooled], dim=1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("separable", [True, False])
def test_aspp_equals_the_textbook_formula_with_its_gradients(training, separable):
    torch.manual_seed(0)
    fast = ASPP(6, 8, (2, 3), separable_conv_bn_relu if separable else conv_bn_relu).double().train(training)
    perturb_norms(fast)
    plain = copy.deepcopy(fast)
    x = torch.randn(3, 6, 7, 9, dtype=torch.float64)
    probe, results = torch.randn(3, 8, 7, 9, dtype=torch.float64), []
    for module, run in ((fast, fast), (plain, lambda x: textbook_aspp(plain, x))):
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        (y * probe).sum().backward()
        results.append([y, leaf.grad, *[p.grad for p in module.parameters()], *module.buffers()])
    assert len(results[0]) == len(results[1])
    for ours, expected in zip(*results):
        assert torch.allclose(ours.double(), expected.double(), rtol=1e-12, atol=1e-12)


def test_pooling_of_a_single_image():
    torch.manual_seed(0)
    pool = ImagePooling(4, 5)
    perturb_norms(pool)
    before = copy.deepcopy(pool.state_dict())
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    y = pool.train()(x)
    y.sum().backward()
    assert x.grad.abs().sum() > 0 and pool.bn.weight.grad is not None
    assert all(torch.equal(before[k], v) for k, v in pool.state_dict().items())
    assert torch.equal(y, pool.eval()(x))
    two = torch.randn(2, 4, 6, 6)
    plain = F.relu(copy.deepcopy(pool.bn).train()(pool.conv(two.mean((2, 3), keepdim=True))))
    assert torch.equal(pool.train()(two), plain)
    assert not torch.equal(before["bn.running_mean"], pool.bn.running_mean)  # two images do count
    assert pool.bn.eval() and torch.isfinite(pool(x)).all()  # a frozen layer in a model that trains


# --- dilation, rates, forms -------------------------------------------------------------------------------------------


def test_coarsest_map_of_the_smallest_image_trains_alone():
    model = build_model("deeplabv3plus_resnet18", 3, output_stride=32, **SMALL_PLUS).train()
    assert model(torch.randn(1, 3, 64, 64))["out"].shape == (1, 3, 64, 64)


@pytest.mark.parametrize("output_stride, sizes", [(32, (16, 8, 4, 2)), (16, (16, 8, 4, 4)), (8, (16, 8, 8, 8))])
@pytest.mark.parametrize("dilate", ["first_keeps", "whole_stage"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_output_stride_and_dilation(name, dilate, output_stride, sizes):
    encoder = build_encoder(name, output_stride=output_stride, dilate=dilate).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, 64, 64))
    assert tuple(f.shape[-1] for f in maps) == sizes == tuple(64 // s for s in encoder.strides)
    last = {32: 1, 16: 2, 8: 4}[output_stride]
    first = last if dilate == "whole_stage" else max(1, last // 2)
    convs = [(b, c) for b, c in _convs3x3(encoder.layer4)]
    assert {c.dilation[0] for b, c in convs if b > 0} == {last}
    assert {c.dilation[0] for b, c in convs if b == 0} == {first}


def _convs3x3(stage: nn.Sequential) -> list[tuple[int, nn.Conv2d]]:
    return [
        (i, m)
        for i, block in enumerate(stage)
        for m in block.modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)
    ]


def test_rates_follow_the_output_stride():
    for stride, rates in ((8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])):
        for name in ("deeplabv3_resnet18", "deeplabv3plus_resnet18"):
            branches = build_model(name, 2, output_stride=stride).head.aspp.branches
            assert [b[0].dilation[0] for b in branches[1:]] == rates
    branches = build_model("deeplabv3_resnet18", 2, atrous_rates=(2, 5)).head.aspp.branches
    assert [b[0].dilation[0] for b in branches[1:]] == [2, 5]


def test_concat_order_is_a_permutation_of_the_decoders_inputs():
    torch.manual_seed(0)
    ours = build_model("deeplabv3plus_resnet18", 3, **{**SMALL_PLUS, "separable": False}).eval()
    other = build_model("deeplabv3plus_resnet18", 3, **{**SMALL_PLUS, "separable": False}, concat="low_first").eval()
    weights = ours.state_dict()
    key = "head.decoder.0.0.weight"  # (32, 32 + 16, 3, 3)
    weights[key] = torch.cat([weights[key][:, 32:], weights[key][:, :32]], dim=1)
    other.load_state_dict(weights)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(other(x)["out"], ours(x)["out"])


def test_system_d():
    """ResNet-34 at output stride 8: every 3x3 of stages 3 and 4 dilated, two fusion convolutions."""
    model = build_model("deeplabv3plus_resnet34", 19, **SYSTEM_D)
    assert model.encoder.strides == [4, 8, 8, 8]
    assert [c.dilation for _, c in _convs3x3(model.encoder.layer3)] == [(2, 2)] * 12
    assert [c.dilation for _, c in _convs3x3(model.encoder.layer4)] == [(4, 4)] * 6
    assert [b[0].dilation[0] for b in model.head.aspp.branches[1:]] == [12, 24, 36]
    fusion = [m for m in model.head.decoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in fusion] == [(304, 256, (3, 3)), (256, 256, (3, 3))]
    assert model.head.aspp.dropout.p == 0.5
