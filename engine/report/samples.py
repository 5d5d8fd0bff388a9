"""Sample predictions of a run: image, target, prediction and error of a few images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from data import build_dataset
from data.augment.geometry import resize_pair
from data.augment.transforms import denormalise
from engine import checkpoint as ckpt
from engine.config import Config
from engine.evaluation.networks import chosen_checkpoint, networks
from engine.evaluation.views import Views
from engine.prediction.segmenter import predict_tensor
from engine.report.picture_pages import samples_page


def sample_predictions(models: Sequence[nn.Module], cfg: Config, dataset, device, count: int) -> list[tuple]:
    """(image, target, prediction), uint8, of `count` images spread over a data set, as the network sees them; with
    eval.native at the target's own size."""
    chosen = [round(k * (len(dataset) - 1) / max(count - 1, 1)) for k in range(min(count, len(dataset)))]
    return [sample_of(models, cfg, dataset, device, Views.of(cfg.eval), i) for i in chosen]


def sample_of(models: Sequence[nn.Module], cfg: Config, dataset, device, views: Views, i: int) -> tuple:
    """(image, target, prediction), uint8, of one image of a data set."""
    tensor, target = dataset[i]
    pred = predict_tensor(models, tensor[None], cfg, device, views, target.shape)
    image = resize_pair(denormalise(tensor), None, target.shape)[0].permute(1, 2, 0).numpy()  # (h, w, 3)
    return image, target.to(torch.uint8).numpy(), pred


def write_samples(run: Path, cfg: Config, device: torch.device) -> None:
    """plots/samples.png: image, target, prediction and error of a few val images, by the run's chosen network."""
    if not cfg.log.samples:
        return
    dataset = build_dataset(cfg, "val", train=False)
    models = networks(ckpt.load_ours(chosen_checkpoint(run)), cfg, dataset.num_classes, device)
    images, targets, preds = zip(*sample_predictions(models, cfg, dataset, device, cfg.log.samples))
    path = run / "plots" / "samples.png"
    samples_page(images, targets, preds, dataset.palette, dataset.class_names, path, dataset.ignore_index)
