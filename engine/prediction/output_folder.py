"""Write the folder of predictions: pictures and shares.csv while they are made, and a summary at the end."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from engine.prediction.inputs import Input, read_picture, video_frames
from engine.prediction.pictures import class_shares, save_prediction
from engine.prediction.segmenter import Segmenter

LISTED = 20  # at most so many lines of each kind in the summary


def pictures(item: Input, every: int = 1, most: int | None = None) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    """(output name, picture (H, W, 3) uint8, notes) of an image file, or of every `every`-th frame of a video, at most
    `most`, named by frame number. Raises: UserError for what cannot be read."""
    if not item.video:
        yield item.name, *read_picture(item.path)
        return
    written = 0
    for number, frame in enumerate(video_frames(item.path)):
        if number % every == 0:
            yield f"{item.name}/{number:06d}", frame, []
            written += 1
        if written == most:
            return
    if not written:
        raise UserError(f"{item.path}: a video without a single frame")


class Writer:
    """Writes predictions into a folder and collects the summary. A context manager: shares.csv is open inside.

    shares.csv: one row per picture: image, height, width (pixels), then each class's share of the pixels (fractions).
    """

    def __init__(self, segmenter: Segmenter, out: Path, kinds: Sequence[str]) -> None:
        self.segmenter, self.out, self.kinds = segmenter, out, kinds
        self.written = 0
        self.notes: list[str] = []  # "name: how it was converted"
        self.problems: list[str] = []  # "file: why it was not segmented"

    def __enter__(self) -> Writer:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._file = open(self.out / "shares.csv", "w", newline="", encoding="utf-8")
        except OSError as e:
            raise UserError(f"cannot write in {self.out}: {e.strerror or e}") from None
        self._rows = csv.writer(self._file)
        self._rows.writerow(["image", "height", "width", *self.segmenter.class_names])
        return self

    def __exit__(self, *exc) -> None:
        self._file.close()

    def add(self, name: str, image: np.ndarray, notes: Sequence[str] = ()) -> None:
        """Segment one picture and write it."""
        s = self.segmenter
        pred = s.segment(image)
        save_prediction(pred, image, s.palette, self.out, name, self.kinds, s.class_names)
        shares = class_shares(pred, len(s.class_names))
        self._rows.writerow([name, *pred.shape, *(f"{v:.6f}" for v in shares)])
        self._file.flush()  # a video or a webcam may be interrupted
        self.written += 1
        self.notes += [f"{name}: {'; '.join(notes)}"] if notes else []

    @contextlib.contextmanager
    def problems_of(self, item: Input) -> Iterator[None]:
        """Skip an input that cannot be read or does not fit into memory, and note why."""
        try:
            yield
        except UserError as e:
            if "cannot write" in str(e):  # the disk is at fault, the next picture would fail too
                raise
            self.problems.append(str(e))
        except (MemoryError, RuntimeError) as e:  # torch raises RuntimeError when out of memory
            if isinstance(e, RuntimeError) and "memory" not in str(e):
                raise
            self.problems.append(f"{item.path}: does not fit into memory; try --set data.size=[512,1024]")

    def summary(self, aside: Sequence[Path] = ()) -> str:
        lines = [f"segmented: {self.written}", *_listed("note", self.notes)]
        if self.problems:
            lines += [f"not segmented: {len(self.problems)}", *_listed("skipped", self.problems)]
        if aside:
            lines.append(f"skipped, neither image nor video by suffix: {len(aside)} ({_few(aside)})")
        if self.written:
            what = ", ".join({"ids": "*_ids.png (class index)"}.get(k, f"*_{k}.png") for k in self.kinds)
            lines.append(f"written: {self.out}/{what}, shares.csv (each class's share of the pixels)")
        return "\n".join(lines)

    def require_some(self) -> None:
        """Raises: UserError if no input could be segmented."""
        if not self.written:
            more = f" ({len(self.problems)} such inputs)" if len(self.problems) > 1 else ""
            raise UserError(f"nothing was segmented: {self.problems[0]}{more}")


def _listed(word: str, items: Sequence[str]) -> list[str]:
    lines = [f"  {word}: {item}" for item in items[:LISTED]]
    return lines + ([f"  and {len(items) - LISTED} more"] if len(items) > LISTED else [])


def _few(paths: Sequence[Path]) -> str:
    return ", ".join(p.name for p in paths[:5]) + (", .." if len(paths) > 5 else "")
