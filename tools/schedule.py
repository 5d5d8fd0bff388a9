"""Show the learning rate of every parameter group over all iterations of a config, without training.

python -m tools.schedule configs/unet_streets.yaml
python -m tools.schedule configs/deeplabv3plus_cv.yaml --out schedule.png

Reads the data set's file names only, to count the iterations of an epoch. A cross-validation has several phases: the
common start, then one fold of each stage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common import command
from common.console import say
from common.tables import format_table
from data import build_dataset
from data.dataset import limited
from data.loader import EpochBatchSampler
from engine.config import Config, load_config, stage_config, start_config
from engine.evaluation.networks import build_network
from engine.folds.roles import draw_splits
from engine.report import plots
from engine.training import schedules
from engine.training.optim import parameter_groups

LINES = ((0, "-"), (1, (0, (5, 3))), (2, ":"), (3, (0, (1, 1))))  # line styles, since lines may overlap


@dataclass(frozen=True)
class Phase:
    """One training of a run: lr[part][i] is the learning rate of that part at iteration i."""

    name: str
    cfg: Config
    images: int
    per_epoch: int  # iterations
    lrs: dict[str, list[float]]

    @property
    def iterations(self) -> int:
        return self.cfg.train.epochs * self.per_epoch


@dataclass(frozen=True)
class Group:
    part: str  # encoder, head or network
    parameters: int
    factor: float  # of the base learning rate
    weight_decay: float


def groups_of(cfg: Config, num_classes: int) -> list[Group]:
    """The optimiser's parameter groups. The model is built on the meta device, without numbers."""
    with torch.device("meta"):
        model = build_network(cfg, num_classes)
    encoder = {id(p) for p in model.encoder.parameters()} if hasattr(model, "encoder") else None
    found = []
    for group in parameter_groups(model, cfg.optim):
        parameters = group["params"]
        part = "network" if encoder is None else "encoder" if id(parameters[0]) in encoder else "head"
        size = sum(p.numel() for p in parameters)
        found.append(Group(part, size, group["lr_factor"], group["weight_decay"]))
    return found


def phase(name: str, cfg: Config, images: int, groups: Sequence[Group]) -> Phase:
    per_epoch = len(EpochBatchSampler(images, cfg.train.batch_size, train=True, seed=0))
    total = cfg.train.epochs * per_epoch
    base = [cfg.optim.lr * schedules.factor(cfg.schedule, i, total, per_epoch) for i in range(total)]
    return Phase(name, cfg, images, per_epoch, {g.part: [lr * g.factor for lr in base] for g in groups})


def phases(cfg: Config) -> list[Phase]:
    """The trainings of train.py in their order; of each stage's folds only the first."""
    data = build_dataset(cfg, "train", train=True)
    groups = lambda c: groups_of(c, data.num_classes)  # noqa: E731
    if not cfg.cv.folds:
        return [phase("run", cfg, len(limited(data, cfg.data.limit)), groups(cfg))]
    roles, folds = draw_splits(cfg, data).indices(data.names)
    found = []
    if cfg.cv.start in ("role", "train"):
        start = start_config(cfg)
        found.append(phase("start", start, len(roles["start"]), groups(start)))
    images = len({*folds[0]["train"], *(roles["start"] if cfg.cv.replay_start else [])})
    for i in range(max(1, len(cfg.cv.stages))):
        stage = stage_config(cfg, i)
        found.append(phase(f"stage {i}", stage, images, groups(stage)))
    return found


def table(found: Sequence[Phase]) -> str:
    """One row per phase and part."""
    headers = ("phase", "part", "schedule", "images", "epochs", "iterations", "lr: first", "highest", "last")
    rows = []
    for p in found:
        size = (str(p.images), str(p.cfg.train.epochs), f"{p.iterations} ({p.per_epoch} an epoch)")
        for part, lrs in p.lrs.items():
            ends = tuple(f"{lr:.2e}" for lr in (lrs[0], max(lrs), lrs[-1]))
            rows.append((p.name, part, p.cfg.schedule.name, *size, *ends))
    return format_table(rows, headers)


def draw(found: Sequence[Phase], path: Path, note: str) -> Path:
    """Plot the learning rate against the iteration, the phases in a row, one colour per part."""
    parts = list(dict.fromkeys(part for p in found for part in p.lrs))

    def fill(fig) -> None:
        ax, offset = fig.subplots(), 0
        for p in found:
            for (i, style), part in zip(LINES, parts):
                label = part if p is found[0] else None
                xs = range(offset, offset + p.iterations)
                ax.plot(xs, p.lrs.get(part, []), color=plots.SERIES[i], linestyle=style, linewidth=1.8, label=label)
            if len(found) > 1:
                ax.axvline(offset, color=plots.PALE, linewidth=1)
                text = f"{p.name}\n{p.cfg.train.epochs} epochs"
                ax.annotate(text, (offset, 1), (3, -2), xycoords=("data", "axes fraction"), fontsize=8.5, va="top",
                            textcoords="offset points", color=plots.GREY)  # fmt: skip
            offset += p.iterations
        ax.set_ylim(0, 1.22 * max(max(lrs) for p in found for lrs in p.lrs.values()))
        ax.set(xlabel="iteration", ylabel="learning rate")
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
        if len(parts) > 1:
            fig.legend(loc="outside lower center", ncols=len(parts), fontsize=9)

    return plots.figure("Learning rate over the iterations", note, path, 8, 3.8, fill)


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config, command.overrides(args))
    command.check_output("--out", args.out)
    found = phases(cfg)
    say(table(found))
    for g in groups_of(cfg, build_dataset(cfg, "train", train=False).num_classes):
        say(f"{g.part}: {g.parameters:,} parameters, lr x {g.factor:g}, weight decay {g.weight_decay:g}")
    for p in found:
        if p.cfg.schedule.warmup_iters > p.iterations // 2:
            say(f"{p.name}: {p.cfg.schedule.warmup_iters} of its {p.iterations} iterations are warm-up")
    if any(p.cfg.schedule.name == "plateau" for p in found):
        say("plateau: the rate falls when val_loss stops improving; it is shown without these falls")
    names = ", ".join(dict.fromkeys(p.cfg.schedule.name for p in found))
    note = f"{cfg.name}: {names}; batches of {cfg.train.batch_size}, one process"
    say(f"written: {draw(found, args.out, note)}" if plots.available() else plots.SKIPPED)


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.schedule configs/deeplabv3plus_cv.yaml --out schedule.png")
    p.add_argument("config", metavar="CONFIG", help="a YAML file under configs/")
    p.add_argument("--out", type=Path, default=Path("schedule.png"), metavar="FILE", help="default schedule.png")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
