"""A run's folder: made once, locked while in use, its log cut back to the last checkpoint when a run goes on."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision

from common import distributed
from common.errors import UserError
from engine import config as config_module
from engine.checkpoint import write_atomically, write_json
from engine.config import Config
from engine.training.trackers import Tracker, open_tracker, scalars

RUNS = Path("runs")


def make_run(cfg: Config, command: str, **facts) -> Path:
    """Create runs/<name>-<YYYYmmdd-HHMMSS>/ with config.yaml and environment.json, which holds the facts too."""
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
    """The folder of an existing run, or UserError."""
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise UserError(f"not a run folder: {run} (no config.yaml in it)")
    return run


def newest_run(with_folds: bool = False) -> Path:
    """The run with the latest log.jsonl under runs/; with_folds: only cross-validated ones with a finished stage."""
    logs = [p for p in RUNS.glob("*/log.jsonl") if (p.parent / "config.yaml").is_file()]
    if with_folds:
        logs = [p for p in logs if any(p.parent.glob("stage*/fold*/best.pt"))]
    if not logs:
        what = "a cross-validated run" if with_folds else "a run"
        raise UserError(f"no run found: {RUNS}/ holds no {what} with a log; start one with  python train.py CONFIG")
    return max(logs, key=lambda p: p.stat().st_mtime).parent


def lock(run: Path):
    """Hold an exclusive lock on the run; the kernel drops it when the process dies, however it dies."""
    try:
        handle = open(run / ".lock", "w")
    except OSError as e:
        raise UserError(f"cannot write in the run folder {run}: {e.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{run} is in use by another process") from None
    return handle


class Log:
    """log.jsonl: one JSON object an epoch, flushed to the disk before the checkpoint that counts on it; log.csv: the
    same rows for spreadsheets; and a tracker, if one is given."""

    def __init__(self, path: Path, tracker: Tracker | None = None) -> None:
        self.path, self.tracker = path, tracker

    def append(self, row: dict) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self.write_csv()
        except OSError as e:
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None
        self.track(row)

    def write_csv(self) -> None:
        """Anew each time: a later stage's loss may have other terms, and a resumed run fewer rows."""
        rows = [json.loads(line) for line in self.path.read_text().splitlines()]
        with open(self.path.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)

    def track(self, row: dict) -> None:
        if self.tracker is None:
            return
        try:
            self.tracker.send(scalars(row), row["epoch"])
        except Exception as e:  # a guest's trouble must not end hours of training
            warn(f"log.tracker left out from here on: {e}")
            self.tracker = None

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forget what came after the last checkpoint."""
        if self.size() > size:
            with open(self.path, "r+b") as file:
                file.truncate(size)


def open_log(run: Path, cfg: Config) -> Log:
    """The run's log; with its tracker in the process that writes."""
    return Log(run / "log.jsonl", open_tracker(cfg, run) if distributed.is_main() else None)


def environment(cfg: Config, command: str) -> dict:
    """What a reader needs to judge or repeat the run."""
    device = resolve_device(cfg.device)
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
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
    """Before a resume: what a run's bits depend on beside config and data, if it is not what it was."""
    path = run / "environment.json"
    saved, now = json.loads(path.read_text()) if path.exists() else {}, environment(cfg, "")
    for key in ("torch", "device", "threads"):
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


def resolve_device(name: str) -> torch.device:
    """auto | cpu | cuda | cuda:N | mps -> a device that is there, or UserError."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}': valid: auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        count = torch.cuda.device_count()
        raise UserError(f"device {name} is not there: torch sees {count} CUDA devices; try --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device mps is not there; try --device auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device '{name}': valid: auto, cpu, cuda, cuda:N, mps")
    return device


def say(text: str) -> None:
    """A line for the user, once; flushed, so that a log file is complete when a process is killed."""
    if distributed.is_main():
        print(text, flush=True)


def warn(text: str) -> None:
    if distributed.is_main():
        print(f"warning: {text}", file=sys.stderr, flush=True)
