"""The best, the median and the worst images of a run: what an average hides. Pictures for report.html."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.drawing import colourise
from common.files import write_json
from data import build_dataset
from data.dataset import limited
from engine import checkpoint as ckpt
from engine.config import Config
from engine.evaluation.networks import chosen_checkpoint, networks
from engine.evaluation.scores import excluded
from engine.evaluation.views import Views
from engine.metrics import ConfusionMatrix
from engine.report.picture_pages import IGNORED, error_map
from engine.report.samples import sample_of

AT_MOST = 200  # images looked at, spread over the validation split
WIDTH = 640  # pixels of a picture, at most


def write_cases(run: Path, cfg: Config, device: torch.device, each: int = 2) -> None:
    """cases/cases.json and, for the `each` best, median and worst validation images by their own mIoU, four pictures:
    K_image.jpg, K_target.png, K_prediction.png, K_error.png. By the run's chosen network; log.samples 0: nothing."""
    if not cfg.log.samples:
        return
    dataset = limited(build_dataset(cfg, "val", train=False), cfg.data.limit)
    models = networks(ckpt.load_ours(chosen_checkpoint(run)), cfg, dataset.num_classes, device)
    count, views = min(len(dataset), AT_MOST), Views.of(cfg.eval)
    left_out = excluded(cfg.eval.exclude, dataset.class_names)
    mious: dict[int, float] = {}
    for i in [k * len(dataset) // count for k in range(count)]:
        _, target, pred = sample_of(models, cfg, dataset, device, views, i)
        matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
        matrix.update(torch.from_numpy(pred), torch.from_numpy(target))
        miou = matrix.miou(exclude=left_out)
        if miou == miou:  # an image without a labelled pixel has none
            mious[i] = miou
    rows = []
    for where, i in _chosen(mious, each):
        _save(run / "cases", len(rows), dataset, sample_of(models, cfg, dataset, device, views, i))
        rows.append({"where": where, "name": dataset.names[i], "miou": mious[i]})
    write_json(run / "cases" / "cases.json", {"images": len(mious), "cases": rows})


def _chosen(mious: dict[int, float], each: int) -> list[tuple[str, int]]:
    """(best | median | worst, index), no image twice."""
    order = sorted(mious, key=lambda i: (-mious[i], i))
    middle = max(0, len(order) // 2 - each // 2)
    parts = {"best": order[:each], "worst": order[-each:][::-1], "median": order[middle : middle + each]}
    seen: set[int] = set()
    rows = {where: [i for i in part if i not in seen and not seen.add(i)] for where, part in parts.items()}
    return [(where, i) for where in ("best", "median", "worst") for i in rows[where]]


def _save(folder: Path, k: int, dataset, sample: tuple) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = shown_parts(*sample, dataset.palette, dataset.ignore_index)
    for kind, part in parts.items():
        part.save(folder / f"{k}_{kind}.{'jpg' if kind == 'image' else 'png'}", quality=85)


def shown_parts(
    image: np.ndarray, target: np.ndarray, pred: np.ndarray, palette, ignore_index: int, width: int = WIDTH
) -> dict[str, Image.Image]:
    """image, target (ignored pixels black), prediction and error of one sample as pictures, at most `width` px wide.

    image (H, W, 3) uint8; target, pred (H, W) class indices.
    """
    shown = colourise(target, palette)
    shown[target == ignore_index] = IGNORED
    parts = {"image": image, "target": shown, "prediction": colourise(pred, palette),
             "error": error_map(image, target, pred, ignore_index)}  # fmt: skip
    size = (min(width, image.shape[1]), round(min(width, image.shape[1]) * image.shape[0] / image.shape[1]))
    smooth, hard = Image.Resampling.BILINEAR, Image.Resampling.NEAREST  # classes do not mix
    return {kind: Image.fromarray(part).resize(size, smooth if kind == "image" else hard)
            for kind, part in parts.items()}  # fmt: skip
