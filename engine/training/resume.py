"""Before a run goes on: which checkpoint of each job is whole, and is the run still the one that was begun?

What only informs (log.jsonl, environment.json) is repaired or set aside, and said. What the weights depend on must be
as it was, or the result would be a function of no config: the run is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.console import warn
from common.errors import DamagedFile, UserError
from common.files import keep_before, set_aside
from data.splits import Splits, file_prints
from engine import checkpoint as ckpt
from engine import config as config_module
from engine.config import Config, config_from
from engine.training.log import Log

LAST, BEFORE = "last.pt", "previous.pt"  # the newest checkpoint of a job, and the one before

MAY_CHANGE = ("train.workers", "device", "name", "log.tracker")  # what --resume may do differently
NO_MATTER = (*MAY_CHANGE, "data.root", "log.plots", "log.samples")  # in an edited config.yaml; the data has a hash


def prepare(run: Path, jobs: Sequence[tuple[Path, Config, int | None, int | str | None]], log: Log, data: dict) -> None:
    """Check every job (folder, config, stage, fold) that has a checkpoint, and cut the log back to these checkpoints.

    data: {train, val: data set}. Raises: UserError where config.yaml or the images are no longer those that were
    trained with, or a job has no whole checkpoint.
    """
    epochs = {}
    for folder, cfg, stage, fold in jobs:
        saved = whole_checkpoint(run, folder)
        if saved is not None:
            require_same_config(run, folder / LAST, saved["config"], cfg)
            epochs[stage, fold] = saved["progress"]["epoch"]
    splits, prints = Splits.load(run / "splits.json"), {split: file_prints(dataset) for split, dataset in data.items()}
    if epochs or splits.files:
        splits.check_files(prints)
    else:
        splits.files = prints
        splits.save(run / "splits.json")
    log.keep(epochs)


def whole_checkpoint(run: Path, folder: Path) -> dict | None:
    """The content of last.pt; None if the job has none. If it is damaged or not finite, the checkpoint before takes its
    place, and the epoch in between is trained again, to the same bits. Raises: UserError if that one is bad too."""
    last, before = folder / LAST, folder / BEFORE
    if not last.exists() and not before.exists():
        return None
    try:
        if last.exists():
            return training_state(last)
        problem = f"{last} is missing"
    except (DamagedFile, ckpt.NonFinite) as e:
        problem = str(e)
    try:
        saved = training_state(before)
    except UserError:
        remedy = f"remove the folder {folder}" if folder != run else f"remove {last}"
        raise UserError(f"{problem}; no earlier one is left, {remedy} to train this part from its start") from None
    aside = f"; the damaged file is now {set_aside(last)}" if last.exists() else ""
    warn(f"{problem}; going on from epoch {saved['progress']['epoch']}, the checkpoint before{aside}")
    keep_before(before, last)
    return saved


def training_state(path: Path) -> dict:
    """A checkpoint with all that training goes on from. Raises: UserError, DamagedFile."""
    saved = ckpt.load_ours(path)
    missing = [k for k in ("optimizer", "scaler", "rng", "progress", "init_hash", "info") if k not in saved]
    if missing:
        raise DamagedFile(f"checkpoint {path}: damaged, it has no {', '.join(missing)}")
    return saved


def require_same_config(run: Path, path: Path, trained: dict, cfg: Config) -> None:
    """Raises: UserError if a key differs from the config in the checkpoint, except where no result depends on it."""
    was = config_from(trained, where=f"checkpoint {path}: config")
    changed = config_module.differences(was, cfg, but=NO_MATTER)
    if changed:
        raise UserError(
            f"{run / 'config.yaml'} was changed since {path} was trained ({'; '.join(changed)}): put the old "
            f"value back, or start a new run with the new one"
        )
    harmless = config_module.differences(was, cfg, but=MAY_CHANGE)
    if harmless:
        warn(f"{run / 'config.yaml'} was changed since {path} was trained: {'; '.join(harmless)}")
