"""The teacher of a distillation (`loss.teacher`)."""

from __future__ import annotations

import torch
from torch import nn

from common.console import say
from common.errors import UserError
from engine.evaluation.networks import open_networks


def load_teacher(source: str | None, dataset, device: torch.device) -> nn.Module | None:
    """Open the network `source` (None: no teacher): a run's checkpoint or a public one (path, URL or known id).

    It is in eval mode with fixed weights and takes images as the data set gives them. What is in doubt about a public
    file is printed. Raises: UserError if it has other classes, or is an ensemble.
    """
    if source is None:
        return None
    opened = open_networks(source, device=device)
    opened.require_classes(dataset, f"loss.teacher={source}")
    if len(opened.networks) > 1:
        raise UserError(f"loss.teacher={source}: an ensemble, name the checkpoint of one network")
    for note in opened.report.notes if opened.report else ():
        say(f"loss.teacher: {note}")
    return opened.network.requires_grad_(False)
