"""The augmentation presets: rows of (probability, step), applied in order. `data.augment` names one of them.

A step is a function `(image (3, H, W) uint8, target (H, W) uint8) -> (image, target)` with its magnitudes filled in.
docs/augmentation.md has the same table in words, with sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from data.augment import colour, geometry


@dataclass(frozen=True)
class Preset:
    """`before`: rows applied at `data.size`. Then a window of `data.crop` is cut from the image scaled by one of
    `scales`; another window is tried while one class fills more than `most` of it. `after`: rows applied to the
    window."""

    before: Sequence = ()
    after: Sequence = ()
    scales: tuple[float, ...] = (1.0,)
    most: float = 1.0


# System D scales up with p 0.5 and crops with p 0.4, independently, for a fixed network size. We read that as: zoom in
# by 1.0-1.2 with p 0.5; the window is anywhere with p 0.4, else in the centre.
_STANDARD = [
    (0.5, geometry.flip),
    (0.5, partial(geometry.zoom, scale=(1.0, 1.2), random_window=0.4)),
    (0.5, partial(colour.jitter, amount=0.2)),
    (0.25, partial(colour.gamma, exponent=(0.7, 1.3))),
    (0.3, partial(colour.blur, radius=(0.1, 1.0))),
]
_ADVANCED = [
    (0.1, partial(geometry.elastic, sigma=(3.0, 7.0), alpha=(10.0, 30.0))),
    (0.1, colour.swap_channels),
    (0.1, colour.grey),
    (0.15, partial(colour.jitter, amount=0.3, hue=0.1)),
    (0.1, partial(colour.balance, gain=(0.8, 1.2))),
    (0.05, partial(colour.self_mixup, keep=(0.6, 0.8))),
    (0.15, partial(colour.blur, radius=(0.1, 1.0))),
    (0.1, partial(colour.sharpen, factor=(1.0, 2.0))),
    (0.1, partial(colour.noise, sigma=(5 / 255, 5 / 255))),
]
# System B names steps and probabilities; magnitudes it does not print are the defaults of albumentations 1.x, whose
# steps these are: brightness and contrast 0.2, jitter 0.2 (hue too), HSV shifts 20/180, 30/255, 20/255, kernels of 3 to
# 7 px (a Gaussian of OpenCV's sigma for them, 0.8 to 1.4), noise of variance 10 to 50.
_ROAD_GEOMETRY = [(0.5, geometry.flip), (0.4, partial(geometry.affine, shift=0.1, scale=0.1, degrees=20))]
_ROAD_NOISE = (
    partial(colour.motion_blur, lengths=(3, 5, 7)),
    partial(colour.blur, radius=(0.8, 1.4)),
    partial(colour.noise, sigma=(10**0.5 / 255, 50**0.5 / 255)),
)
_ROAD_COLOUR = [
    (0.3, partial(colour.brightness_contrast, brightness=0.2, contrast=0.2)),
    (0.3, partial(colour.jitter, amount=0.2, hue=0.2)),
    (0.3, partial(colour.hue_saturation, hue=20 / 180, saturation=30 / 255, value=20 / 255)),
    (0.2, partial(colour.one_of, steps=_ROAD_NOISE)),
]
# System E, the order of mmsegmentation's training pipeline: scale, crop, flip, distort, pad.
_KITTI_TRANSFER = Preset(
    after=[(0.5, geometry.flip), (1.0, colour.photometric)], scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), most=0.75
)

AUGMENTS: dict[str, Preset] = {
    "none": Preset(),
    "standard": Preset(_STANDARD),
    "advanced": Preset(_STANDARD + _ADVANCED),
    "road": Preset(_ROAD_GEOMETRY, _ROAD_COLOUR),
    "kitti_transfer": _KITTI_TRANSFER,
}
