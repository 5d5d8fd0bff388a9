"""From a decoded pair to the input of the network: resize, augment by a preset, crop, normalise.

Images stay uint8 until the last step: a quarter of the memory traffic of float32. geometry.py and colour.py hold the
steps, presets.py their probabilities and magnitudes. Random numbers come from torch's default CPU generator only;
`data.dataset` seeds it for every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors

from common.errors import unknown
from common.imagenet import MEAN, STD
from data.augment.draws import pick
from data.augment.geometry import Pair, pad, resize_pair, scaled_crop
from data.augment.presets import AUGMENTS, Preset


@dataclass(frozen=True)
class Transform:
    """Resize, augment, crop, normalise. `__call__(image (3,H,W) uint8, target (H,W) uint8)` -> (float32, int64)."""

    preset: Preset
    size: tuple[int, int] | None
    native_target: bool = False  # leave the target at its own size, for scores at native resolution
    crop: tuple[int, int] | None = None  # input size in training; None: `size`

    def __call__(self, image: Tensor, target: Tensor, wanted: int | None = None) -> Pair:
        """wanted: a class that the crop should show."""
        preset = self.preset
        image, target = self.resized(image, target)
        image, target = apply(preset.before, tv_tensors.Image(image), tv_tensors.Mask(target))
        if self.crop or len(preset.scales) > 1:
            size = self.crop or tuple(image.shape[-2:])
            image, target = scaled_crop(image, target, pick(preset.scales), size, preset.most, wanted)
            image, target = pad(*apply(preset.after, image, target), size)
        else:
            image, target = apply(preset.after, image, target)
        return normalise(image), target.as_subclass(Tensor).long()

    def resized(self, image: Tensor, target: Tensor) -> Pair:
        """The first step, without randomness: image and target at `size`, uint8."""
        if self.size is None:
            return image, target
        image, resized = resize_pair(image, None if self.native_target else target, self.size)
        return image, target if self.native_target else resized


def apply(rows: Sequence, image: Tensor, target: Tensor) -> Pair:
    """Apply each step with its probability, in order."""
    for probability, step in rows:
        if torch.rand(()).item() < probability:
            image, target = step(image, target)
            image, target = tv_tensors.Image(image), tv_tensors.Mask(target)  # some steps return plain tensors
    return image, target


def build_transform(
    augment: str, size: tuple[int, int] | None, native_target: bool = False, crop: tuple[int, int] | None = None
) -> Transform:
    """The transform of an augmentation preset. Raises: UserError for an unknown one."""
    preset = find_preset(augment)
    if native_target and (preset != AUGMENTS["none"] or crop):
        raise ValueError("native_target needs augment 'none' and no crop: image and target cannot move together")
    return Transform(preset, size, native_target, crop)


def find_preset(name: str) -> Preset:
    if name not in AUGMENTS:
        raise unknown("augmentation preset (data.augment)", name, AUGMENTS)
    return AUGMENTS[name]


def normalise(image: Tensor) -> Tensor:
    """uint8 (..., 3, H, W) in 0..255 -> float32 normalised by ImageNet's mean and standard deviation."""
    mean = torch.tensor(MEAN).view(3, 1, 1) * 255
    std = torch.tensor(STD).view(3, 1, 1) * 255
    return image.as_subclass(Tensor).float().sub_(mean).div_(std)


def denormalise(image: Tensor) -> Tensor:
    """The inverse of `normalise`, for pictures: float32 -> uint8."""
    mean = torch.tensor(MEAN, device=image.device).view(3, 1, 1) * 255
    std = torch.tensor(STD, device=image.device).view(3, 1, 1) * 255
    return (image * std + mean).round_().clamp_(0, 255).to(torch.uint8)
