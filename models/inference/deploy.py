"""A copy of a model for inference on a CPU: what depends on the weights alone is computed once, not in every call.

A call of the model itself multiplies BatchNorm into the weights of its convolutions, and the CPU's library copies those
weights into the order that its kernels read. Both can be done once if the weights stay. Training, loading and averaging
change the weights, so the model itself keeps nothing: you ask for a copy, and the copy has no weights to change.
"""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.errors import UserError
from models.inference.blocks import BLOCKS, with_folded_blocks
from models.inference.prepared import PreparedConv
from models.tensors import full_precision


class Deployed(nn.Module):
    """images (B, 3, H, W) float32 -> what the model returns in eval mode, equal up to rounding; without gradients.

    The network is not a submodule, so that parameters() and state_dict() are empty and no optimizer, checkpoint or
    average can change it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if any(p.device.type != "cpu" for p in model.parameters()):
            raise UserError("deploy: for models on the CPU; on a GPU use torch.compile")
        network = with_folded_blocks(deepcopy(model).eval().requires_grad_(False))
        for block in [m for m in network.modules() if type(m) in BLOCKS.values()]:
            prepare_convs(block)
        self._network = (network,)
        self.eval()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), full_precision(images):
            return self._network[0](images)

    def train(self, mode: bool = True) -> Deployed:
        if mode:
            raise UserError("a deployed model is for inference only: train the model it was made from")
        return super().train(False)


def deploy(model: nn.Module) -> Deployed:
    """A copy of `model` for inference on a CPU. Its first call prepares the weights and is slower than the rest.

    Raises: UserError for a model on another device.
    """
    return Deployed(model)


def prepare_convs(block: nn.Module) -> None:
    """Replace each convolution that BatchNorm follows, in a block of models/inference/blocks.py."""
    for part in block.modules():
        for (name, conv), (_, bn) in pairwise(part.named_children()):
            if type(conv) is nn.Conv2d and isinstance(bn, nn.BatchNorm2d):
                setattr(part, name, PreparedConv(conv, bn))
