"""Send the log's rows to TensorBoard or Weights & Biases, if `log.tracker` asks for it.

log.jsonl and log.csv have the same numbers. A tracker that fails during a training is dropped with one warning. A
resumed run continues in the same place, where the epoch that a kill cut off may appear twice.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from engine.config import Config, to_dict

PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
}  # module, package


@dataclass
class Tracker:
    send: Callable[[dict[str, float], int], None]  # values by name, and the epoch they belong to
    close: Callable[[], None]


def open_tracker(cfg: Config, run: Path) -> Tracker | None:
    """The tracker of `log.tracker`, None for "none". Raises: UserError if it is not installed or does not start."""
    if cfg.log.tracker == "none":
        return None
    return {"tensorboard": _tensorboard, "wandb": _wandb}[cfg.log.tracker](module(cfg.log.tracker), cfg, run)


def module(tracker: str):
    """The package of a tracker. Raises: UserError if it is not installed."""
    name, package = PACKAGES[tracker]
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"log.tracker: {tracker} is not installed; pip install {package}, or set log.tracker=none"
        ) from None


def scalars(row: dict) -> dict[str, float]:
    """A log row's numbers by name: "val_miou", of a fold "stage0/fold1/val_miou", of the start "start/val_miou"."""
    fold, stage = row.get("fold"), row.get("stage")
    place = "" if fold is None else "start/" if fold == "start" else f"stage{stage}/fold{fold}/"
    left_out = ("epoch", "fold", "stage")
    return {place + k: v for k, v in row.items() if k not in left_out and isinstance(v, (int, float))}


def _tensorboard(tensorboard, cfg: Config, run: Path) -> Tracker:
    """Writes event files in the run's folder; see them with  tensorboard --logdir runs"""
    writer = tensorboard.SummaryWriter(str(run / "tensorboard"))

    def send(values: dict[str, float], epoch: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    return Tracker(send, writer.close)


def _wandb(wandb, cfg: Config, run: Path) -> Tracker:
    """Project `segmentation`, run named like its folder. WANDB_PROJECT, WANDB_MODE and the like have priority."""
    try:
        there = wandb.init(
            project=None if "WANDB_PROJECT" in os.environ else "segmentation",
            name=run.name, id=run.name, resume="allow", dir=str(run), config=to_dict(cfg),
        )  # fmt: skip
    except Exception as e:  # no account or no network: its own error classes
        advice = "`wandb login`, WANDB_MODE=offline, or log.tracker=none"
        raise UserError(f"log.tracker: wandb does not start ({str(e).splitlines()[0]}); {advice}") from None
    there.define_metric("*", step_metric="epoch")  # its own step may only grow, and every fold begins at epoch 1
    return Tracker(lambda values, epoch: there.log({**values, "epoch": epoch}), there.finish)
