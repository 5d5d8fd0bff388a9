"""models/inference/fold.py and blocks.py: a network without gradients gives the values of its plain blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import build_encoder, build_model
from models.encoders.efficientnet import MBConv
from models.inference.blocks import BLOCKS, with_folded_blocks
from models.inference.fold import atrous_depthwise, folded
from models.layers import conv_bn_relu, separable_conv_bn_relu
from tests.model_helpers import assert_close, perturb_norms
from tests.models.test_models import FAMILIES


def prepared(block: nn.Module) -> nn.Module:
    perturb_norms(block)
    return block.double().eval()


def without_gradients(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return with_folded_blocks(block)(x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_size, stride", [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", [3, 20])  # fewer, and more pixels than weights of an output channel
def test_folded_is_the_convolution_and_batchnorm(size, kernel_size, stride, bias):
    torch.manual_seed(0)
    conv, bn, _ = prepared(conv_bn_relu(20, 5, kernel_size, stride, bias=bias))
    x = torch.randn(2, 20, size, size + 1, dtype=torch.float64)
    before, weight = x.clone(), conv.weight.clone()
    with torch.no_grad():
        assert_close(folded(conv, bn, x), bn(conv(x)), 1e-12)
    assert torch.equal(x, before) and torch.equal(conv.weight, weight)


def test_folding_under_autocast_is_as_exact_as_plain_layers():
    torch.manual_seed(0)
    for size in (3, 20):
        conv, bn, _ = block = conv_bn_relu(32, 16, 1).eval()
        perturb_norms(block)
        x = torch.randn(1, 32, size, size)
        with torch.no_grad():
            exact = bn(conv(x))
            with torch.autocast("cpu", torch.bfloat16):
                ours, theirs = folded(conv, bn, x).float() - exact, bn(conv(x)).float() - exact
        assert ours.abs().mean() <= 2 * theirs.abs().mean()


@pytest.mark.parametrize("rate", [1, 2, 5, 6, 7, 12, 40])
def test_atrous_depthwise_is_the_convolution(rate):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, 1, rate, rate, groups=6, bias=False).double()
    x = torch.randn(2, 6, 7, 12, dtype=torch.float64)
    with torch.no_grad():
        assert_close(atrous_depthwise(conv, x), conv(x), 1e-12)


BLOCKS_BY_NAME = {
    "conv_bn_relu": lambda: conv_bn_relu(64, 8),
    "separable": lambda: separable_conv_bn_relu(64, 8, dilation=3),
    "basic": lambda: build_encoder("resnet18").layer1[0],
    "basic, projection": lambda: build_encoder("resnet18").layer2[0],
    "bottleneck": lambda: build_encoder("resnet50").layer1[0],
    "mbconv": lambda: MBConv(64, 64, 6, 5, 1, 0.0),
    "mbconv, padding": lambda: MBConv(64, 8, 6, 5, 2, 0.0, padding="same"),
}


@pytest.mark.parametrize("name", BLOCKS_BY_NAME)
def test_every_block_equals_its_plain_form(name):
    torch.manual_seed(0)
    block = prepared(BLOCKS_BY_NAME[name]())
    x = torch.randn(2, 64, 11, 14, dtype=torch.float64)
    norms = [m.register_forward_hook(lambda *args: pytest.fail("not folded")) for m in norms_of(block)]
    y = without_gradients(block, x)
    for handle in norms:
        handle.remove()
    assert_close(y, block(x), 1e-12)


def norms_of(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def test_every_block_has_a_plain_form_that_models_use():
    used = {type(m) for name in FAMILIES for m in build_model(name, 5, **FAMILIES[name]).modules()}
    separable = build_model("deeplabv3plus_resnet50", 5, separable=True)
    assert BLOCKS.keys() <= used | {type(m) for m in separable.modules()}


@pytest.mark.parametrize("name", ["unet", "better_seg_network", "deeplabv3plus_resnet18"])
def test_networks_fold_without_gradients_and_only_then(name):
    torch.manual_seed(0)
    model = build_model(name, 3, **FAMILIES[name]).eval()
    x, calls = torch.randn(1, 3, 64, 64), []
    for bn in norms_of(model):
        bn.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        model(x)
    folded_ones = len(norms_of(model)) - len(calls)
    assert folded_ones >= 0.8 * len(norms_of(model))  # all but those whose convolution a head takes apart
    calls.clear()
    model(x)
    assert len(calls) == len(norms_of(model))


def test_batchnorm_in_training_mode_is_not_folded():
    torch.manual_seed(0)
    model = build_model("unet", 3, base_channels=8).train()
    mean = model.stem[0][1].running_mean.clone()
    with torch.no_grad():  # as when statistics are collected again for an average of models
        model(torch.randn(2, 3, 64, 64))
    assert not torch.equal(model.stem[0][1].running_mean, mean)
    assert model.stem[0][1].num_batches_tracked == 1


def test_the_copy_shares_parameters_buffers_and_hooks():
    model = build_model("deeplabv3plus_resnet18", 3).eval()
    copy, seen = with_folded_blocks(model), []
    assert copy is not model and type(model.encoder.layer1[0]) in BLOCKS  # the model keeps its plain blocks
    ours, theirs = model.state_dict(keep_vars=True), copy.state_dict(keep_vars=True)
    assert ours.keys() == theirs.keys() and all(ours[key] is theirs[key] for key in ours)
    model.encoder.layer2.register_forward_hook(lambda *args: seen.append("stage"))
    model.encoder.layer2[1].register_forward_hook(lambda *args: seen.append("block"))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    assert seen == ["block", "stage"]


def test_weights_may_change_between_two_calls():
    torch.manual_seed(0)
    model = build_model("unet", 3, base_channels=8).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)["out"]
        for p in model.parameters():
            p.mul_(1.01)
        after = model(x)["out"]
    assert not torch.equal(before, after)
    assert_close(after, model(x)["out"], 1e-4)


def test_a_module_without_such_blocks_is_returned_as_it_is():
    encoder = build_encoder("mit_b0")
    assert with_folded_blocks(encoder) is encoder
