"""Tiny data sets on disk, in each layout, for tests that need files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from engine.config import Config


def write_image(path: Path, hw: tuple[int, int] = (40, 60), seed: int = 0) -> Path:
    """A random photograph; JPEG or PNG by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)).save(path)
    return path


def write_mask(path: Path, values, hw: tuple[int, int] = (40, 60), mode: str = "L") -> Path:
    """A mask whose columns cycle through `values` (numbers, or (r, g, b) for a colour mask); or an array as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(values, np.ndarray):
        columns = np.array(values)[np.arange(hw[1]) % len(values)]  # (W,) or (W, 3)
        values = np.broadcast_to(columns, (hw[0], *columns.shape))
    values = np.ascontiguousarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([v for i in range(256) for v in (i, 255 - i, i // 2)])
    elif mode not in ("L", "RGB", "I;16"):
        image = image.convert(mode)
    image.save(path)
    return path


def make_folder(
    root: Path, splits=("train", "val"), n: int = 4, values=(0, 1, 2), names=("a", "b", "c"), **mask
) -> Path:
    """The folder layout; splits () is flat."""
    for split in splits or ("",):
        for i in range(n):
            write_image(root / "images" / split / f"{i:02d}.png", seed=i)
            write_mask(root / "labels" / split / f"{i:02d}.png", values, **mask)
    (root / "classes.yaml").write_text(f"names: [{', '.join(names)}]\n")
    return root


def make_cityscapes(root: Path, cities=("aachen", "bochum"), split: str = "train", n: int = 3, kind="labelIds") -> Path:
    values = (7, 11, 26, 0) if kind == "labelIds" else (0, 2, 13, 255)  # road, building, car, void
    for city in cities:
        for i in range(n):
            stem = f"{split}/{city}/{city}_{i:06d}_000019"
            write_image(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", seed=i)
            write_mask(root / "gtFine" / f"{stem}_gtFine_{kind}.png", values)
    return root


def make_camvid(root: Path, frames: dict[str, int], split: str = "train") -> Path:
    for drive, n in frames.items():
        for i in range(n):
            write_image(root / split / f"{drive}_{30 * i:05d}.png", (8, 12), seed=i)
            write_mask(root / f"{split}annot" / f"{drive}_{30 * i:05d}.png", (0, 3, 10, 11), (8, 12))
    return root


def config(name: str, root: Path | None, size=(32, 48), augment: str = "none", **data) -> Config:
    cfg = Config()
    cfg.data.name, cfg.data.root, cfg.data.size, cfg.data.augment = name, root and str(root), size, augment
    for key, value in data.items():
        setattr(cfg.data, key, value)
    return cfg


def refuses(pattern: str):
    """Expects a UserError of one line that matches."""
    return pytest.raises(UserError, match=r"\A(?!.*\n.)(?s:.*)" + pattern)
