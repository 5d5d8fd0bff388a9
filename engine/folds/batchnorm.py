"""BatchNorm statistics of an average, re-estimated on images that its members were trained on.

The statistics of a member describe activations of that member's weights, which the average does not have. SWA
(arXiv 1803.05407, section 3.2) computes them again after averaging, and so does this file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from common.spread import evenly_spaced
from data.loader import build_loader
from engine import checkpoint as ckpt
from engine.folds.aggregate import State
from engine.folds.roles import Study


def refit(study: Study, state: State, members: Sequence[int]) -> State:
    """The average `state` of these folds with re-estimated BatchNorm statistics."""
    model = study.model(state)
    loader = build_loader(
        study.train.subset(batchnorm_images(study, members)), batchnorm_batch(study), train=False,
        seed=study.cfg.seed, workers=study.cfg.train.workers,
    )  # fmt: skip
    reestimate_batchnorm(model, loader, study.device)
    return ckpt.cpu_state(model)


def batchnorm_images(study: Study, members: Sequence[int]) -> list[int]:
    """Indices of the images to use: the members' training folds and the start, but never `select`. They are evenly
    spaced, at most cv.bn_images, in full batches."""
    chosen = {i for m in members for i in study.folds[m]["train"]}
    chosen |= set(study.roles["start"]) if study.cfg.cv.start == "role" else set()
    chosen -= set(study.roles["select"])
    pool, wanted = sorted(chosen), min(len(chosen), study.cfg.cv.bn_images)
    size = batchnorm_batch(study)
    wanted = wanted // size * size or wanted  # fewer images than one batch: use them all
    return [pool[i] for i in evenly_spaced(len(pool), wanted)]


def batchnorm_batch(study: Study) -> int:
    return max(8, study.cfg.train.batch_size)


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, loader: DataLoader, device: torch.device) -> int:
    """Replace running statistics by the plain mean over the batches of `loader`; returns the number of images.

    Only BatchNorm layers are in training mode, so dropout and drop path stay off. Their statistics are reset, and
    momentum None makes them a cumulative average, in float32. Modes and momenta are restored afterwards. A frozen
    encoder keeps its statistics: its weights were not averaged from different ones.
    """
    frozen = set(model.encoder.modules()) if getattr(model, "frozen", False) else set()
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m not in frozen]
    if not layers:
        return 0
    momenta, was_training, images_seen = [m.momentum for m in layers], model.training, 0
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for images, _ in loader:
        model(images.to(device))
        images_seen += len(images)
    for layer, momentum in zip(layers, momenta):
        layer.momentum = momentum
    model.train(was_training)
    return images_seen
