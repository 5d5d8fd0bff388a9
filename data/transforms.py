"""Paired transforms: whatever moves the image moves its mask, and nothing else touches the mask.

Images stay uint8 until the last step (a quarter of the memory traffic of float32), masks are resampled by nearest
neighbour only, and pixels that come from outside the picture are 255 (ignored) in the mask: the library's default 0
would teach the network that the void beside the picture is class 0, the road.

torchvision v2 dispatches on the type of its argument (`tv_tensors.Mask` -> nearest), which is all the pairing there
is. Random numbers come from torch's default CPU generator alone; `data.dataset` seeds it for every sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from data.labels import IGNORE_INDEX
from engine.errors import unknown

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, of images in 0..1: what pretrained encoders expect
STD = (0.229, 0.224, 0.225)
PAD_COLOUR = [round(255 * m) for m in MEAN]  # outside the picture: about zero once normalised
Pair = tuple[Tensor, Tensor]


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


# --- geometry: image and target together ------------------------------------------------------------------------


def resize(image: Tensor, target: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """Image (3, H, W) uint8 to `size` (H, W), bilinear with antialiasing; target (H, W) by nearest neighbour."""
    if tuple(image.shape[-2:]) != tuple(size):
        image = TF.resize(image, list(size), antialias=True)
    if target is not None and tuple(target.shape) != tuple(size):
        # 'nearest-exact' takes the pixel at the centre of each cell; 'nearest' would shift the mask by half a pixel.
        values = target.as_subclass(Tensor)[None, None]
        target = tv_tensors.Mask(F.interpolate(values, list(size), mode="nearest-exact")[0, 0])
    return image, target


def flip(image: Tensor, target: Tensor) -> Pair:
    return TF.horizontal_flip(image), TF.horizontal_flip(target)


def zoom(image: Tensor, target: Tensor, scale: tuple[float, float], random_window: float = 1.0) -> Pair:
    """Resize by a random factor, then cut (or pad) back to the size that came in.

    `random_window`: probability that the window lies anywhere; else it is the central one. A factor above 1 is done
    as window first, resize second: the same picture without computing the pixels that are thrown away.
    """
    height, width = image.shape[-2:]
    factor = uniform(*scale)
    anywhere = torch.rand(()).item() < random_window
    down, right = torch.rand(2).tolist() if anywhere else (0.5, 0.5)
    if factor >= 1:
        h, w = max(1, round(height / factor)), max(1, round(width / factor))
        top, left = round(down * (height - h)), round(right * (width - w))
        image, target = (TF.crop(x, top, left, h, w) for x in (image, target))
        return resize(image, target, (height, width))
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    top, left = round(down * (height - h)), round(right * (width - w))
    image, target = resize(image, target, (h, w))
    padding = [left, top, width - w - left, height - h - top]
    return TF.pad(image, padding, fill=PAD_COLOUR), TF.pad(target, padding, fill=IGNORE_INDEX)


def elastic(image: Tensor, target: Tensor, sigma: tuple[float, float], alpha: tuple[float, float]) -> Pair:
    """Smooth random displacement: noise in -1..1, blurred with `sigma` px, times `alpha` px; borders are reflected."""
    height, width = image.shape[-2:]
    shift = gaussian(torch.rand(2, height, width) * 2 - 1, uniform(*sigma)) * uniform(*alpha)  # px: (x, y)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack([(x + shift[0]) / width, (y + shift[1]) / height], -1)[None] * 2 - 1  # (1, H, W, 2) in -1..1
    sample = partial(F.grid_sample, grid=grid, padding_mode="reflection", align_corners=False)
    moved = sample(image[None].float(), mode="bilinear")[0].round_().to(torch.uint8)
    mask = sample(target[None, None].as_subclass(Tensor).float(), mode="nearest")[0, 0].to(torch.uint8)
    return tv_tensors.Image(moved), tv_tensors.Mask(mask)


# --- colour: the image alone ------------------------------------------------------------------------------------


def by_table(image: Tensor, curves: np.ndarray) -> Tensor:
    """Apply one curve to all channels, (256,), or one to each, (3, 256): what maps a value to a value is a lookup."""
    table = np.clip(np.rint(curves), 0, 255).astype(np.uint8)
    values = image.numpy()
    if table.ndim == 1:
        return torch.from_numpy(table[values])
    return torch.from_numpy(np.stack([t[v] for t, v in zip(table, values)]))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of float (C, H, W), `sigma` in px, cut at 3 sigma, borders reflected."""
    reach = min(max(1, math.ceil(3 * sigma)), min(x.shape[-2:]) - 1)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = F.pad(x[:, None], [reach] * 4, mode="reflect")  # channels as batch: one filter serves all
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


