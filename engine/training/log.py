"""The log of a run: log.jsonl, log.csv and a tracker."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from common import distributed
from common.console import warn
from common.errors import UserError
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
            raise UserError(f"cannot write {self.path}: {e.strerror}") from None
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
        """Drop the rows written after the last checkpoint."""
        if self.size() > size:
            with open(self.path, "r+b") as file:
                file.truncate(size)


def open_log(run: Path, cfg: Config) -> Log:
    """The run's log. Only the first process has the tracker."""
    return Log(run / "log.jsonl", open_tracker(cfg, run) if distributed.is_main() else None)
