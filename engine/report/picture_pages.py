"""Pages of images, targets, predictions and errors side by side, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from common.drawing import GAP, GREY, INK, LINE, TITLE, colourise, font, legend_strip

WRONG = (213, 94, 0)  # vermilion: distinct from grey for colour-blind readers
IGNORED = (0, 0, 0)
IGNORED_IN_BATCH = (255, 255, 255)  # black may be the colour of a background
SMOOTH = ("image", "both")  # columns resized smoothly; classes must not mix
SAMPLE_WIDTH = (320, 480)  # pixels of a column of samples: at least, at most


def error_map(image: np.ndarray, target: np.ndarray, pred: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """(H, W, 3) uint8: wrong pixels orange, ignored pixels black, right pixels a pale grey version of the image."""
    grey = 128 + image.astype(np.float32).mean(2, keepdims=True) / 2  # (H, W, 1)
    out = np.broadcast_to(grey, image.shape).astype(np.uint8).copy()
    out[pred != target] = WRONG
    out[target == ignore_index] = IGNORED
    return out


def target_map(target: np.ndarray, palette: np.ndarray, ignore_index: int, ignored: tuple = IGNORED) -> np.ndarray:
    """Class indices (H, W) in their colours (H, W, 3), ignored pixels in the colour `ignored`."""
    shown = colourise(target, palette)
    shown[target == ignore_index] = ignored
    return shown


def samples_page(
    images: Sequence[np.ndarray], targets: Sequence[np.ndarray], preds: Sequence[np.ndarray],
    palette: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path, ignore_index: int = 255,
) -> Path:  # fmt: skip
    """Write a page with one row per sample: image, target, prediction, error, and the share of right pixels.

    images (H, W, 3) uint8, targets and preds (H, W) class indices of the same size; samples may differ in size.
    Raises ValueError for lists of different length or a sample whose parts differ in size.
    """
    if not len(images) == len(targets) == len(preds):
        raise ValueError(f"got {len(images)} images, {len(targets)} targets, {len(preds)} predictions")
    colours, captions = np.asarray(palette, np.uint8), []
    columns = {t: [] for t in ("image", "target (black: ignored)", "prediction", "error (orange: wrong)")}
    for image, target, pred in zip(images, targets, preds):
        if not image.shape[:2] == target.shape == pred.shape:
            raise ValueError(f"sizes differ: image {image.shape[:2]}, target {target.shape}, prediction {pred.shape}")
        errors = error_map(image, target, pred, ignore_index)
        parts = (image, target_map(target, colours, ignore_index), colourise(pred, colours), errors)
        for column, part in zip(columns.values(), parts):
            column.append(part)
        known = target != ignore_index
        right = f"{100 * (pred == target)[known].mean():.1f} % of the labelled pixels right" if known.any() else ""
        captions.append(right or "no labels")
    return write_page(columns, captions, _width(images), colours, class_names, path)


def batch_page(
    images: Sequence[np.ndarray], targets: Sequence[np.ndarray], captions: Sequence[str],
    palette: Sequence[Sequence[int]], class_names: Sequence[str], path: str | Path, ignore_index: int = 255,
) -> Path:  # fmt: skip
    """Write a page with one row per training sample: image, mask, and the mask over the image; ignored pixels white.

    images (H, W, 3) uint8 and targets (H, W) class indices, all of one size; one caption per row.
    """
    colours = np.vstack([np.asarray(palette, np.uint8), [IGNORED_IN_BATCH]]).astype(np.uint8)
    masks = [target_map(target, colours, ignore_index, IGNORED_IN_BATCH) for target in targets]
    both = [np.asarray(Image.blend(*map(Image.fromarray, pair), 0.5)) for pair in zip(images, masks)]
    columns = {"image": images, "mask (white: ignored)": masks, "both": both}
    return write_page(columns, captions, _width(images), colours, [*class_names, "ignored"], path)


def predictions_page(
    columns: Mapping[str, Sequence[np.ndarray]], palette: Sequence[Sequence[int]], class_names: Sequence[str],
    path: str | Path, ignore_index: int = 255,
) -> Path:  # fmt: skip
    """Write a page of several networks' predictions: one row per image, one column per entry of `columns`.

    columns: {"image": [(H, W, 3) uint8], "target": [(H, W)], name: [(H, W) class indices], ..}, lists of one length.
    """
    colours = np.asarray(palette, np.uint8)
    pictures = {
        title: [part if part.ndim == 3 else target_map(part, colours, ignore_index) for part in map(np.asarray, parts)]
        for title, parts in columns.items()
    }
    return write_page(pictures, (), 260, colours, class_names, path)


def _width(images: Sequence[np.ndarray]) -> int:
    low, high = SAMPLE_WIDTH
    return min(high, max(low, *(image.shape[1] for image in images), 0))


def write_page(
    columns: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], width: int, colours: np.ndarray,
    class_names: Sequence[str], path: str | Path,
) -> Path:  # fmt: skip
    """Write columns of pictures (H, W, 3) uint8, scaled to `width` pixels, under their titles; a caption below each
    row, if there are captions, and the class colours at the end."""
    heights = [round(width * p.shape[0] / p.shape[1]) for p in next(iter(columns.values()))]
    gap = GAP + (LINE if captions else 0)  # below a row
    total = GAP + len(columns) * (width + GAP)
    legend = legend_strip(colours, class_names, total)
    page = Image.new("RGB", (total, TITLE + sum(heights) + gap * len(heights) + legend.height + GAP), "white")
    draw = ImageDraw.Draw(page)
    for k, (title, pictures) in enumerate(columns.items()):
        x, y = GAP + k * (width + GAP), TITLE
        draw.text((x, 6), title, fill=INK, font=font(13))
        how = Image.Resampling.BILINEAR if title in SMOOTH else Image.Resampling.NEAREST
        for picture, height in zip(pictures, heights, strict=True):
            page.paste(Image.fromarray(picture.astype(np.uint8)).resize((width, height), how), (x, y))  # PIL: (W, H)
            y += height + gap
    for i, caption in enumerate(captions):
        y = TITLE + sum(heights[: i + 1]) + gap * i
        draw.text((GAP, y + 2), caption, fill=GREY, font=font(12))
    page.paste(legend, (0, page.height - legend.height - GAP))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.save(path)
    return path