def blur(image: Tensor, target: Tensor, radius: tuple[float, float]) -> Pair:
    return gaussian(image.float(), uniform(*radius)).round_().to(torch.uint8), target


def gamma(image: Tensor, target: Tensor, exponent: tuple[float, float]) -> Pair:
    return by_table(image, 255 * (np.arange(256) / 255) ** uniform(*exponent)), target


def jitter(image: Tensor, target: Tensor, amount: float, hue: float = 0.0) -> Pair:
    """Brightness, contrast and saturation by factors 1 +- amount, in this order; hue by +- `hue` turns."""
    brightness, contrast, saturation = (uniform(1 - amount, 1 + amount) for _ in range(3))
    image = by_table(image, np.arange(256) * brightness)
    mean = TF.rgb_to_grayscale(image).float().mean().item()
    image = by_table(image, np.arange(256) * contrast + mean * (1 - contrast))  # away from the mean grey
    image = TF.adjust_saturation(image, saturation)
    if hue:
        image = TF.adjust_hue(image, uniform(-hue, hue))
    return image, target


def swap_channels(image: Tensor, target: Tensor) -> Pair:
    return image[torch.randperm(3)], target


def grey(image: Tensor, target: Tensor) -> Pair:
    return TF.rgb_to_grayscale(image, num_output_channels=3), target


def sharpen(image: Tensor, target: Tensor, factor: tuple[float, float]) -> Pair:
    return TF.adjust_sharpness(image, uniform(*factor)), target


def balance(image: Tensor, target: Tensor, gain: tuple[float, float]) -> Pair:
    """Each channel times its own gain: another white balance."""
    return by_table(image, np.stack([np.arange(256) * uniform(*gain) for _ in range(3)])), target


def noise(image: Tensor, target: Tensor, sigma: float) -> Pair:
    """Gaussian noise; `sigma` as a fraction of full scale."""
    return (image + torch.randn(image.shape) * (255 * sigma)).round_().clamp_(0, 255).to(torch.uint8), target


def self_mixup(image: Tensor, target: Tensor, keep: tuple[float, float]) -> Pair:
    """Blend the image with a channel-swapped copy of itself: colours move, no label does."""
    share = uniform(*keep)
    other = image[torch.randperm(3)]
    return (share * image.float() + (1 - share) * other.float()).round_().to(torch.uint8), target


# --- levels: rows of (probability, step), done in this order ------------------------------------------------------

# System D. It scales up with p 0.5 and crops with p 0.4, independently, and the network's size is fixed; read here as:
# zoom in by 1.0-1.2 with p 0.5, the window anywhere with p 0.4 and central otherwise.
_STANDARD = [
    (0.5, flip),
    (0.5, partial(zoom, scale=(1.0, 1.2), random_window=0.4)),
    (0.5, partial(jitter, amount=0.2)),
    (0.25, partial(gamma, exponent=(0.7, 1.3))),
    (0.3, partial(blur, radius=(0.1, 1.0))),
]
_ADVANCED = [
    (0.1, partial(elastic, sigma=(3.0, 7.0), alpha=(10.0, 30.0))),
    (0.1, swap_channels),
    (0.1, grey),
    (0.15, partial(jitter, amount=0.3, hue=0.1)),
    (0.1, partial(balance, gain=(0.8, 1.2))),
    (0.05, partial(self_mixup, keep=(0.6, 0.8))),
    (0.15, partial(blur, radius=(0.1, 1.0))),
    (0.1, partial(sharpen, factor=(1.0, 2.0))),
    (0.1, partial(noise, sigma=5 / 255)),
]
AUGMENTS: dict[str, list] = {"none": [], "standard": _STANDARD, "advanced": _STANDARD + _ADVANCED}


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
