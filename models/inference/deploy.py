"""A copy of a model for inference on a CPU: what depends on the weights alone is computed once, not in every call.

`conv_bn` (models/layers.py) multiplies BatchNorm into a convolution's weights in each call, and the CPU's library puts
the weights into the order its kernels read. Both are the same every time, as long as the weights are. A model that is
trained, loaded or averaged changes them, so nothing is ever kept in the model itself: `deploy(model)` is asked for, and
its result has no weights that could be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.inference import winograd
from models.layers import add_relu, scale_and_shift
from models.tensors import full_precision


class Deployed(nn.Module):
    """images (B, 3, H, W) float32 -> what the model returns in eval mode, equal up to rounding; without gradients.

    The network is kept out of the module's parameters and state, so that no optimizer, file or average gets hold of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if any(p.device.type != "cpu" for p in model.parameters()):
            raise UserError("deploy: for models on the CPU; on a GPU use torch.compile")
        network = deepcopy(model).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.folded = _prepared_once(module)
        self._network = (network,)
        self.eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), full_precision(images):
            return self._network[0](images)

    def train(self, mode: bool = True) -> Deployed:
        if mode:
            raise UserError("a deployed model is for inference alone: train the model it was made from")
        return super().train(False)


def deploy(model: nn.Module) -> Deployed:
    """A copy of `model` for inference on a CPU. Its first call prepares the weights and is slower than the rest.

    Raises: UserError for a model on another device.
    """
    return Deployed(model)


Layer = Callable[[Tensor, Tensor | None, bool], Tensor]  # (x, add, relu) -> conv_bn's result


def _prepared_once(conv: nn.Conv2d) -> Callable[[nn.BatchNorm2d, Tensor, Tensor | None, bool], Tensor]:
    """conv_bn of this convolution, prepared at its first map: which BatchNorm follows is known only there."""
    ready: list[Layer] = []

    def folded(bn: nn.BatchNorm2d, x: Tensor, add: Tensor | None, relu: bool) -> Tensor:
        if not ready:
            ready.append(_prepare(conv, bn, x))
            conv.weight = None  # not needed any more, and as large as what replaces it
        return ready[0](x, add, relu)

    return folded


def _prepare(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor) -> Layer:
    """bn(conv(x)) with everything done that does not need x; whichever of the three ways is fastest for it."""
    scale, shift = scale_and_shift(conv, bn)
    weight = (conv.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    shape = conv.stride, conv.padding, conv.dilation, conv.groups
    if winograd.pays(conv, x):
        filters, rate = winograd.transform_filters(weight), conv.dilation[0]
        return lambda x, add, relu: add_relu(winograd.conv3x3(x, filters, rate).add_(shift[:, None, None]), add, relu)
    if weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return reordered(weight, shift, shape, x.shape)
    return lambda x, add, relu: add_relu(F.conv2d(x, weight, shift, *shape), add, relu)


def reordered(weight: Tensor, bias: Tensor, shape: tuple, size: torch.Size) -> Layer:
    """The convolution as torch.compile emits it: there is no public way to hand it weights in the kernel's own order.

    They are ordered for maps of `size` and right for any. The sum and the ReLU are done while the result is written.
    """
    kernels, (stride, padding, dilation, groups) = torch.ops.mkldnn, shape
    weight = kernels._reorder_convolution_weight(weight, padding, stride, dilation, groups, list(size))

    def layer(x: Tensor, add: Tensor | None, relu: bool) -> Tensor:
        geometry = padding, stride, dilation, groups
        if add is None:
            return kernels._convolution_pointwise(x, weight, bias, *geometry, "relu" if relu else "none", [], "")
        then = "relu" if relu else None
        return kernels._convolution_pointwise.binary(x, add, weight, bias, *geometry, "add", 1.0, then, [], None)

    return layer
