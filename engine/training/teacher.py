"""The network whose logits a distillation learns from (`loss.teacher`)."""

from __future__ import annotations

import torch
from torch import nn

from common.errors import UserError
from engine.evaluation.networks import open_networks


def load_teacher(source: str | None, dataset, device: torch.device) -> nn.Module | None:
    """source: a checkpoint of a run, or a public file (path, URL or known id) that segments into as many classes.

    Returns the network in eval mode, its weights fixed: images as the data set gives them -> {"out": logits}.
    Raises: UserError for other classes, and for an ensemble.
    """
    if source is None:
        return None
    opened = open_networks(source, device=device)
    opened.require_classes(dataset, f"loss.teacher={source}")
    if len(opened.networks) > 1:
        raise UserError(f"loss.teacher={source}: an ensemble, name the checkpoint of one network")
    return opened.network.requires_grad_(False)
