"""Geometric steps: image and mask move together.

Masks are resampled by nearest neighbour. Pixels from outside the image are 255 (ignored) in the mask; torchvision's
default 0 would teach the network that the padding is class 0, the road.

torchvision v2 chooses the interpolation by the type of its argument (`tv_tensors.Mask` -> nearest).
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from data.augment.colour import gaussian
from data.augment.draws import below, uniform
from data.labels import IGNORE_INDEX

PAD_COLOUR = [124, 116, 104]  # outside the image: ImageNet's mean colour, about zero after normalisation
Pair = tuple[Tensor, Tensor]


def resize_pair(image: Tensor, target: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
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

    random_window: probability that the window lies anywhere; else it is central. For a factor above 1 the window is cut
    before the resize: the same result without computing pixels that are thrown away.
    """
    height, width = image.shape[-2:]
    factor = uniform(*scale)
    anywhere = torch.rand(()).item() < random_window
    down, right = torch.rand(2).tolist() if anywhere else (0.5, 0.5)
    if factor >= 1:
        h, w = max(1, round(height / factor)), max(1, round(width / factor))
        top, left = round(down * (height - h)), round(right * (width - w))
        image, target = (TF.crop(x, top, left, h, w) for x in (image, target))
        return resize_pair(image, target, (height, width))
    h, w = max(1, round(height * factor)), max(1, round(width * factor))
    top, left = round(down * (height - h)), round(right * (width - w))
    image, target = resize_pair(image, target, (h, w))
    padding = [left, top, width - w - left, height - h - top]
    return TF.pad(image, padding, fill=PAD_COLOUR), TF.pad(target, padding, fill=IGNORE_INDEX)


def affine(image: Tensor, target: Tensor, shift: float, scale: float, degrees: float) -> Pair:
    """Rotate by +- `degrees` about the centre, scale by 1 +- `scale`, shift by +- `shift` of height and width.

    Pixels from outside the image are ignored. System B padded its masks with 0, so every rotated image taught that its
    black corners are road.
    """
    height, width = image.shape[-2:]
    angle, factor = uniform(-degrees, degrees), uniform(1 - scale, 1 + scale)
    right, down = width * uniform(-shift, shift), height * uniform(-shift, shift)
    move = partial(TF.affine, angle=angle, translate=[right, down], scale=factor, shear=[0.0, 0.0])
    smooth = TF.InterpolationMode.BILINEAR
    return move(image, interpolation=smooth, fill=PAD_COLOUR), move(target, fill=IGNORE_INDEX)


def scaled_crop(
    image: Tensor,
    target: Tensor,
    scale: float,
    size: tuple[int, int],
    most: float = 1.0,
    wanted: int | None = None,
    tries: int = 10,
) -> Pair:
    """A random window of `size` (h, w) of the image scaled by `scale`; all of the image if that is smaller than `size`.

    Another window is tried, up to `tries` times, while one class fills more than `most` of the labelled pixels or none
    is labelled (`cat_max_ratio` of mmsegmentation's RandomCrop), or while the window does not show the class `wanted`.
    The window is cut before the resize: the same result without computing pixels that are thrown away.
    """
    height, width = image.shape[-2:]
    h_out, w_out = (min(round(side * scale), s) for side, s in zip((height, width), size))
    h, w = min(height, max(1, round(h_out / scale))), min(width, max(1, round(w_out / scale)))
    for _ in range(1 + tries):
        top, left = below(height - h + 1), below(width - w + 1)
        window = target[top : top + h, left : left + w]
        if (most >= 1 or largest_share(window) <= most) and (wanted is None or (window == wanted).any()):
            break
    image, target = (TF.crop(x, top, left, h, w) for x in (image, target))
    return resize_pair(image, target, (h_out, w_out))


def largest_share(target: Tensor) -> float:
    """Share of the commonest class in the labelled pixels; 1 if no pixel is labelled."""
    counts = torch.bincount(target.as_subclass(Tensor).flatten(), minlength=256)
    counts[IGNORE_INDEX] = 0
    return (counts.max() / counts.sum()).item() if counts.any() else 1.0


def pad(image: Tensor, target: Tensor, size: tuple[int, int]) -> Pair:
    """Fill up to `size` (h, w) on the right and at the bottom: mean colour in the image, ignored in the mask."""
    h, w = image.shape[-2:]
    padding = [0, 0, max(0, size[1] - w), max(0, size[0] - h)]  # left, top, right, bottom
    if not any(padding):
        return image, target
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
