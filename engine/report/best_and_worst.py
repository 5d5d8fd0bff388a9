"""The best, the median and the worst images of a run, for report.html: an average hides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.drawing import colourise
from common.files import write_json
from engine.report.picture_pages import error_map, target_map

WIDTH = 640  # pixels of a picture, at most


def best_and_worst(mious: Sequence[float | None], each: int = 2) -> list[tuple[str, int]]:
    """(best | median | worst, index) of the `each` best, median and worst images; no image twice.

    mious: of each image as the evaluation gives it; None for an image without a labelled pixel, which is left out.
    """
    order = sorted((i for i, miou in enumerate(mious) if miou is not None), key=lambda i: (-mious[i], i))
    middle = max(0, len(order) // 2 - each // 2)
    parts = {"best": order[:each], "worst": order[-each:][::-1], "median": order[middle : middle + each]}
    seen: set[int] = set()
    rows = {where: [i for i in part if i not in seen and not seen.add(i)] for where, part in parts.items()}
    return [(where, i) for where in ("best", "median", "worst") for i in rows[where]]


def write_cases(
    run: Path, dataset, cases: Sequence[tuple[str, int, float]], samples: Mapping[int, tuple], images: int
) -> None:
    """cases/cases.json, and four pictures a case: K_image.jpg, K_target.png, K_prediction.png, K_error.png.

    cases: (best | median | worst, index, mIoU); samples: index -> (image, target, prediction); images: how many had
    an mIoU to choose from.
    """
    folder = run / "cases"
    folder.mkdir(parents=True, exist_ok=True)
    for k, (_, i, _) in enumerate(cases):
        for kind, part in shown_parts(*samples[i], dataset.palette, dataset.ignore_index).items():
            part.save(folder / f"{k}_{kind}.{'jpg' if kind == 'image' else 'png'}", quality=85)
    rows = [{"where": where, "name": dataset.names[i], "miou": miou} for where, i, miou in cases]
    write_json(folder / "cases.json", {"images": images, "cases": rows})


def shown_parts(
    image: np.ndarray, target: np.ndarray, pred: np.ndarray, palette, ignore_index: int, width: int = WIDTH
) -> dict[str, Image.Image]:
    """image, target (ignored pixels black), prediction and error of one sample as pictures, at most `width` px wide.

    image (H, W, 3) uint8; target, pred (H, W) class indices.
    """
    shown, errors = target_map(target, palette, ignore_index), error_map(image, target, pred, ignore_index)
    parts = {"image": image, "target": shown, "prediction": colourise(pred, palette), "error": errors}
    size = (min(width, image.shape[1]), round(min(width, image.shape[1]) * image.shape[0] / image.shape[1]))
    smooth, hard = Image.Resampling.BILINEAR, Image.Resampling.NEAREST  # classes do not mix
    return {kind: Image.fromarray(part).resize(size, smooth if kind == "image" else hard)
            for kind, part in parts.items()}  # fmt: skip
