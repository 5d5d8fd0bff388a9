"""Contact sheets: pictures with captions in rows, drawn with Pillow alone (feature maps, attention, ..)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from common.drawing import GAP, GREY, INK, font

FIRE = ((0, 0, 4), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164))  # dark to bright
LINE = 15  # pixels of a line of a caption

Panel = tuple[Image.Image, Sequence[str]]  # a picture and the lines of its caption, the first one in black


def fire(values: np.ndarray) -> np.ndarray:
    """Values (H, W) in 0..1 -> colours (H, W, 3) uint8, from dark to bright."""
    at = np.linspace(0, 1, len(FIRE))
    return np.stack([np.interp(values, at, [c[i] for c in FIRE]) for i in range(3)], axis=-1).round().astype(np.uint8)


def enlarge(colours: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """(h, w, 3) uint8 -> a picture of `size` (H, W), each value one rectangle: the map's own resolution."""
    return Image.fromarray(colours).resize(size[::-1], Image.Resampling.NEAREST)  # PIL: (W, H)


def sheet(panels: Sequence[Panel], title: str, note: str, columns: int = 4) -> Image.Image:
    """Panels of one size in rows, below a title and a grey line of text."""
    columns = min(columns, len(panels))
    width, height = panels[0][0].size
    lines = max(len(caption) for _, caption in panels)
    step, rows = (width + GAP, height + lines * LINE + 10), -(-len(panels) // columns)
    needed = max(font(16).getlength(title), font(12).getlength(note)) + 2 * GAP
    out = Image.new("RGB", (max(columns * step[0] + GAP, int(needed) + 1), 56 + rows * step[1]), "white")
    draw = ImageDraw.Draw(out)
    draw.text((GAP, 6), title, fill=INK, font=font(16))
    draw.text((GAP, 30), note, fill=GREY, font=font(12))
    for i, (picture, caption) in enumerate(panels):
        x, y = GAP + i % columns * step[0], 54 + i // columns * step[1]
        out.paste(picture, (x, y))
        for k, text in enumerate(caption):
            draw.text((x, y + height + 3 + k * LINE), text, fill=GREY if k else INK, font=font(12))
    return out


def compact(picture: Image.Image) -> Image.Image:
    """The picture in 256 colours, for files a third of the size."""
    return picture.quantize(256, dither=Image.Dither.NONE)
