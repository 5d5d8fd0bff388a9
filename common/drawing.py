"""Helpers to draw pages of pictures with Pillow: typeface, class colours, legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, GREY = (34, 34, 34), (102, 102, 102)
GAP, TITLE, LINE = 8, 26, 20  # pixels


def font(size: int):
    """Pillow's built-in typeface, which has one size only before Pillow 10.1."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def colourise(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Class indices (H, W) -> colours (H, W, 3); indices beyond the palette are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[ids.astype(np.uint8)]


def legend_strip(palette: np.ndarray, class_names: Sequence[str], width: int) -> Image.Image:
    """Colour swatches with class names, wrapped to `width` pixels."""
    letters, places, x, y = font(13), [], GAP, 4
    for name in class_names:
        wide = 18 + letters.getlength(name) + 18
        if x + wide > width and x > GAP:
            x, y = GAP, y + LINE
        places.append((x, y))
        x += wide
    out = Image.new("RGB", (width, y + LINE + 4), "white")
    draw = ImageDraw.Draw(out)
    for (x, y), name, colour in zip(places, class_names, palette.tolist()):
        draw.rectangle((x, y + 2, x + 12, y + 14), fill=tuple(colour), outline=GREY)
        draw.text((x + 18, y), name, fill=INK, font=letters)
    return out
