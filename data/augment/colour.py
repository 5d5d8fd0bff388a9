"""Colour, blur and noise: steps that change the image and return the mask as it is. Images are uint8 before and
after."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from data.augment.draws import pick, uniform

Pair = tuple[Tensor, Tensor]


def by_table(image: Tensor, curves: np.ndarray) -> Tensor:
    """Map values by one curve for all channels, (256,), or one per channel, (3, 256)."""
    table = np.clip(np.rint(curves), 0, 255).astype(np.uint8)
    values = image.numpy()
    if table.ndim == 1:
        return torch.from_numpy(table[values])
    return torch.from_numpy(np.stack([t[v] for t, v in zip(table, values)]))


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur of float (C, H, W), `sigma` in px, cut at 3 sigma, borders reflected.

    A sum of shifted copies is about five times as fast on a CPU as two convolutions, for kernels this short.
    """
    height, width = x.shape[-2:]
    reach = min(max(1, math.ceil(3 * sigma)), min(height, width) - 1)
    taps = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-reach, reach + 1)]
    taps = [tap / sum(taps) for tap in taps]
    x = F.pad(x[None], [reach] * 4, mode="reflect")[0]
    rows = x[:, :height] * taps[0]
    for shift, tap in enumerate(taps[1:], start=1):
        rows.add_(x[:, shift : shift + height], alpha=tap)
    out = rows[:, :, :width] * taps[0]
    for shift, tap in enumerate(taps[1:], start=1):
        out.add_(rows[:, :, shift : shift + width], alpha=tap)
    return out


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
        image = turn_hue(image, uniform(-hue, hue))
    return image, target


def brightness_contrast(image: Tensor, target: Tensor, brightness: float, contrast: float) -> Pair:
    """value * (1 +- contrast) + 255 * (+- brightness), as albumentations' RandomBrightnessContrast computes it."""
    factor, shift = uniform(1 - contrast, 1 + contrast), uniform(-brightness, brightness)
    return by_table(image, np.arange(256) * factor + 255 * shift), target


def hue_saturation(image: Tensor, target: Tensor, hue: float, saturation: float, value: float) -> Pair:
    """Shift all three coordinates of HSV: hue by +- `hue` turns, the others by +- a share of full scale.

    Grey pixels have no hue and stay grey, whatever is added to their saturation. (OpenCV and albumentations give them
    hue 0, so a shift makes grey roads red.)
    """
    turn = uniform(-hue, hue)
    more, lighter = uniform(-saturation, saturation), uniform(-value, value)
    x = _hue_turned(image.as_subclass(Tensor).float().div_(255), turn)
    top, low = x.amax(0), x.amin(0)  # (H, W): value, and value * (1 - saturation)
    colour = (top - low).clamp_(min=1e-6)
    saturated = ((colour / top.clamp(min=1e-6)) + more).clamp_(0, 1) * top / colour  # new chroma / old chroma
    x = top - (top - x) * torch.where(top > low, saturated, 1.0)  # value and hue stay
    value = (top + lighter).clamp_(0, 1)
    x = torch.where(top > 0, x * (value / top.clamp(min=1e-6)), value)  # what was black is now dark grey
    return x.mul_(255).round_().clamp_(0, 255).to(torch.uint8), target


def photometric(
    image: Tensor,
    target: Tensor,
    brightness: float = 32,
    contrast: tuple[float, float] = (0.5, 1.5),
    saturation: tuple[float, float] = (0.5, 1.5),
    hue: float = 18,
) -> Pair:
    """Photometric distortion as mmsegmentation's PhotoMetricDistortion orders it, each part with p 0.5: brightness,
    contrast (here or at the end, equally likely), saturation, hue. After SSD (arXiv 1512.02325).

    brightness: added, of 255. contrast: a factor of the values, not about their mean. saturation: a factor of the S of
    HSV, at most full. hue: +- in OpenCV's units of 2 degrees, so 18 is a tenth of a turn.
    """
    contrast_last = _coin()
    if _coin():
        image = by_table(image, np.arange(256) + uniform(-brightness, brightness))
    if not contrast_last and _coin():
        image = by_table(image, np.arange(256) * uniform(*contrast))
    if _coin():
        image = scale_saturation(image, uniform(*saturation))
    if _coin():
        image = turn_hue(image, uniform(-hue, hue) / 180)
    if contrast_last and _coin():
        image = by_table(image, np.arange(256) * uniform(*contrast))
    return image, target


