"""A short training that leaves nothing behind: what tools.overfit and tools.lr_find try things with.

Network, loss, optimiser and step are those of train.py (engine/training/job.build_parts, engine/training/train.train_one_epoch): what is
found here is found of the run itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from common.device import resolve_device
from common.seeds import derive_seed
from data import build_dataset
from data.dataset import SegmentationDataset, limited
from engine.config import Config, stage_config, start_config
from engine.evaluation.views import autocast
from engine.metrics import ConfusionMatrix
from engine.training.job import Job, Parts, Progress, build_parts
from engine.training.train import train_one_epoch


@dataclass
class Trial:
    """A network at its first weights and everything a training step needs."""

    cfg: Config
    data: SegmentationDataset
    parts: Parts
    progress: Progress

    def step(self, images: Tensor, target: Tensor, lr: float) -> dict[str, float]:
        """One step at the base learning rate `lr`: the loss before it, and its terms.

        Raises: NonFiniteLoss, and leaves the weights as they were before the step.
        """
        p, cfg = self.parts, self.cfg
        return train_one_epoch(
            p.model, [(images, target)], p.criterion, p.optimizer, p.scaler, lambda _: lr, self.progress,
            self.confusion(), device=p.device, amp=p.amp, clip_norm=cfg.optim.clip_norm,
            aux_weight=cfg.loss.aux_weight,
        )  # fmt: skip

    def confusion(self) -> ConfusionMatrix:
        return ConfusionMatrix(self.data.num_classes, self.data.ignore_index)

    @torch.no_grad()
    def score(self, images: Tensor, target: Tensor, training: bool = False) -> ConfusionMatrix:
        """Of one batch, in eval mode; training: with the batch's own statistics and dropout, as the last step saw it.

        Statistics and random states are left as they were.
        """
        p, confusion = self.parts, self.confusion()
        kept, rng = {k: v.clone() for k, v in p.model.named_buffers()}, torch.get_rng_state()
        p.model.train(training)
        with autocast(p.device, p.amp):
            logits = p.model(images.to(p.device))["out"]
        for name, buffer in p.model.named_buffers():
            buffer.copy_(kept[name])
        torch.set_rng_state(rng)
        confusion.update(logits.argmax(1), target.to(p.device))
        return confusion


def first_training(cfg: Config) -> tuple[Config, str]:
    """The config of a run's first training and its name: of a cross-validation the start, or the first stage's folds
    where there is none."""
    if not cfg.cv.folds:
        return cfg, "run"
    if cfg.cv.start in ("role", "train"):
        return start_config(cfg), "start"
    return stage_config(cfg, 0), "stage 0"


def training_images(cfg: Config, augment: str | None = None) -> SegmentationDataset:
    """The training split, augmented as the config says, or otherwise."""
    data = limited(build_dataset(cfg, "train", train=True), cfg.data.limit)
    seed = derive_seed(cfg.seed, "single")  # the samples of train.py's single run
    return data.subset(range(len(data)), augment=augment, seed=seed)


def open_trial(cfg: Config, data: SegmentationDataset) -> Trial:
    """Build everything at its first weights: those that train.py gives a single run of this config."""
    cfg = copy.deepcopy(cfg)
    cfg.train.workers = 0
    job = Job(Path(), cfg, data, data, derive_seed(cfg.seed, "single"))
    return Trial(cfg, data, build_parts(job, resolve_device(cfg.device)), Progress())


def endless(trial: Trial) -> Iterator[tuple[Tensor, Tensor]]:
    """The training batches in train.py's order, epoch after epoch."""
    epoch = 0
    while True:
        trial.parts.loader.batch_sampler.set_epoch(epoch)
        yield from trial.parts.loader
        epoch += 1
