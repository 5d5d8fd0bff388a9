"""The plain blocks of models/layers.py and of the ResNets compute what their papers write."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import build_encoder
from models.layers import conv_bn_relu, separable_conv_bn_relu
from tests.model_helpers import perturb_norms


def test_conv_bn_relu_is_these_three_layers():
    torch.manual_seed(0)
    a = conv_bn_relu(4, 5).train()
    b = copy.deepcopy(a)
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(a(x), F.relu(b[1](b[0](x))))
    assert torch.equal(a[1].running_mean, b[1].running_mean) and a[1].num_batches_tracked == 1


@pytest.mark.parametrize("depthwise_norm", [False, True])
def test_separable_block_is_its_layers_one_after_the_other(depthwise_norm):
    torch.manual_seed(0)
    block = separable_conv_bn_relu(6, 4, dilation=3, depthwise_norm=depthwise_norm).train()
    assert [type(m) for m in block.modules() if not list(m.children())] == (
        [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2 if depthwise_norm else [nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    )
    plain, x = copy.deepcopy(block), torch.randn(2, 6, 10, 11)
    y = block(x)
    for layer in plain.modules():
        x = x if list(layer.children()) else layer(x)
    assert torch.equal(y, x)
    y.sum().backward()
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("stage", ["layer1", "layer2"])  # without and with a projection in the first block (ResNet-18)
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_block_adds_the_shortcut_before_the_last_relu(name, stage):
    torch.manual_seed(0)
    block = getattr(build_encoder(name), stage)[0].train()
    perturb_norms(block)
    plain, x = copy.deepcopy(block), torch.randn(2, block.conv1.in_channels, 8, 10)
    y = x
    last = 2 if name == "resnet18" else 3
    for i in range(1, last + 1):
        y = getattr(plain, f"bn{i}")(getattr(plain, f"conv{i}")(y))
        y = F.relu(y) if i < last else y
    shortcut = x if plain.downsample is None else plain.downsample(x)
    assert torch.equal(block(x), F.relu(y + shortcut))
