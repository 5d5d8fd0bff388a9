"""models/inference/deploy.py, prepared.py and winograd.py: the same logits in less time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from models import build_model, deploy
from models.inference import prepared, winograd
from models.layers import conv_bn_relu
from tests.model_helpers import assert_close, perturb_norms
from tests.models.test_models import FAMILIES


def seen(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images)["out"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_logits(name):
    torch.manual_seed(0)
    model = build_model(name, 5, **FAMILIES[name]).eval()
    perturb_norms(model)
    fast = deploy(model)
    for size in ((64, 96), (97, 161), (64, 96)):  # prepared at the first size, right at every other
        images = torch.randn(2, 3, *size)
        assert_close(fast(images)["out"], seen(model, images), 1e-4)


@pytest.mark.parametrize("name", ["deeplabv3plus_resnet18", "segformer_efficientnet_b0", "unet"])
def test_in_double_precision_they_agree_to_its_last_digits(name):
    torch.manual_seed(0)
    model = build_model(name, 5, **FAMILIES[name]).double()
    perturb_norms(model)
    images = torch.randn(1, 3, 97, 161, dtype=torch.float64)
    assert_close(deploy(model)(images)["out"], seen(model, images), 1e-12)


def test_without_the_library_that_reorders_weights(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(prepared, "reordered", None)
    torch.manual_seed(0)
    model = build_model("deeplabv3plus_resnet18", 5, **FAMILIES["deeplabv3plus_resnet18"])
    perturb_norms(model)
    images = torch.randn(1, 3, 64, 96)
    assert_close(deploy(model)(images)["out"], seen(model, images), 1e-4)


def test_wide_convolutions_go_through_winograd(monkeypatch):
    calls, plain = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda *args: calls.append(args) or plain(*args))
    torch.manual_seed(0)
    model = build_model("fcn_resnet50", 5)
    images = torch.randn(1, 3, 128, 256)
    expected = seen(model, images)
    assert not calls  # only a deployed copy may keep transformed filters
    assert_close(deploy(model)(images)["out"], expected, 1e-4)
    assert len(calls) == 2  # the last stage's 3x3 of dilation 2, and the head's; at dilation 4 sixteen rows are too few


def test_the_copy_is_apart_from_its_model():
    torch.manual_seed(0)
    model = build_model("unet", 3, base_channels=8).train()
    images = torch.randn(1, 3, 64, 64)
    fast = deploy(model)
    before = fast(images)["out"]
    assert model.training and all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(fast(images)["out"], before)
    assert not before.requires_grad
    assert seen(model, images).abs().max() == 0


def test_there_are_no_weights_to_change():
    model = build_model("unet", 3, base_channels=8)
    fast = deploy(model)
    assert not fast.state_dict() and not list(fast.parameters())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        fast.load_state_dict(model.state_dict())
    with pytest.raises(UserError, match="for inference only"):
        fast.train()
    assert not fast.eval().training


def test_only_on_the_cpu():
    with pytest.raises(UserError, match="on the CPU"):
        deploy(build_model("unet", 3, base_channels=8).to("meta"))


def test_autocast_does_not_reach_it():
    torch.manual_seed(0)
    model = build_model("unet", 3, base_channels=8)
    images = torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = deploy(model)(images)["out"]
    assert_close(out, seen(model, images), 1e-5)


# --- F(2x2, 3x3) ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (7, 5), (16, 33)])
@pytest.mark.parametrize("rate", [1, 2, 4, 5])
def test_winograd_is_the_convolution(rate, size, memory_format, monkeypatch):
    monkeypatch.setattr(winograd, "SCRATCH", 2000)  # several rounds
    torch.manual_seed(0)
    x = torch.randn(2, 6, *size, dtype=torch.float64).to(memory_format=memory_format)
    weight = torch.randn(7, 6, 3, 3, dtype=torch.float64).to(memory_format=memory_format)
    y = winograd.conv3x3(x, winograd.transform_filters(weight), rate)
    assert_close(y, F.conv2d(x, weight, padding=rate, dilation=rate), 1e-13)


def test_winograd_rounds_as_a_direct_convolution_does():
    torch.manual_seed(0)
    x, weight = torch.randn(1, 512, 16, 16).relu(), torch.randn(64, 512, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    y = winograd.conv3x3(x, winograd.transform_filters(weight))
    error = (y - exact).square().mean() / exact.square().mean()
    assert error.sqrt() < 1e-6  # the errors of both: python -m benchmarks.winograd


@pytest.mark.parametrize(
    "changed, size, expected",
    [
        ({}, (16, 32), True),
        ({}, (8, 16), False),  # few tiles
        (dict(dilation=4), (32, 64), True),
        (dict(dilation=4), (16, 64), False),  # grids of four rows
        (dict(stride=2), (32, 64), False),
        (dict(kernel_size=1), (32, 64), False),
        (dict(in_channels=128), (32, 64), False),
    ],
)
def test_where_winograd_pays(changed, size, expected):
    conv = conv_bn_relu(**dict(in_channels=512, out_channels=512) | changed)[0]
    x = torch.empty(1, conv.in_channels, *size, device="meta")
    assert winograd.pays(conv, x) == expected
