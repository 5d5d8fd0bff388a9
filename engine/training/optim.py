"""The optimiser and its parameter groups: encoder and head, with and without weight decay."""

from __future__ import annotations

import torch
from torch import nn

from common.console import warn
from engine.config.keys import OptimConfig


def parameter_groups(model: nn.Module, cfg: OptimConfig, decay_tables: bool = False) -> list[dict]:
    """Up to four groups, {encoder, head} x {decayed, not decayed}, each with `lr_factor` for the schedule.

    Biases and the parameters of norm layers are not decayed. They have fewer than two dimensions; decay pulls towards
    0, and a norm layer's scale is neutral at 1. Swin's relative position biases are tables of two dimensions and are
    not decayed either, as in Swin's own code. A network without an `encoder` is one part.
    decay_tables: decay them all the same, as older versions of this file did.
    """
    groups: dict[tuple[bool, bool], list] = {}
    split = hasattr(model, "encoder")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head = split and not name.startswith("encoder.")
            bias = parameter.ndim < 2 or (name.endswith("relative_position_bias_table") and not decay_tables)
            groups.setdefault((head, cfg.decay_norms or not bias), []).append(parameter)
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


def load_state(optimizer: torch.optim.Optimizer, state: dict, model: nn.Module, cfg: OptimConfig) -> None:
    """Restore an optimiser's state_dict. A run begun when Swin's tables were decayed keeps its own groups, so that it
    goes on as it began."""
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        optimizer.param_groups.clear()
        for group in parameter_groups(model, cfg, decay_tables=True):
            optimizer.add_param_group(group)
        warn("this run decays Swin's relative position biases, as it did when it began; new runs do not")
    optimizer.load_state_dict(state)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's learning rate to lr times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
