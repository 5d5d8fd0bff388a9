"""Write predictions as PNG files: class ids, colours, overlay, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from common.console import say
from common.drawing import GAP, legend_strip
from common.errors import UserError
from data.files import read_image
from engine.config import Config
from engine.evaluation.views import Views
from engine.prediction.segmenter import predict_image

KINDS = ("ids", "color", "overlay", "side")  # the pictures of a prediction
SIDE = 1280  # pixels: largest side of each half of a side by side picture


def save_prediction(
    pred: np.ndarray, image: np.ndarray, palette: np.ndarray, folder: Path, name: str,
    kinds: Sequence[str] = KINDS[:3], class_names: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write NAME_ids.png (grey, class index), NAME_color.png (palette), NAME_overlay.png (half image, half colours) and
    NAME_side.png (both side by side, at most 2 x SIDE wide, with the classes' names). kinds: which of them."""
    colour = Image.fromarray(np.asarray(palette, np.uint8)[pred])
    draw = {  # drawn one at a time: at 8000 x 6000 each takes 144 MB
        "ids": lambda: Image.fromarray(pred),
        "color": lambda: colour,
        "overlay": lambda: Image.blend(Image.fromarray(image), colour, 0.5),
        "side": lambda: side_by_side(image, pred, palette, class_names),
    }
    for kind in kinds:
        path = folder / f"{name}_{kind}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw[kind]().save(path)
        except OSError as e:
            raise UserError(f"cannot write {path}: {e.strerror or e}") from None


def side_by_side(image: np.ndarray, pred: np.ndarray, palette: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """Image and prediction next to each other; below them the classes that occur, the largest first."""
    height, width = pred.shape
    factor = min(1.0, SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))  # PIL: (W, H)
    small = np.asarray(Image.fromarray(pred).resize(size, Image.Resampling.NEAREST))
    halves = [
        Image.fromarray(image).resize(size, Image.Resampling.BILINEAR),
        Image.fromarray(np.asarray(palette, np.uint8)[small]),
    ]
    share = class_shares(pred, len(palette))
    there = [i for i in np.argsort(-share, kind="stable") if share[i] > 0]
    names = [f"{class_names[i] if i < len(class_names) else i} {100 * share[i]:.1f} %" for i in there]
    total = max(2 * size[0] + GAP, 240)  # room for the legend of a small picture
    key = legend_strip(np.asarray(palette, np.uint8)[there], names, total)
    page = Image.new("RGB", (total, size[1] + key.height), "white")
    for half, x in zip(halves, (0, size[0] + GAP)):
        page.paste(half, (x, 0))
    page.paste(key, (0, size[1]))
    return page


def class_shares(pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Each class's share of the pixels of a prediction (H, W): (C,), fractions."""
    counts = Image.fromarray(pred).histogram()[:num_classes]  # np.bincount would make 8 bytes of each pixel first
    return np.array(counts) / max(pred.size, 1)


def save_dataset(models: Sequence[nn.Module], cfg: Config, dataset, device, folder: str | Path) -> None:
    """Predictions for every image of a data set, at the images' own size."""
    views = Views.of(cfg.eval)
    for record in dataset.records:
        image = read_image(record.image)
        pred = predict_image(models, image, cfg, device, views)
        save_prediction(pred, image, dataset.palette, Path(folder), record.name)
    say(f"written: {3 * len(dataset)} pictures in {folder}")
