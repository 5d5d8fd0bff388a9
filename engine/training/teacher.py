"""The teacher of a distillation (`loss.teacher`)."""

from __future__ import annotations

import torch
from torch import nn

from common.errors import UserError
from engine import checkpoint as ckpt
from engine.config import config_from
from engine.evaluation.networks import networks, open_public
from models.checkpoints.known import locate


def load_teacher(source: str | None, dataset, device: torch.device) -> nn.Module | None:
    """Open the network `source` (None: no teacher): a run's checkpoint or a public one (path, URL or known id).

    It is in eval mode with fixed weights and takes images as the data set gives them. Raises: UserError if it has other
    classes, or is an ensemble.
    """
    if source is None:
        return None
    path = locate(source)
    if ckpt.is_ours(path):
        checkpoint = ckpt.load_ours(path)
        ckpt.require_classes(checkpoint, dataset.class_names, path)
        if "ensemble" in checkpoint:
            raise UserError(f"loss.teacher={source}: an ensemble, name the checkpoint of one network")
        (teacher,) = networks(checkpoint, config_from(checkpoint["config"]), dataset.num_classes, device)
    else:
        public = open_public(path)
        if public.num_classes != dataset.num_classes:
            what = f"{public.report.architecture} for {public.num_classes} classes"
            raise UserError(f"loss.teacher={source}: {what}, the data has {dataset.num_classes}")
        teacher = public.network.to(device).eval()
    return teacher.requires_grad_(False)
