"""From a decoded pair to what the network sees: resize, augment by a preset, normalise.

Images stay uint8 until the last step: a quarter of the memory traffic of float32. What the steps do stands in
data/geometry.py and data/colour.py, which of them with what probability and magnitude in data/presets.py. Random
numbers come from torch's default CPU generator alone; `data.dataset` seeds it for every sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors

from data.geometry import Pair, resize
from data.presets import AUGMENTS
from engine.errors import unknown

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of images in 0..1: what pretrained encoders expect
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Transform:
    """Resize, augment, normalise. `__call__(image (3,H,W) uint8, target (H,W) uint8)` -> (float32, int64)."""

    steps: list
    size: tuple[int, int] | None
    native_target: bool = False  # leave the target at its own size: for scores at native resolution

    def __call__(self, image: Tensor, target: Tensor) -> Pair:
        image, target = tv_tensors.Image(image), tv_tensors.Mask(target)
        if self.size is not None:
            image, resized = resize(image, None if self.native_target else target, self.size)
            target = target if self.native_target else resized
        for probability, step in self.steps:
            if torch.rand(()).item() < probability:
                image, target = step(image, target)
        return normalise(image), target.as_subclass(Tensor).long()


def build_transform(augment: str, size: tuple[int, int] | None, native_target: bool = False) -> Transform:
    """The transform of an augmentation level. Raises: UserError for an unknown level."""
    if augment not in AUGMENTS:
        raise unknown("augmentation level (data.augment)", augment, AUGMENTS)
    if native_target and AUGMENTS[augment]:
        raise ValueError("native_target needs augment 'none': image and target could not move together")
    return Transform(AUGMENTS[augment], size, native_target)


def normalise(image: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) in 0..255 -> float32 with ImageNet's mean and standard deviation removed."""
    mean = torch.tensor(MEAN).view(3, 1, 1) * 255
    std = torch.tensor(STD).view(3, 1, 1) * 255
    return image.as_subclass(Tensor).float().sub_(mean).div_(std)


def denormalise(image: Tensor) -> Tensor:
    """The inverse of `normalise`, for pictures in reports: float32 -> uint8."""
    mean = torch.tensor(MEAN, device=image.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=image.device).view(3, 1, 1) * 255
    return (image * std + mean).round_().clamp_(0, 255).to(torch.uint8)
