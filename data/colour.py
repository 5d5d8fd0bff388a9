"""Colour, blur and noise: the image changes, its mask comes back as it was. Images are uint8 before and after."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from data.draws import uniform

Pair = tuple[Tensor, Tensor]


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
