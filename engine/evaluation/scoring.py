"""Scoring what was trained: checkpoints to networks, networks and a data set to a Score, and the protocol beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from common.errors import UserError
from data import data_hash
from data.loader import build_loader
from engine.config import Config
from engine.evaluation.evaluate import Score, evaluate
from engine.evaluation.views import WHOLE, Views, amp_dtype
from models import build_model


def build_network(cfg: Config, num_classes: int) -> nn.Module:
    """The config's model, its encoder frozen where model.freeze says so."""
    model = build_model(cfg.model.name, num_classes, **cfg.model.options)
    if cfg.model.freeze == "encoder":
        if not hasattr(model, "freeze_encoder"):
            raise UserError(f"model.freeze=encoder: {cfg.model.name} is a whole network, it has no encoder")
        model.freeze_encoder()
    return model


def network(cfg: Config, num_classes: int, state: dict, device: torch.device) -> nn.Module:
    """The config's model with the weights `state`, in eval mode on the device."""
    model = build_network(cfg, num_classes)
    model.load_state_dict(state)
    return model.to(device).eval()


def networks(checkpoint: dict, cfg: Config, num_classes: int, device: torch.device) -> list[nn.Module]:
    """The network of a checkpoint of ours, or all networks of an ensemble."""
    return [network(cfg, num_classes, s, device) for s in checkpoint.get("ensemble", [checkpoint["model"]])]


def chosen_checkpoint(run: Path) -> Path:
    """best.pt of a single run; of a cross-validated one the last stage's candidate with the best select score."""
    if (run / "best.pt").exists():
        return run / "best.pt"
    stages = sorted(run.glob("stage*/results.json"), key=lambda p: int(p.parent.name.removeprefix("stage")))
    if not stages:
        raise UserError(f"{run}: nothing to use yet; go on with  python train.py --resume {run}")
    results = json.loads(stages[-1].read_text())
    return candidate_path(run, results["stage"], results["stages"], results["winner"])


def candidate_path(run: Path, stage: int, stages: int, name: str) -> Path:
    """The last stage's candidates have plain names; those before carry their stage."""
    prefix = f"stage{stage}-" if stage < stages - 1 else ""
    return run / "aggregate" / f"{prefix}{name}.pt"


def score_models(
    models: Sequence[nn.Module], cfg: Config, dataset, device: torch.device, views: Views = WHOLE, extra: bool = False
) -> Score:
    """Score one model or an ensemble, with one confusion matrix an image and a group of the data set. extra: boundary
    IoU, ROC and calibration too, which take a multiple of the argmax's time."""
    size = 1 if cfg.eval.native else cfg.eval.batch_size  # native targets may differ in size
    loader = build_loader(dataset, size, train=False, workers=cfg.train.workers)
    return evaluate(
        models, loader, dataset.num_classes, device, ignore_index=dataset.ignore_index,
        void=cfg.eval.void, amp=amp_dtype(cfg.train, device), views=views, groups=dataset.groups, names=dataset.names,
        extra=extra,
    )  # fmt: skip


def limited(dataset, limit: int):
    """The first n images, for trials; 0: all."""
    return dataset.subset(range(min(limit, len(dataset)))) if limit else dataset


def class_frequency(cfg: Config, dataset) -> dict[str, float]:
    """Share of each class in the labelled pixels of a data set."""
    counts = torch.zeros(dataset.num_classes, dtype=torch.int64)
    for _, target in build_loader(dataset, 1, train=False, workers=cfg.train.workers):
        counts += torch.bincount(target[target != dataset.ignore_index].view(-1), minlength=len(counts))
    return dict(zip(dataset.class_names, (counts.double() / counts.sum().clamp(min=1)).tolist()))


def protocol(cfg: Config, dataset, views: Views = WHOLE) -> dict:
    """Everything a number depends on beside the weights."""
    return {
        "data": cfg.data.name,
        "split": dataset.split,
        "images": len(dataset),
        "sample": list(cfg.data.sample),
        "sample_seed": cfg.data.sample_seed,
        "sample_by": cfg.data.sample_by,
        "size": list(cfg.data.size),
        "native": cfg.eval.native,
        "absent": cfg.eval.absent,
        "void": cfg.eval.void,
        "exclude": list(cfg.eval.exclude),
        "background": cfg.data.background,
        "scales": list(views.scales),
        "flip": views.flip,
        "window": list(views.window) if views.window else None,
        "stride": list(views.stride) if views.window and views.stride else None,
        "blend": views.blend if views.window else None,
        "data_hash": data_hash(dataset),
    }
