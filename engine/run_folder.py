"""A run's folder: create it, find the newest one, lock it while in use, compare its environment before a resume."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import IO

import PIL
import torch
import torchvision

from common.command import command_line
from common.console import warn
from common.device import resolve_device
from common.errors import DamagedFile, UserError
from common.files import read_json, remove_temporaries, set_aside, write_atomically, write_json
from common.lock import lock_file
from engine import config as config_module
from engine.config import Config

RUNS = Path("runs")


def make_run(cfg: Config, command: str, **facts) -> Path:
    """Create runs/<name>-<YYYYmmdd-HHMMSS>/ with config.yaml and environment.json, to which `facts` are added."""
    run = RUNS / f"{cfg.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    unique, n = run, 1
    while unique.exists():
        n += 1
        unique = run.with_name(f"{run.name}-{n}")
    try:
        unique.mkdir(parents=True)
    except OSError as e:
        raise UserError(f"cannot create the run folder {unique}: {e.strerror}") from None
    write_atomically(unique / "config.yaml", lambda f: f.write(config_module.dump(cfg).encode()))
    write_json(unique / "environment.json", environment(cfg, command) | facts)
    return unique


def open_run(run: str | Path) -> Path:
    """The path of an existing run. Raises: UserError if it is none."""
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise UserError(f"not a run folder: {run} (no config.yaml in it)")
    return run


def newest_run(with_folds: bool = False) -> Path:
    """The run under runs/ with the latest log.jsonl, of those with results (with_folds: of a cross-validation's stage).

    If there are none, the latest that has weights, and else the latest. Raises: UserError if there is no run.
    """
    stages = ("stage*/results.json",), ("stage*/fold*/best.pt",)
    wanted = stages if with_folds else (("results.json", "stage*/results.json"), ("best.pt",), ("log.jsonl",))
    runs = [p.parent for p in RUNS.glob("*/log.jsonl") if (p.parent / "config.yaml").is_file()]
    runs.sort(key=lambda run: (run / "log.jsonl").stat().st_mtime)
    for patterns in wanted:
        for run in reversed(runs):
            if any(found for pattern in patterns for found in run.glob(pattern)):
                if run != runs[-1] and not with_folds:
                    warn(f"{runs[-1]} is newer, but has no results yet; to take it all the same: --run {runs[-1]}")
                return run
    what = "cross-validated run" if with_folds else "run"
    raise UserError(f"no run found: {RUNS}/ holds no {what} with a log; start one with  python train.py CONFIG")


def lock(run: Path) -> IO:
    """Lock the run until the returned file is closed or the process ends, and remove what a killed one left half
    written. Raises: UserError if another process uses the run."""
    try:
        handle = lock_file(run / ".lock")
    except OSError as e:
        raise UserError(f"cannot write in the run folder {run}: {e.strerror}") from None
    if handle is None:
        raise UserError(f"{run} is in use by another process")
    remove_temporaries(run)
    return handle


def environment(cfg: Config, command: str) -> dict:
    """Versions, hardware and command, which a reader needs to repeat the run."""
    device = resolve_device(cfg.device)
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "git": git_commit(),
        "command": command,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def warn_of_changes(run: Path, cfg: Config) -> None:
    """Before a resume, warn of a changed environment on which the run's exact digits depend. A damaged environment.json
    is set aside and written again."""
    path = run / "environment.json"
    saved, now = {}, environment(cfg, command_line())
    if path.exists():
        try:
            saved = read_json(path)
            if not isinstance(saved, dict):
                raise DamagedFile(f"{path}: damaged, it is not a table of names and values")
        except DamagedFile as e:
            warn(f"{e}; set aside as {set_aside(path)}, written again from this machine")
            saved = now
            write_json(path, now)
    for key in ("torch", "torchvision", "pillow", "device", "threads"):
        if key in saved and saved[key] != now[key]:
            warn(f"{key} was {saved[key]} and is {now[key]}: the run goes on, but not bit for bit as it would have")


def git_commit() -> str | None:
    """The commit of this code, with a + if it was changed since; None outside a checkout."""

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, timeout=10, check=True)
        return found.stdout.decode().strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
