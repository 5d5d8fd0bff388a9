"""Draw the sheet of drawn streets in docs/README.md: several cities and weathers, each image above its labels.

python -m tools.streets_sheet --out docs/images/streets.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from common.drawing import colourise
from data.labels import CITYSCAPES_IDS
from data.streets import CITIES, SEED, draw_frame

# (split, city's place in CITIES, frame): chosen by eye, for variety
SHEET = (("val", 3, 6), ("val", 1, 1), ("train", 15, 8), ("train", 1, 9), ("val", 4, 5), ("train", 6, 2))
COLUMNS, GAP = 3, 6
PALETTE = np.array([colour for _, _, colour in CITYSCAPES_IDS.values()], np.uint8)  # of labelIds 0..33


def sheet(frames=SHEET, columns: int = COLUMNS, width: int = 384) -> Image.Image:
    """A grid of frames, each image above its labels in colour. width: of one image, in pixels."""
    height, tiles = width // 2, []
    for split, city, frame in frames:
        picture, labels = draw_frame(SEED, split, CITIES[split][city], frame)
        above = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
        below = Image.fromarray(colourise(labels, PALETTE)).resize((width, height), Image.Resampling.NEAREST)
        tiles.append((above, below))
    rows = -(-len(tiles) // columns)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (2 * height + 2 * GAP) + GAP), (255, 255, 255))
    for i, (above, below) in enumerate(tiles):
        x, y = GAP + i % columns * (width + GAP), GAP + i // columns * (2 * height + 2 * GAP)
        page.paste(above, (x, y))
        page.paste(below, (x, y + height + GAP // 3))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/streets.png"), help="file to write")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    page = sheet()
    page.save(out, optimize=True)
    print(f"wrote {out}: {page.width}x{page.height}, {out.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
