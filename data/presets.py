"""The augmentation presets: rows of (probability, step), done in this order. `data.augment` names one of them.

A step is a function `(image (3, H, W) uint8, target (H, W) uint8) -> (image, target)` with its magnitudes filled in.
"""

from __future__ import annotations

from functools import partial

from data.colour import balance, blur, gamma, grey, jitter, noise, self_mixup, sharpen, swap_channels
from data.geometry import elastic, flip, zoom

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
