"""Find the learning rates that train a config: one short run with a growing rate, loss against rate.

python -m tools.lr_find configs/unet_streets.yaml
python -m tools.lr_find configs/unet_streets.yaml --set optim.name=sgd --from 1e-5 --to 10 --out lr.png

The learning rate range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017, arXiv
1506.01186, section 3.3): good rates lie between where the curve starts to improve and where it stops. Smith raises the
rate linearly and plots accuracy. Here the rate grows by a constant factor per step, which shows small and large rates
alike, and the plot shows the loss, which reacts first. The training itself is thrown away.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common import command
from common.console import say
from common.errors import UserError
from engine.config import load_config
from engine.report import plots
from engine.training.train import NonFiniteLoss
from tools.lr_find.trial import Trial, endless, first_training, open_trial, training_images

WIDTH = 3.0  # steps: standard deviation of the smoothing
DIVERGED = 4.0  # times the lowest smoothed loss: the sweep ends there
NOTICED = 0.1  # of the whole fall: where the loss has begun to fall
SLOW = 0.2  # of the steepest fall: where it is over


@dataclass(frozen=True)
class Range:
    """What the curve shows. Learning rates are base rates, `optim.lr`."""

    lrs: list[float]
    losses: list[float]
    smooth: list[float]
    falls: float  # the loss has begun to fall
    steepest: float  # it falls most for a factor of the rate
    slows: float  # it falls hardly any more
    ended: str  # why the sweep ended


def rates(first: float, last: float, steps: int) -> list[float]:
    """`steps` rates from first to last, a constant factor apart."""
    return [first * (last / first) ** (i / (steps - 1)) for i in range(steps)]


def sweep(trial: Trial, lrs: Sequence[float]) -> tuple[list[float], str]:
    """One step at each rate until the loss diverges. Returns the loss before each step, and why the sweep ended."""
    losses, running, weight, lowest = [], 0.0, 0.0, math.inf
    for lr, (images, target) in zip(tqdm(lrs, "learning rates", leave=False, disable=None), endless(trial)):
        try:
            loss = trial.step(images, target, lr)["loss"]
        except NonFiniteLoss:
            return losses, f"the loss was no number any more at {lr:.1e}"
        losses.append(loss)
        running, weight = 0.8 * running + 0.2 * loss, 0.8 * weight + 0.2
        lowest = min(lowest, running / weight)
        if running / weight > DIVERGED * lowest:
            return losses, f"the loss was {DIVERGED:.0f} times its lowest at {lr:.1e}"
    return losses, "every rate was tried"


def smoothed(values: Sequence[float]) -> list[float]:
    """Gaussian-weighted means around each value. They do not lag as a running mean would."""
    out = []
    for i in range(len(values)):
        weights = [math.exp(-0.5 * ((i - j) / WIDTH) ** 2) for j in range(len(values))]
        out.append(sum(w * v for w, v in zip(weights, values)) / sum(weights))
    return out


def read(lrs: Sequence[float], losses: Sequence[float], ended: str) -> Range:
    """Find the bounds. losses[i] is the loss before the step at lrs[i], so it shows the effect of the rates before.

    Raises: UserError if the loss does not fall.
    """
    lrs, losses = list(lrs[: len(losses)]), list(losses)
    if len(losses) < 10:
        raise UserError(f"only {len(losses)} steps before {ended}: start lower with --from")
    smooth = smoothed(losses)
    end = min(range(len(smooth)), key=smooth.__getitem__)
    noise = sum(abs(a - b) for a, b in zip(losses, smooth)) / len(losses)
    fall = smooth[0] - smooth[end]
    if end < 2 or fall < max(0.02 * abs(smooth[0]), noise):
        raise UserError(
            f"no learning rate between {lrs[0]:.1e} and {lrs[-1]:.1e} made the loss fall ({smooth[0]:.4f} at first, "
            f"{smooth[end]:.4f} at best): look at data and loss with  python -m tools.overfit CONFIG"
        )
    begun = next(i for i in range(end + 1) if smooth[i] <= smooth[0] - NOTICED * fall)
    falls = [0.0, *[a - b for a, b in zip(smooth, smooth[1:])]]
    steepest = max(range(1, end + 1), key=falls.__getitem__)
    slows = next((i for i in range(steepest, end) if falls[i] < SLOW * falls[steepest]), end)
    return Range(lrs, losses, smooth, lrs[begun], lrs[steepest], lrs[slows], ended)


def suggestion(found: Range) -> float:
    """A tenth of the rate where the fall slows down, at most the steepest, rounded to one digit.

    Section 3.3 takes a third or a quarter of it as the lower bound of a cyclical rate. Here the margin is wider,
    since a sweep survives rates for one step that a whole run does not.
    """
    lr = min(found.steepest, found.slows / 10)
    unit = 10 ** math.floor(math.log10(lr))
    return float(f"{round(lr / unit) * unit:.0e}")


def draw(found: Range, path: Path, note: str, suggested: float, current: float) -> Path:
    """Loss against learning rate; the suggestion and the config's own rate as lines."""

    def fill(fig) -> None:
        ax = fig.subplots()
        ax.plot(found.lrs, found.losses, color=plots.PALE, linewidth=1.2, label="loss of each step")
        ax.plot(found.lrs, found.smooth, color=plots.BLUE, linewidth=2, label="smoothed")
        ax.axvspan(found.falls, found.slows, color=plots.GREEN, alpha=0.10, linewidth=0, label="where it falls")
        ax.axvline(suggested, color=plots.GREEN, linewidth=1.8, label=f"suggested: {suggested:.0e}")
        ax.axvline(current, color=plots.ORANGE, linewidth=1.4, linestyle=(0, (4, 3)), label=f"optim.lr: {current:.1e}")
        top, low = max(found.smooth[: len(found.smooth) * 3 // 4]), min(found.losses)
        ax.set_ylim(low - 0.08 * (top - low), top + 0.35 * (top - low))
        ax.set(xscale="log", xlabel="learning rate (optim.lr)", ylabel="training loss")
        fig.legend(loc="outside lower center", ncols=3, fontsize=9)

    return plots.figure("Learning rate range test", note, path, 7.5, 4.4, fill)


def main(args: argparse.Namespace) -> None:
    if not 0 < args.lowest < args.highest:
        raise UserError(f"--from must be above 0 and below --to, got {args.lowest:g} and {args.highest:g}")
    command.check_at_least(20, iterations=args.iterations)
    config, name = first_training(load_config(args.config, command.overrides(args)))
    trial = open_trial(config, training_images(config), args.iterations)
    lrs = rates(args.lowest, args.highest, args.iterations)
    say(f"{config.model.name}, {config.optim.name}, {len(trial.data)} images in batches of {config.train.batch_size}"
        f"{'' if name == 'run' else f'; the {name} of the cross-validation'}")  # fmt: skip
    found = read(lrs, *sweep(trial, lrs))
    suggested = suggestion(found)
    say(f"{len(found.losses)} steps from {lrs[0]:.1e} to {found.lrs[-1]:.1e}: {found.ended}")
    start, most, end = (f"{lr:.1e}" for lr in (found.falls, found.steepest, found.slows))
    say(f"the loss begins to fall at {start}, falls most at {most}, hardly from {end} on")
    if found.slows == found.lrs[-1]:
        say("it still fell at the end: try a higher --to")
    say(f"suggestion: --set optim.lr={suggested:.0e}   (the config has {config.optim.lr:g})")
    if config.optim.head_lr_factor != 1:
        say(f"the head's rate is optim.head_lr_factor = {config.optim.head_lr_factor:g} times as high, here too")
    note = f"{config.name}: {config.model.name}, {config.optim.name}, batches of {config.train.batch_size}"
    drawn = plots.available() and draw(found, args.out, note, suggested, config.optim.lr)
    say(f"written: {drawn}" if drawn else plots.SKIPPED)


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.lr_find configs/unet_streets.yaml --out lr.png")
    p.add_argument("config", metavar="CONFIG", help="a YAML file under configs/")
    p.add_argument("--from", dest="lowest", type=float, default=1e-6, metavar="LR", help="first rate; default 1e-6")
    p.add_argument("--to", dest="highest", type=float, default=1.0, metavar="LR", help="last rate; default 1")
    p.add_argument("--iterations", type=int, default=100, metavar="N", help="steps, one a rate; default 100")
    p.add_argument("--out", type=Path, default=Path("lr_find.png"), metavar="FILE", help="default lr_find.png")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
