"""A job is one training: its description, its parts (network, loss, optimizer, loaders), its checkpoint.

The result of a run depends on (config, data, seed, device type, torch version, thread count) and on nothing else. It
survives a kill, because samples depend on (seed, epoch, index) alone and last.pt holds everything else that one epoch
hands to the next.
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
from engine.training.log import title
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
    built: FirstNetwork | None = None  # the network, where it was built before the run
    teachers: dict[str, nn.Module] = field(default_factory=dict)  # loss.teacher -> network, opened before the run

    def title(self) -> str:
        return title(self.stage, self.fold)


@dataclass
class FirstNetwork:
    """The network of a run's first training. It is built before the run folder exists, to find wrong options early."""

    model: nn.Module
    seed: int  # of the job that trains it
    rng: torch.Tensor  # state of the CPU generator after building; training continues from it
    pretrained: TransferReport | None  # what was loaded from model.pretrained


@dataclass
class Prepared:
    """What train.py built to check a config. Training uses the same objects."""

    train: SegmentationDataset  # with augmentation
    val: SegmentationDataset
    network: FirstNetwork
    teachers: dict[str, nn.Module] = field(default_factory=dict)  # loss.teacher -> network, on the device


@dataclass
class Progress:
    """The plain numbers that a resumed run needs, beside weights, optimizer, scaler and random states."""

    epoch: int = 0  # epochs done
    iteration: int = 0  # optimiser steps done
    best_miou: float = -1.0
    best_epoch: int = 0
    waited: int = 0  # validations without a better val_miou
    val_iou: list[float] = field(
        default_factory=list
    )  # of each class in the last validation; nan: the class did not occur
    finished: bool = False
    plateau: schedules.Plateau = field(default_factory=schedules.Plateau)


@dataclass
class Parts:
    """What a job trains with. Every process builds it from the config; `restore` loads the state of last.pt into it."""

    model: nn.Module
    trained: nn.Module  # the model, wrapped for gradient averaging if there are several processes
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
    model = seeded_model(job).to(device)
    amp = amp_dtype(cfg.train, device)
    val_size = 1 if cfg.eval.native else cfg.eval.batch_size  # native targets may differ in size
    main, aux = resolved_specs(cfg.loss, data, job.folder)
    return Parts(
        model=model,
        trained=distributed.wrap(model, device),
        criterion=build_loss(main, data.num_classes, data.ignore_index).to(device),
        aux_criterion=build_loss(aux, data.num_classes, data.ignore_index).to(device),
        teacher=job.teachers.get(cfg.loss.teacher) or load_teacher(cfg.loss.teacher, data, device),
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


def first_network(cfg: Config, dataset, seed: int) -> FirstNetwork:
    """The network that `build_parts` would build for the job with this seed."""
    torch.manual_seed(derive_seed(seed, "model"))
    model = build_network(cfg, dataset.num_classes)
    report = load_pretrained(model, cfg, dataset)
    return FirstNetwork(model, seed, torch.get_rng_state(), report)


def seeded_model(job: Job) -> nn.Module:
    """The job's network before its first step. Leaves the random generators in a state that depends on its seed."""
    torch.manual_seed(derive_seed(job.seed, "model"))
    if job.built is None or job.init is not None:
        return initial_model(job.cfg, job.train, job.init)
    assert job.built.seed == job.seed
    torch.set_rng_state(job.built.rng)
    return job.built.model


def initial_model(cfg: Config, dataset, init: dict | None = None) -> nn.Module:
    """The config's model for the classes of a data set, with the weights `init`, model.pretrained or random ones."""
    model = build_network(cfg, dataset.num_classes)
    if init is not None:
        model.load_state_dict(init)
    else:
        load_pretrained(model, cfg, dataset)
    return model


def load_pretrained(model: nn.Module, cfg: Config, dataset) -> TransferReport | None:
    """Load model.pretrained into the model, if the config names one. Returns what was loaded, renamed and left out."""
    m = cfg.model
    if not m.pretrained:
        return None
    return transfer(
        model, m.pretrained, dataset.class_names, m.reuse_classes, name=m.name, options=m.options, take=m.take
    )


def member_checkpoint(job: Job, parts: Parts, progress: Progress, val_miou: float | None, info: dict) -> dict:
    """The content of best.pt, and part of last.pt: enough to rebuild, average and score the network."""
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
    """Load the state of the job's last.pt, if it exists. Returns the progress and the seconds trained so far."""
    path = job.folder / "last.pt"
    if not path.exists():
        if not distributed.is_main():  # the same starting weights, but other random numbers for dropout
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
    """Whether the job in this folder is trained to its end."""
    return (folder / "last.pt").exists() and ckpt.load_ours(folder / "last.pt")["progress"]["finished"]