def _coin() -> bool:
    return torch.rand(()).item() < 0.5


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """The S of HSV times `factor`, at most full; hue and value stay. No conversion to HSV is needed: for a fixed
    largest channel, S is proportional to the distances of the others from it, and full if the smallest is 0."""
    x = image.as_subclass(Tensor).float()
    top, low = x.amax(0), x.amin(0)  # (H, W)
    most = torch.where(top > low, top / (top - low).clamp(min=1), 1.0)  # factor at which saturation is full
    return (top - (top - x) * most.clamp(max=factor)).round_().clamp_(0, 255).to(torch.uint8)


def turn_hue(image: Tensor, turns: float) -> Tensor:
    """The H of HSV moved by `turns` of the circle; saturation and value stay."""
    return _hue_turned(image.as_subclass(Tensor).float(), turns).round_().clamp_(0, 255).to(torch.uint8)


def _hue_turned(x: Tensor, turns: float) -> Tensor:
    """Float (3, H, W). Each channel is the largest one minus chroma times a trapezium function of the hue."""
    top, low = x.amax(0), x.amin(0)  # (H, W)
    chroma = top - low
    (r, g, b), safe = x, chroma.clamp(min=1e-6)
    green = torch.where(top == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    sextant = torch.where(top == r, (g - b) / safe, green) + 6 * turns  # the hue, in sixths of a turn
    phase = (sextant + torch.tensor([5.0, 3.0, 1.0])[:, None, None]).remainder_(6)  # (3, H, W)
    return top - chroma * torch.minimum(phase, 4 - phase).clamp_(0, 1)


def swap_channels(image: Tensor, target: Tensor) -> Pair:
    return image[torch.randperm(3)], target


def grey(image: Tensor, target: Tensor) -> Pair:
    return TF.rgb_to_grayscale(image, num_output_channels=3), target


def sharpen(image: Tensor, target: Tensor, factor: tuple[float, float]) -> Pair:
    return TF.adjust_sharpness(image, uniform(*factor)), target


def balance(image: Tensor, target: Tensor, gain: tuple[float, float]) -> Pair:
    """Each channel times its own gain: a changed white balance."""
    return by_table(image, np.stack([np.arange(256) * uniform(*gain) for _ in range(3)])), target


def noise(image: Tensor, target: Tensor, sigma: tuple[float, float]) -> Pair:
    """Gaussian noise, independent in every pixel and channel; `sigma` as a fraction of full scale."""
    amount = 255 * uniform(*sigma)
    return (image + torch.randn(image.shape) * amount).round_().clamp_(0, 255).to(torch.uint8), target


def motion_blur(image: Tensor, target: Tensor, lengths: tuple[int, ...]) -> Pair:
    """Mean along a line through each pixel: an odd length in px, any direction, borders reflected."""
    kernel = line_kernel(pick(lengths), uniform(0, math.pi))
    reach = len(kernel) // 2
    x = F.pad(image.as_subclass(Tensor).float()[:, None], [reach] * 4, mode="reflect")  # channels as batch
    return F.conv2d(x, kernel[None, None])[:, 0].round_().clamp_(0, 255).to(torch.uint8), target


def line_kernel(length: int, angle: float) -> Tensor:
    """(length, length): a line through the middle at `angle` radians, summing to 1."""
    steps = torch.linspace(-1, 1, 8 * length) * (length - 1) / 2
    row = (length // 2 + steps * math.sin(angle)).round().long()
    column = (length // 2 + steps * math.cos(angle)).round().long()
    kernel = torch.zeros(length, length)
    kernel[row, column] = 1
    return kernel / kernel.sum()


def self_mixup(image: Tensor, target: Tensor, keep: tuple[float, float]) -> Pair:
    """Blend the image with a copy of itself whose channels are permuted."""
    share = uniform(*keep)
    other = image[torch.randperm(3)]
    return (share * image.float() + (1 - share) * other.float()).round_().to(torch.uint8), target


def one_of(image: Tensor, target: Tensor, steps: tuple) -> Pair:
    """Apply one of several steps, all equally likely."""
    return pick(steps)(image, target)
