"""The tricks of models/layers.py change nothing: each against the plain layers it stands for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.layers import atrous_depthwise, conv_bn, conv_bn_relu, separable_conv_bn_relu
from tests.model_helpers import assert_close, perturb_norms


def plain(block: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    for layer in block:
        x = layer(x)
    return x


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel_size, stride", [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", [3, 20])  # fewer, and more pixels than weights of an output channel
def test_batchnorm_folds_into_the_convolution_in_inference(size, kernel_size, stride, bias):
    torch.manual_seed(0)
    block = conv_bn_relu(20, 5, kernel_size, stride, bias=bias).double().eval()
    perturb_norms(block)
    x = torch.randn(2, 20, size, size + 1, dtype=torch.float64)
    copy_of_x = x.clone()
    with torch.no_grad():
        assert_close(block(x), plain(block, x), 1e-12)
    assert torch.equal(x, copy_of_x)
    assert torch.equal(block(x), plain(block, x))  # with gradients: the plain layers


def test_folding_under_autocast_is_as_exact_as_plain_layers():
    torch.manual_seed(0)
    for size in (3, 20):
        block = conv_bn_relu(32, 16, 1).eval()
        perturb_norms(block)
        x = torch.randn(1, 32, size, size)
        with torch.no_grad():
            exact = plain(block, x)
            with torch.autocast("cpu", torch.bfloat16):
                ours, theirs = block(x).float() - exact, plain(block, x).float() - exact
        assert ours.abs().mean() <= 2 * theirs.abs().mean()


def test_batchnorm_in_training_is_plain():
    torch.manual_seed(0)
    a = conv_bn_relu(4, 5).train()
    b = copy.deepcopy(a)
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(a(x), plain(b, x))
    assert torch.equal(a[1].running_mean, b[1].running_mean) and a[1].num_batches_tracked == 1


def test_folding_is_for_inference_alone_and_leaves_the_weights():
    conv, bn = nn.Conv2d(8, 5, 3, padding=1), nn.BatchNorm2d(5).eval()
    calls = []
    bn.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        before = conv.weight.clone()
        conv_bn(conv, bn, torch.randn(1, 8, 9, 9))  # 81 pixels, 72 weights
        conv_bn(conv, bn, torch.randn(1, 8, 8, 9))
        assert not calls and torch.equal(conv.weight, before)
    conv_bn(conv, bn, torch.randn(1, 8, 9, 9))
    assert calls == [1]


@pytest.mark.parametrize("rate", [1, 2, 5, 6, 7, 12, 40])
def test_atrous_depthwise_is_the_convolution(rate):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, 1, rate, rate, groups=6, bias=False).double()
    x = torch.randn(2, 6, 7, 12, dtype=torch.float64)
    with torch.no_grad():
        assert_close(atrous_depthwise(conv, x), conv(x), 1e-12)


def test_separable_block_in_inference_and_training():
    torch.manual_seed(0)
    block = separable_conv_bn_relu(6, 4, dilation=3)
    perturb_norms(block)
    x = torch.randn(1, 6, 10, 11)
    with torch.no_grad():
        assert_close(block.eval()(x), plain(block, x))
    y = block(x)  # with gradients
    assert_close(y, plain(block, x))
    y.sum().backward()
    assert all(p.grad is not None for p in block.parameters())
