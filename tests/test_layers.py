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
@pytest.mark.parametrize("size", [3, 20])  # fewer, and more pixels than weights of an output channel
def test_batchnorm_folds_into_the_convolution_in_eval(size, bias):
    torch.manual_seed(0)
    block = conv_bn_relu(8, 5, stride=2, bias=bias).double().eval()
    perturb_norms(block)
    x = torch.randn(2, 8, size, size + 1, dtype=torch.float64, requires_grad=True)
    results = []
    for run in (block, lambda x: plain(block, x)):
        block.zero_grad()
        x.grad = None
        y = run(x)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append([y, x.grad, *[p.grad.clone() for p in block.parameters()]])
    for ours, expected in zip(*results):
        assert_close(ours, expected, 1e-12)


def test_batchnorm_in_training_is_plain():
    torch.manual_seed(0)
    a = conv_bn_relu(4, 5).train()
    b = copy.deepcopy(a)
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(a(x), plain(b, x))
    assert torch.equal(a[1].running_mean, b[1].running_mean) and a[1].num_batches_tracked == 1


def test_folding_is_used_where_the_map_is_larger_than_the_weights():
    conv, bn = nn.Conv2d(8, 5, 3, padding=1), nn.BatchNorm2d(5).eval()
    calls = []
    bn.register_forward_hook(lambda *args: calls.append(1))
    with torch.no_grad():
        conv_bn(conv, bn, torch.randn(1, 8, 9, 9))  # 81 pixels, 72 weights
        assert not calls
        conv_bn(conv, bn, torch.randn(1, 8, 8, 9))
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
