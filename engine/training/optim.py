"""The optimiser and its parameter groups: encoder and head, decayed and not."""

from __future__ import annotations

import torch
from torch import nn

from engine.config.keys import OptimConfig


def parameter_groups(model: nn.Module, cfg: OptimConfig) -> list[dict]:
    """Up to four groups, {encoder, head} x {decayed, not decayed}, each with `lr_factor` for the schedule.

    No decay on biases and on the parameters of norm layers, which are the ones with fewer than two dimensions: decay
    pulls towards 0, and a norm layer's scale has its neutral value at 1. A network without an `encoder` is one part.
    """
    groups: dict[tuple[bool, bool], list] = {}
    split = hasattr(model, "encoder")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = split and not name.startswith("encoder.")
            decay = cfg.decay_norms or parameter.ndim >= 2
            groups.setdefault((head, decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": cfg.weight_decay if decay else 0.0,
            "lr_factor": cfg.head_lr_factor if head else 1.0,
            "lr": cfg.lr * (cfg.head_lr_factor if head else 1.0),
        }
        for (head, decay), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, cfg: OptimConfig) -> torch.optim.Optimizer:
    groups = parameter_groups(model, cfg)
    if cfg.name == "sgd":
        nesterov = cfg.nesterov and cfg.momentum > 0
        return torch.optim.SGD(groups, lr=cfg.lr, momentum=cfg.momentum, nesterov=nesterov)
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[cfg.name]
    return make(groups, lr=cfg.lr, betas=tuple(cfg.betas), amsgrad=cfg.amsgrad)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group lr times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
