"""A short training for tools.overfit and tools.lr_find: train.py's network, loss and step, and no files."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from common.device import resolve_device
from common.seeds import derive_seed
from data import build_dataset
from data.dataset import SegmentationDataset, limited
from engine.config import Config, stage_config, start_config
from engine.metrics import ConfusionMatrix
from engine.training.job import Job, Parts, Progress, build_parts
from engine.training.train import train_one_epoch


@dataclass
class Trial:
    """A network at its first weights and everything a training step needs."""

    cfg: Config
    data: SegmentationDataset
    parts: Parts
    max_iters: int  # iterations of the training that the trial is the beginning of, or the whole of
    progress: Progress = field(default_factory=Progress)

    def step(self, images: Tensor, target: Tensor, lr: float) -> dict[str, float]:
        """One step at the base learning rate `lr`. Returns the loss before the step, and its terms.

        Raises: NonFiniteLoss; the weights are then those from before the step.
        """
        p, loss = self.parts, self.cfg.loss
        return train_one_epoch(
            p.trained, [(images, target)], p.criterion, p.optimizer, p.scaler, lambda _: lr, self.progress,
            ConfusionMatrix(self.data.num_classes, self.data.ignore_index),
            device=p.device, amp=p.amp, clip_norm=self.cfg.optim.clip_norm, aux_weight=loss.aux_weight,
            aux_criterion=p.aux_criterion, teacher=p.teacher, max_iters=self.max_iters,
        )  # fmt: skip


def first_training(cfg: Config) -> tuple[Config, str]:
    """The config of a run's first training, and its name. In a cross-validation that is the common start, or the
    first stage where there is no start."""
    if not cfg.cv.folds:
        return cfg, "run"
    if cfg.cv.start in ("role", "train"):
        return start_config(cfg), "start"
    return stage_config(cfg, 0), "stage 0"


def training_images(cfg: Config, augment: str | None = None) -> SegmentationDataset:
    """The training split. augment: None for the config's own, or the name of another."""
    data = limited(build_dataset(cfg, "train", train=True), cfg.data.limit)
    seed = derive_seed(cfg.seed, "single")  # the samples of train.py's single run
    return data.subset(range(len(data)), augment=augment, seed=seed)


def open_trial(cfg: Config, data: SegmentationDataset, iterations: int, whole: bool = False) -> Trial:
    """Build what train.py builds for a single run of this config, at its first weights.

    The trial has `iterations` steps. They are the first ones of the config's training, or the whole training; loss
    weights that change during training follow this. A trial longer than the training counts as the whole.
    """
    cfg = copy.deepcopy(cfg)
    cfg.train.workers = 0
    with TemporaryDirectory() as folder:  # class weights computed by a rule are saved there
        job = Job(Path(folder), cfg, data, data, derive_seed(cfg.seed, "single"))
        parts = build_parts(job, resolve_device(cfg.device))
    max_iters = iterations if whole else max(iterations, cfg.train.epochs * len(parts.loader))
    return Trial(cfg, data, parts, max_iters)


def endless(trial: Trial) -> Iterator[tuple[Tensor, Tensor]]:
    """The training batches in train.py's order, epoch after epoch."""
    epoch = 0
    while True:
        trial.parts.loader.batch_sampler.set_epoch(epoch)
        yield from trial.parts.loader
        epoch += 1
