"""Learning-rate schedules as pure functions of the iteration, so they can be plotted, tested and resumed.

`factor` gives what the base learning rate is multiplied by at an iteration (0-based). Each schedule starts after
`warmup_iters` iterations of linear warm-up and runs over the rest. Only `plateau` depends on results: the class
`Plateau` counts how often validation stopped improving, and checkpoints save its state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from engine.config.keys import ScheduleConfig


def poly(t: float, s: ScheduleConfig, **_) -> float:
    """(1 - t)^power (DeepLab, arXiv 1606.00915, the "poly" policy); t: the fraction of the run that is done, 0..1."""
    return s.min_factor + (1 - s.min_factor) * (1 - t) ** s.power


def cosine(t: float, s: ScheduleConfig, **_) -> float:
    """Half a cosine from 1 to min_factor (SGDR, arXiv 1608.03983, without restarts)."""
    return s.min_factor + (1 - s.min_factor) * 0.5 * (1 + math.cos(math.pi * t))


def warm_restarts(t: float, s: ScheduleConfig, epoch: float, **_) -> float:
    """Cosine over a cycle of `cycle` epochs, then from 1 again over a cycle `cycle_mult` times as long (SGDR)."""
    length, done = s.cycle, epoch
    while done >= length - 1e-9:
        done -= length
        length *= s.cycle_mult
    return cosine(max(done, 0.0) / length, s)


def one_cycle(t: float, s: ScheduleConfig, **_) -> float:
    """Up from start_factor to 1 in `percent_up` of the run, then down to 0, both as cosines (arXiv 1708.07120)."""
    if t < s.percent_up:
        return s.start_factor + (1 - s.start_factor) * 0.5 * (1 - math.cos(math.pi * t / s.percent_up))
    return 0.5 * (1 + math.cos(math.pi * (t - s.percent_up) / max(1 - s.percent_up, 1e-12)))


def exponential(t: float, s: ScheduleConfig, epoch: float, **_) -> float:
    """gamma per whole epoch, as a step (torch's ExponentialLR stepped once an epoch)."""
    return s.gamma ** math.floor(epoch + 1e-9)


def plateau(t: float, s: ScheduleConfig, drops: int = 0, **_) -> float:
    return s.factor**drops


def constant(t: float, s: ScheduleConfig, **_) -> float:
    return 1.0


SCHEDULES = {f.__name__: f for f in (poly, cosine, warm_restarts, one_cycle, exponential, plateau, constant)}


def factor(s: ScheduleConfig, iteration: int, max_iters: int, iters_per_epoch: int, drops: int = 0) -> float:
    """Factor of the base learning rate at `iteration` of `max_iters`; `drops`: see Plateau."""
    if iteration < s.warmup_iters:
        return s.warmup_factor + (1 - s.warmup_factor) * iteration / s.warmup_iters
    left = max(max_iters - s.warmup_iters, 1)
    t = min((iteration - s.warmup_iters) / left, 1.0)
    epoch = (iteration - s.warmup_iters) / max(iters_per_epoch, 1)
    return SCHEDULES[s.name](t, s, epoch=epoch, drops=drops)


@dataclass
class Plateau:
    """Counts how often val_loss did not improve for more than `patience` validations in a row."""

    best: float = math.inf
    waited: int = 0
    drops: int = 0

    def step(self, val_loss: float, patience: int) -> None:
        if val_loss < self.best:
            self.best, self.waited = val_loss, 0
            return
        self.waited += 1
        if self.waited > patience:
            self.waited, self.drops = 0, self.drops + 1
