"""The run of each config of a study: reused if it is finished, resumed if it was interrupted, else trained."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from common import command
from common.console import say
from common.errors import UserError
from engine.config import differences, load_config
from engine.evaluation.networks import chosen_checkpoint
from engine.report.run_results import latest, read_run
from engine.run_folder import RUNS

TRAIN = Path(__file__).parents[2] / "train.py"
MAY_DIFFER = ("name", "device", "train.workers")


def finished_run(folder: Path, name: str, seed: int | None, needs: dict, args: argparse.Namespace) -> Path | None:
    """The finished run of a config: reused, resumed or trained, after the runs that it needs. None if train.py failed.

    A config of another folder (its name holds a /) is trained once, with its own seed.
    """
    config, apart = folder / f"{name}.yaml", "/" in name
    seed = None if apart else seed
    run_name = f"study-{run_title(config, folder)}" + ("" if seed is None else f"-seed{seed}")
    sets = command.overrides(argparse.Namespace(set=args.set_start if apart else args.set, device=args.device))
    sets += [] if seed is None else [f"seed={seed}"]
    for key, other in needs.get(name, {}).items():
        if not (folder / f"{other}.yaml").exists():
            raise UserError(f"study.json: {name} needs {other}, and there is no {folder / other}.yaml")
        before = finished_run(folder, other, seed, needs, args)
        if before is None:
            return None
        sets.append(f"{key}={chosen_checkpoint(before)}")
    run = newest_of(run_name)
    if run is not None and changed(run, config, sets):
        say(f"{name}: the config differs from that of {run}, training a new run")
        run = None
    if run is None or latest(read_run(run)) is None:
        words = ["--resume", str(run)] if run else [str(config), "--name", run_name]
        for item in [] if run else sets:
            words += ["--set", item]
        say(f"python train.py {' '.join(words)}")
        if subprocess.run([sys.executable, str(TRAIN), *words]).returncode != 0:
            return None
        run = newest_of(run_name)
    return run


def run_title(path: Path, folder: Path) -> str:
    """The path from configs/ to a config, joined by dashes: c_pets-full-fcn_frozen; the path from the folder's parent
    if it is not in configs/. Two studies that share a start give it the same title, so it is trained once."""
    path = Path(os.path.normpath(path.absolute()))
    base = next((p for p in path.parents if p.name == "configs"), folder.absolute().parent)
    return "-".join(Path(os.path.relpath(path.with_suffix(""), base)).parts)


def newest_of(title: str) -> Path | None:
    """The newest run folder of this title: runs/<title>-<date>-<time>."""
    runs = [p.parent for p in RUNS.glob(f"{title}-[0-9]*/config.yaml")]
    runs = [p for p in runs if p.name.removeprefix(f"{title}-").replace("-", "").isdigit()]
    return max(runs, key=lambda p: (p / "config.yaml").stat().st_mtime, default=None)


def changed(run: Path, path: Path, sets: list[str]) -> list[str]:
    return differences(load_config(run / "config.yaml"), load_config(path, sets), but=MAY_DIFFER)
