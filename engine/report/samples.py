"""Sample predictions of a run: image, target, prediction and error of a few images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.spread import evenly_spaced
from data.augment.geometry import resize_pair
from data.augment.transforms import denormalise
from engine.config import Config
from engine.evaluation.views import Views
from engine.prediction.segmenter import predict_tensor
from engine.report.best_and_worst import best_and_worst, write_cases
from engine.report.picture_pages import samples_page
from engine.report.run_results import best_row

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # image (H, W, 3), target (H, W), prediction (H, W), all uint8


def write_pictures(
    run: Path, cfg: Config, models: Sequence[nn.Module], dataset, device: torch.device, results: dict
) -> None:
    """plots/samples.png with `log.samples` images of the data set, and cases/ with its best, median and worst images.

    models: the networks that gave `results` (results.json). Each image that is drawn is predicted once.
    log.samples 0: nothing is written.
    """
    if not cfg.log.samples:
        return
    per_image = best_row(results)["per_image"]
    mious = dict(zip(per_image["names"], per_image["miou"]))
    cases = best_and_worst([mious.get(name) for name in dataset.names])
    shown = evenly_spaced(len(dataset), cfg.log.samples)
    samples = predict_samples(models, cfg, dataset, device, {*shown, *(i for _, i in cases)})
    images, targets, preds = zip(*(samples[i] for i in shown))
    path = run / "plots" / "samples.png"
    samples_page(images, targets, preds, dataset.palette, dataset.class_names, path, dataset.ignore_index)
    rows = [(where, i, mious[dataset.names[i]]) for where, i in cases]
    write_cases(run, dataset, rows, samples, sum(miou is not None for miou in mious.values()))


def predict_samples(
    models: Sequence[nn.Module], cfg: Config, dataset, device: torch.device, indices: Iterable[int]
) -> dict[int, Sample]:
    """Images of a data set by index, as the network sees them; with eval.native at the target's own size."""
    views = Views.of(cfg.eval)
    return {i: sample_of(models, cfg, dataset, device, views, i) for i in sorted(indices)}


def sample_of(models: Sequence[nn.Module], cfg: Config, dataset, device, views: Views, i: int) -> Sample:
    tensor, target = dataset[i]
    pred = predict_tensor(models, tensor[None], cfg, device, views, target.shape)
    image = resize_pair(denormalise(tensor), None, target.shape)[0].permute(1, 2, 0).numpy()  # (h, w, 3)
    return image, target.to(torch.uint8).numpy(), pred
