"""The blocks of the encoders and heads once more, with convolution, BatchNorm, sum and ReLU as one operation.

`with_folded_blocks(model)` is a copy of the tree of modules around the same parameters, in which each of these blocks
takes the place of its plain form. It copies no tensor, so every call of a network in inference makes one
(`folded_in_inference`), and weights may change between two calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn

from models import layers
from models.encoders import efficientnet, resnet
from models.inference.fold import add_relu, atrous_depthwise, folded
from models.inference.prepared import PreparedConv


def conv_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor, add: Tensor | None = None, relu: bool = False) -> Tensor:
    """bn(conv(x)) + add, then ReLU where asked for. (B, in, H, W) -> (B, out, H', W'), the shape of `add`."""
    if isinstance(conv, PreparedConv):
        return conv(x, add, relu)
    return add_relu(bn(conv(x)) if bn.training else folded(conv, bn, x), add, relu)


class ConvBNReLU(layers.ConvBNReLU):
    def forward(self, x: Tensor) -> Tensor:
        conv, bn, _ = self
        return conv_bn(conv, bn, x, relu=True)


class SeparableConvBNReLU(layers.SeparableConvBNReLU):
    def forward(self, x: Tensor) -> Tensor:
        depthwise, pointwise, bn, _ = self
        return conv_bn(pointwise, bn, atrous_depthwise(depthwise, x), relu=True)


class BasicBlock(resnet.BasicBlock):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else conv_bn(*self.downsample, x)
        x = conv_bn(self.conv1, self.bn1, x, relu=True)
        return conv_bn(self.conv2, self.bn2, x, add=shortcut, relu=True)


class Bottleneck(resnet.Bottleneck):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else conv_bn(*self.downsample, x)
        x = conv_bn(self.conv1, self.bn1, x, relu=True)
        x = conv_bn(self.conv2, self.bn2, x, relu=True)
        return conv_bn(self.conv3, self.bn3, x, add=shortcut, relu=True)


class ResNet(resnet.ResNet):
    def conv7x7(self, images: Tensor) -> Tensor:
        return conv_bn(self.conv1, self.bn1, images, relu=True)


class ConvBN(efficientnet.ConvBN):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(conv_bn(self.conv, self.bn, self.padded(x)))


BLOCKS = {block.__base__: block for block in (ConvBNReLU, SeparableConvBNReLU, BasicBlock, Bottleneck, ResNet, ConvBN)}


def with_folded_blocks(module: nn.Module) -> nn.Module:
    """`module` with the same parameters, buffers and hooks, and its blocks in their form of this file.

    A module that holds no such block is returned as it is.
    """
    children = {name: with_folded_blocks(child) for name, child in module._modules.items() if child and child._modules}
    block = BLOCKS.get(type(module), type(module))
    if block is type(module) and all(child is module._modules[name] for name, child in children.items()):
        return module
    copy = block.__new__(block)
    copy.__dict__ = module.__dict__ | {"_modules": module._modules | children}
    return copy


def folded_in_inference(forward: Callable) -> Callable:
    """Decorator for the forward of a whole network: the same function of its images, faster without gradients.

    Compilers fold BatchNorm themselves, and on CUDA folding was never measured: both get the plain blocks.
    """

    @wraps(forward)
    def forward_in_inference(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or images.is_cuda
        return forward(network if plain else with_folded_blocks(network), images)

    return forward_in_inference
