"""What a training consists of, from its description to its checkpoint: build, save, restore.

A run is a function of (config, data, seed, device type, torch version, thread count). Two things make that hold across
a kill: samples depend on (seed, epoch, index) alone, and everything else that carries over an epoch stands in last.pt.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from common import distributed
from common.errors import UserError
from common.seeds import derive_seed
from data.dataset import SegmentationDataset
from data.loader import build_loader
from engine import checkpoint as ckpt
from engine import config as config_module
from engine.config import Config
from engine.evaluation.networks import build_network
from engine.evaluation.views import amp_dtype
from engine.training import schedules
from engine.training.class_weighting import resolved_specs
from engine.training.optim import build_optimizer, load_state
from engine.training.pretrained import TransferReport, transfer
from engine.training.teacher import load_teacher
from losses import build_loss


@dataclass
class Job:
    """One training: a single run, the common start of a cross-validation, or one fold of one stage."""

    folder: Path  # last.pt and best.pt go here
    cfg: Config
    train: SegmentationDataset
    val: SegmentationDataset
    seed: int
    fold: int | str | None = None  # k, "start", or None for a single run
    stage: int | None = None
    init: dict | None = None  # weights to start from; None: by the seed, or model.pretrained

    def title(self) -> str:
        if self.fold is None:
            return "run"
        return "start" if self.fold == "start" else f"stage {self.stage} fold {self.fold}"


@dataclass
class Progress:
    """What a resume needs beside weights, optimiser, scaler and random states: plain numbers."""

    epoch: int = 0  # epochs done
    iteration: int = 0  # optimiser steps done
    best_miou: float = -1.0
    best_epoch: int = 0
    waited: int = 0  # validations without a better val_miou
    val_iou: list[float] = field(default_factory=list)  # of each class in the last validation; nan: not to be seen
    finished: bool = False
    plateau: schedules.Plateau = field(default_factory=schedules.Plateau)


@dataclass
class Parts:
    """What a job trains with, built anew by every process from the config; `restore` fills in what was learnt."""

    model: nn.Module
    trained: nn.Module  # the model, or what averages its gradients over processes
    criterion: nn.Module
    aux_criterion: nn.Module  # the auxiliary head's
    teacher: nn.Module | None  # of a distillation
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loader: DataLoader
    val_loader: DataLoader
    device: torch.device
    amp: torch.dtype | None
    init_hash: str  # of the weights before the first step


def build_parts(job: Job, device: torch.device) -> Parts:
    cfg, data = job.cfg, job.train
    torch.manual_seed(derive_seed(job.seed, "model"))
    model = initial_model(cfg, data, job.init).to(device)
    amp = amp_dtype(cfg.train, device)
    val_size = 1 if cfg.eval.native else cfg.eval.batch_size  # native targets may differ in size
    main, aux = resolved_specs(cfg.loss, data, job.folder)
    return Parts(
        model=model,
        trained=distributed.wrap(model, device),
        criterion=build_loss(main, data.num_classes, data.ignore_index).to(device),
        aux_criterion=build_loss(aux, data.num_classes, data.ignore_index).to(device),
        teacher=load_teacher(cfg.loss.teacher, data, device),
        optimizer=build_optimizer(model, cfg.optim),
        scaler=torch.amp.GradScaler(device.type, enabled=amp == torch.float16),
        loader=build_loader(
            data,
            cfg.train.batch_size,
            train=True,
            seed=job.seed,
            workers=cfg.train.workers,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            rare_temperature=cfg.data.sampling_temperature if cfg.data.sampling == "rare_class" else None,
        ),  # fmt: skip
        val_loader=build_loader(job.val, val_size, train=False, seed=job.seed, workers=cfg.train.workers),
        device=device,
        amp=amp,
        init_hash=ckpt.state_hash(ckpt.cpu_state(model)),
    )


def initial_model(cfg: Config, dataset, init: dict | None = None) -> nn.Module:
    """The config's model for a data set's classes: by the seed, from model.pretrained, or with the weights `init`."""
    model = build_network(cfg, dataset.num_classes)
    if init is not None:
        model.load_state_dict(init)
    else:
        load_pretrained(model, cfg, dataset)
    return model


def load_pretrained(model: nn.Module, cfg: Config, dataset) -> TransferReport | None:
    """Fill the config's model from model.pretrained, if there is one; the report says what became of the file."""
    m = cfg.model
    if not m.pretrained:
        return None
    return transfer(
        model, m.pretrained, dataset.class_names, m.reuse_classes, name=m.name, options=m.options, take=m.take
    )


def member_checkpoint(job: Job, parts: Parts, progress: Progress, val_miou: float | None, info: dict) -> dict:
    """What best.pt holds, and last.pt too: enough to rebuild, average or judge the network."""
    return {
        "model": ckpt.cpu_state(parts.model),
        "config": config_module.to_dict(job.cfg),
        "class_names": list(job.train.class_names),
        "palette": [list(map(int, c)) for c in job.train.palette],
        "fold": job.fold,
        "stage": job.stage,
        "epoch": progress.epoch,
        "val_miou": val_miou,
        "best_miou": progress.best_miou,
        "progress": asdict(progress),
        "init_hash": parts.init_hash,
        "info": info,
    }


def restore(job: Job, parts: Parts) -> tuple[Progress, float]:
    """Put back the state of the job's last.pt, if there is one; returns progress and the seconds trained so far."""
    path = job.folder / "last.pt"
    if not path.exists():
        if not distributed.is_main():  # the same first weights, other dropout
            torch.manual_seed(derive_seed(job.seed, "rank", distributed.rank()))
        return Progress(), 0.0
    saved = ckpt.load_ours(path)
    if saved["init_hash"] != parts.init_hash:
        raise UserError(f"checkpoint {path}: trained from other starting weights than this run's")
    ckpt.load_state(parts.model, saved["model"], path)
    load_state(parts.optimizer, saved["optimizer"], parts.model, job.cfg.optim)
    parts.scaler.load_state_dict(saved["scaler"])
    values = saved["progress"]
    if not distributed.is_main():  # the file holds the first process's random states
        torch.manual_seed(derive_seed(job.seed, "rank", distributed.rank(), values["epoch"]))
    else:
        torch.set_rng_state(saved["rng"]["cpu"])
        if parts.device.type == "cuda" and "cuda" in saved["rng"]:
            torch.cuda.set_rng_state(saved["rng"]["cuda"], parts.device)
    return Progress(**{**values, "plateau": schedules.Plateau(**values["plateau"])}), saved["info"]["seconds"]


def rng_states(device: torch.device) -> dict:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def finished(folder: Path) -> bool:
    """Whether a job's last.pt says that its training came to its end."""
    return (folder / "last.pt").exists() and ckpt.load_ours(folder / "last.pt")["progress"]["finished"]
