"""The log of a run: log.jsonl, log.csv and a tracker."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

from common import distributed
from common.console import warn
from common.errors import UserError
from common.files import reason_of, write_atomically
from engine.config import Config
from engine.training.trackers import Tracker, open_tracker, scalars


class Log:
    """log.jsonl has one JSON object per epoch, written to the disk before that epoch's checkpoint; log.csv has the same
    rows for spreadsheets. A tracker gets them too, if there is one."""

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
            raise UserError(f"cannot write {self.path}: {reason_of(e)}") from None
        self.track(row)

    def write_csv(self) -> None:
        """Write the whole file each time: a later stage's loss may have other terms, and a resumed run fewer rows."""
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
        except Exception as e:  # a tracker's error must not end hours of training
            warn(f"log.tracker left out from here on: {e}")
            self.tracker = None

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.close()

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop what was written after the first `size` bytes."""
        if self.size() > size:
            with open(self.path, "r+b") as file:
                file.truncate(size)

    def keep(self, epochs: dict[tuple, int]) -> None:
        """Before a run goes on: drop the rows of epochs that will be trained again, and lines that cannot be read.

        epochs: (stage, fold) -> epochs in that job's last checkpoint. Damaged lines are set aside in a copy of the
        file. What is dropped or missing is said; the log only informs, so training goes on.
        """
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else []
        kept, seen, damaged = [], set(), 0
        for line in lines:
            row = row_of(line)
            key = row and (row["stage"], row["fold"], row["epoch"])
            damaged += row is None and not (line is lines[-1] and not line.endswith(b"\n"))  # a kill cut that one off
            if row and key not in seen and row["epoch"] <= epochs.get(key[:2], 0):
                kept.append(line)
                seen.add(key)
        if damaged:
            aside = self.path.with_name(self.path.name + ".damaged")
            shutil.copyfile(self.path, aside)
            warn(f"{self.path}: {damaged} lines cannot be read and are left out; the file as it was: {aside}")
        missing = [f"{title(stage, fold)} epoch {e}" for (stage, fold), n in epochs.items() for e in range(1, n + 1)
                   if (stage, fold, e) not in seen]  # fmt: skip
        if missing:
            shown = ", ".join(missing[:3]) + (", .." if len(missing) > 3 else "")
            warn(f"{self.path}: {len(missing)} rows are missing ({shown}); the report shows no curve there")
        if kept == lines[: len(kept)]:
            self.cut(sum(map(len, kept)))
        else:
            write_atomically(self.path, lambda f: f.writelines(kept))


def row_of(line: bytes) -> dict | None:
    """A line of log.jsonl; None if it is not one."""
    try:
        row = json.loads(line)
        named = isinstance(row["epoch"], int) and isinstance(row["fold"], int | str | None)
        return row if named and isinstance(row["stage"], int | None) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def title(stage: int | None, fold: int | str | None) -> str:
    """A job's name as the log's lines on the screen have it."""
    return "run" if fold is None else str(fold) if isinstance(fold, str) else f"stage {stage} fold {fold}"


def open_log(run: Path, cfg: Config) -> Log:
    """The run's log. Only the first process has the tracker."""
    return Log(run / "log.jsonl", open_tracker(cfg, run) if distributed.is_main() else None)
