"""The page of samples: image, target, prediction and error side by side, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.drawing import GAP, GREY, INK, LINE, TITLE, colourise, font, legend_strip

WRONG = (213, 94, 0)  # vermilion: distinct from grey for colour-blind readers
IGNORED = (0, 0, 0)
IGNORED_IN_BATCH = (255, 255, 255)
COLUMNS = ("image", "target (black: ignored)", "prediction", "error (orange: wrong)")


def error_map(image: np.ndarray, target: np.ndarray, pred: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """(H, W, 3) uint8: wrong pixels orange, ignored ones black, right ones a pale grey version of the image."""
    grey = 128 + image.astype(np.float32).mean(2, keepdims=True) / 2  # (H, W, 1)
    out = np.broadcast_to(grey, image.shape).astype(np.uint8).copy()
    out[pred != target] = WRONG
    out[target == ignore_index] = IGNORED
    return out


def samples_page(
    images: Sequence[np.ndarray], targets: Sequence[np.ndarray], preds: Sequence[np.ndarray],
    palette: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path, ignore_index: int = 255,
) -> Path:  # fmt: skip
    """Write a page with one row a sample: image, target, prediction, error; the classes' colours below.

    images (H, W, 3) uint8, targets and preds (H, W) class indices of the same size; rows may differ in size, and are
    scaled to a common width. Under each row: the share of its labelled pixels that is right.
    Raises ValueError for lists of different length or a sample whose parts differ in size.
    """
    if not len(images) == len(targets) == len(preds):
        raise ValueError(f"got {len(images)} images, {len(targets)} targets, {len(preds)} predictions")
    colours = np.asarray(palette, np.uint8)
    width = min(480, max(320, *(im.shape[1] for im in images), 0))  # pixels of a column
    rows = [_row(*sample, colours, width, ignore_index) for sample in zip(images, targets, preds)]
    total = 4 * width + 5 * GAP
    legend = legend_strip(colours, class_names, total)
    page = Image.new("RGB", (total, TITLE + sum(r.height for r in rows) + legend.height + GAP), "white")
    draw = ImageDraw.Draw(page)
    for k, title in enumerate(COLUMNS):
        draw.text((GAP + k * (width + GAP), 6), title, fill=INK, font=font(14))
    y = TITLE
    for part in [*rows, legend]:
        page.paste(part, (0, y))
        y += part.height
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path


def batch_page(
    images: Sequence[np.ndarray], targets: Sequence[np.ndarray], captions: Sequence[str],
    palette: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path, ignore_index: int = 255,
) -> Path:  # fmt: skip
    """Write a page of training samples, one a row: image, mask, and the mask laid over the image; classes below.

    images (H, W, 3) uint8 and targets (H, W) class indices, all of one size; a caption under each row. Ignored pixels
    are white: black may be the colour of a background.
    """
    colours = np.vstack([np.asarray(palette, np.uint8), [IGNORED_IN_BATCH]]).astype(np.uint8)
    height, width = targets[0].shape
    width, height = max(320, min(480, width)), round(max(320, min(480, width)) * height / width)
    legend = legend_strip(colours, [*class_names, "ignored"], 3 * width + 4 * GAP)
    page = Image.new("RGB", (legend.width, TITLE + len(images) * (height + LINE + GAP) + legend.height), "white")
    draw = ImageDraw.Draw(page)
    for k, title in enumerate(("image", "mask (white: ignored)", "both")):
        draw.text((GAP + k * (width + GAP), 6), title, fill=INK, font=font(14))
    y = TITLE
    for image, target, caption in zip(images, targets, captions, strict=True):
        mask = colourise(target, colours)
        mask[target == ignore_index] = IGNORED_IN_BATCH
        seen, painted = Image.fromarray(image), Image.fromarray(mask)
        for k, part in enumerate((seen, painted, Image.blend(seen, painted, 0.5))):
            how = Image.Resampling.NEAREST if k == 1 else Image.Resampling.BILINEAR
            page.paste(part.resize((width, height), how), (GAP + k * (width + GAP), y))  # PIL: (W, H)
        draw.text((GAP, y + height + 2), caption, fill=GREY, font=font(12))
        y += height + LINE + GAP
    page.paste(legend, (0, y))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path


def _row(image, target, pred, palette: np.ndarray, width: int, ignore_index: int) -> Image.Image:
    image, target, pred = np.asarray(image), np.asarray(target), np.asarray(pred)
    if not image.shape[:2] == target.shape == pred.shape:
        raise ValueError(f"sizes differ: image {image.shape[:2]}, target {target.shape}, prediction {pred.shape}")
    shown = colourise(target, palette)
    shown[target == ignore_index] = IGNORED
    parts = [image.astype(np.uint8), shown, colourise(pred, palette), error_map(image, target, pred, ignore_index)]
    height = round(width * image.shape[0] / image.shape[1])
    row = Image.new("RGB", (4 * width + 5 * GAP, height + LINE + GAP), "white")
    for k, part in enumerate(parts):
        how = Image.Resampling.BILINEAR if k == 0 else Image.Resampling.NEAREST  # colours of classes do not mix
        row.paste(Image.fromarray(part).resize((width, height), how), (GAP + k * (width + GAP), 0))  # PIL: (W, H)
    known = target != ignore_index
    text = f"{100 * (pred == target)[known].mean():.1f} % of the labelled pixels right" if known.any() else "no labels"
    ImageDraw.Draw(row).text((GAP + 3 * (width + GAP), height + 2), text, fill=GREY, font=font(12))
    return row


def predictions_page(
    columns: dict[str, Sequence[np.ndarray]], palette: Sequence[Sequence[int]], class_names: Sequence[str],
    path: str | Path, ignore_index: int = 255,
) -> Path:  # fmt: skip
    """Several networks' predictions of the same images: a row an image, a column for each entry of `columns`.

    columns: {"image": [(H, W, 3) uint8], "target": [(H, W)], name: [(H, W) class indices], ..}, lists of one length.
    """
    colours = np.asarray(palette, np.uint8)
    tiles = {name: [_tile(part, colours, ignore_index) for part in parts] for name, parts in columns.items()}
    width = 260  # pixels of a column
    heights = [round(width * im.height / im.width) for im in next(iter(tiles.values()))]
    total = GAP + len(tiles) * (width + GAP)
    legend = legend_strip(colours, class_names, total)
    page = Image.new("RGB", (total, TITLE + sum(heights) + GAP * len(heights) + legend.height + GAP), "white")
    draw = ImageDraw.Draw(page)
    for k, (name, parts) in enumerate(tiles.items()):
        x, y = GAP + k * (width + GAP), TITLE
        draw.text((x, 6), name, fill=INK, font=font(13))
        for part, height in zip(parts, heights):
            how = Image.Resampling.BILINEAR if name == "image" else Image.Resampling.NEAREST
            page.paste(part.resize((width, height), how), (x, y))
            y += height + GAP
    page.paste(legend, (0, y))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path


def _tile(part: np.ndarray, palette: np.ndarray, ignore_index: int) -> Image.Image:
    """A picture as it is; class indices in their colours, ignored pixels black."""
    part = np.asarray(part)
    if part.ndim == 3:
        return Image.fromarray(part.astype(np.uint8))
    shown = colourise(part, palette)
    shown[part == ignore_index] = IGNORED
    return Image.fromarray(shown)
