"""Encoder + head -> logits at input size, and the check of the images that every model starts with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.inference.blocks import folded_in_inference
from models.tensors import resize

SMALLEST = 64  # pixels a side: two pixels on the coarsest map of a stride-32 encoder


def prepare(images: Tensor) -> Tensor:
    """The images in channels-last memory, the layout that all blocks are written for (see models/tensors.py).

    Raises: ValueError unless they are (B, 3, H, W) with H, W >= 64.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
    if min(images.shape[-2:]) < SMALLEST:
        raise ValueError(
            f"expected images of at least {SMALLEST}x{SMALLEST}, got {tuple(images.shape[-2:])}: resize them"
        )
    return images.contiguous(memory_format=torch.channels_last)


class Segmenter(nn.Module):
    """images (B, 3, H, W) -> {"out": logits (B, num_classes, H, W)}, and while training "aux", where built.

    encoder: images -> list of maps. head, aux_head: list of maps -> logits at the size of one of the maps; a head with
    `full_size` also takes the size of the images and gives logits of that size. Logits are resized to the input
    bilinearly (align_corners only where a publisher does so); no softmax. Raises: ValueError for images below 64x64.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Module, aux_head: nn.Module | None = None, align_corners: bool = False
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.encoder = encoder
        self.head = head
        self.aux_head = aux_head
        self.frozen = False

    def freeze_encoder(self) -> None:
        """Do not train the encoder: no gradients, fixed BatchNorm statistics, no dropout, also in training mode."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> Segmenter:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    @folded_in_inference
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        size = images.shape[-2:]
        features = self.encoder(prepare(images))
        full_size = getattr(self.head, "full_size", False)
        logits = {"out": self.head(features, size) if full_size else self.head(features)}
        if self.aux_head is not None and self.training:
            logits["aux"] = self.aux_head(features[:-1])  # on the map before the last, as in PSPNet and torchvision
        return {key: resize(x, size, self.align_corners) for key, x in logits.items()}
