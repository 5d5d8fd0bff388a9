"""Facts about the pairs of a data set, each file opened once: input of file_rules.py and value_rules.py."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from data.files import EXIF_ORIENTATION, SIDEWAYS, Record, open_image, read_raw_mask, upright_rgb
from data.labels import LabelTable, count_values

LEVELS = ("error", "warning", "note")
THUMB = 32  # side of the grey thumbnail by which near-duplicates are found
MOST_COLOURS = 4096  # of a colour mask: only the commonest ones are kept


@dataclass(frozen=True)
class Finding:
    """One fault, or one fact worth knowing."""

    level: str  # error: training or its numbers would be wrong; warning: probably not what was meant; note: a fact
    fault: str  # its name in docs/check-data.md
    text: str
    fix: str = ""  # the config line that fixes it, or what to do if no line can
    files: tuple[Path, ...] = ()


@dataclass
class Facts:
    """Facts about one pair. image_problem, label_problem: why a file cannot be read. Sizes are (H, W)."""

    split: str
    name: str
    image: Path
    label: Path | None
    image_problem: str = ""
    label_problem: str = ""
    image_hw: tuple[int, int] | None = None
    label_hw: tuple[int, int] | None = None
    image_mode: str = ""
    sideways: bool = False  # its EXIF entry turns it by a quarter
    grey: bool = False  # a colour file with three equal channels, or one channel
    contrast: float = 0.0  # standard deviation of its grey values, 0..255
    tones: int = 0  # distinct colours among some thousand pixels: a photograph has many
    thumb: np.ndarray | None = None  # (THUMB, THUMB) uint8
    image_digest: str = ""  # of the bytes
    label_digest: str = ""
    same: bool = False  # the mask is the image
    values: Counter = field(default_factory=Counter)  # raw value -> pixels, of a mask with one channel
    colours: Counter = field(default_factory=Counter)  # (r, g, b) -> pixels, of a mask with three
    mixed: float = 0.0  # share of the steps along a row that pass through a value between the two sides
    mixtures: tuple[int, ...] = ()  # those values
    busy: float = 0.0  # share of neighbours in a row that differ: a few % in a mask, most in a photograph


def scan(records: Sequence[Record], split: str, workers: int = 4, progress=None) -> list[Facts]:
    """Facts of every record, in order. Threads: Pillow decodes without holding Python's lock."""
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda r: read_pair(r, split)[0], records)
        return list(progress(found) if progress else found)


def read_pair(record: Record, split: str) -> tuple[Facts, np.ndarray | None, np.ndarray | None]:
    """Facts of a pair, its image (H, W, 3) and its mask as stored; None for a file that is missing or broken."""
    out = Facts(split, record.name, record.image, record.label)
    image = _read_image_facts(out)
    return out, image, None if record.label is None else _read_label_facts(out, image)


def mask_facts(record: Record, split: str) -> Facts:
    """Facts of the mask alone: the image is not opened."""
    out = Facts(split, record.name, record.image, record.label)
    _read_label_facts(out, None)
    return out


def _problem(path: Path, read) -> tuple[object, str]:
    """(what `read` returns, "") or (None, why the file cannot be read)."""
    try:
        if path.is_file() and path.stat().st_size == 0:
            return None, "an empty file (0 bytes)"
        return read(path), ""
    except UserError as e:
        return None, str(e).removeprefix(f"{path}: ")
    except Exception as e:  # a decoder given damaged bytes raises all kinds of errors
        return None, f"damaged: {(str(e) or type(e).__name__).splitlines()[0]}"


def _read_image_facts(out: Facts) -> np.ndarray | None:
    def read(path: Path) -> np.ndarray:
        with open_image(path) as file:
            out.image_mode = file.mode
            image = upright_rgb(file, path)
            out.sideways = file.getexif().get(EXIF_ORIENTATION) in SIDEWAYS
        return image

    image, out.image_problem = _problem(out.image, read)
    if image is None:
        return None
    out.image_hw = image.shape[:2]
    out.image_digest = hashlib.blake2b(out.image.read_bytes(), digest_size=16).hexdigest()
    out.thumb = np.asarray(Image.fromarray(image).convert("L").resize((THUMB, THUMB), Image.Resampling.BOX))
    step = max(1, round((image.shape[0] * image.shape[1] / 4096) ** 0.5))
    sample = image[::step, ::step].reshape(-1, 3).astype(np.int32)  # (N, 3), N about 4096
    out.tones = len(np.unique(sample @ np.array([65536, 256, 1])))
    out.contrast = float(sample.mean(1).std())
    out.grey = int(np.ptp(sample, axis=1).max()) <= 2
    return image


def _read_label_facts(out: Facts, image: np.ndarray | None) -> np.ndarray | None:
    raw, out.label_problem = _problem(out.label, read_raw_mask)
    if raw is None:
        return None
    out.label_hw = raw.shape[:2]
    out.label_digest = hashlib.blake2b(out.label.read_bytes(), digest_size=16).hexdigest()
    if image is not None and out.label_hw == out.image_hw and out.tones > 1:
        out.same = bool((image == (raw if raw.ndim == 3 else raw[..., None])).all())
    if raw.ndim == 3:
        out.colours = _colours(raw)
        return raw
    out.values = Counter(count_values(raw))
    out.mixed, out.mixtures = _mixtures(raw)
    out.busy = float((raw[:, 1:] != raw[:, :-1]).mean()) if raw.shape[1] > 1 else 0.0
    return raw


def _colours(rgb: np.ndarray) -> Counter:
    packed = rgb.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    values, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST_COLOURS]
    pairs = zip(values[order].tolist(), counts[order].tolist())
    return Counter({(v >> 16, v >> 8 & 255, v & 255): n for v, n in pairs})


def _mixtures(raw: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """(share of the steps along the rows that pass through a value strictly between their neighbours, those values).

    A mask resized with interpolation has such a pixel at most of its edges; one with hard edges has hardly any.
    """
    if raw.shape[1] < 3:
        return 0.0, ()
    left, middle, right = raw[:, :-2], raw[:, 1:-1], raw[:, 2:]
    between = (np.minimum(left, right) < middle) & (middle < np.maximum(left, right))
    steps = int((raw[:, 1:] != raw[:, :-1]).sum())
    return int(between.sum()) / max(steps, 20), tuple(np.unique(middle[between]).tolist())


def classes_of(f: Facts, labels: LabelTable) -> Counter:
    """Class index (ignore_index: void) -> pixels of one mask; None: pixels of unknown values."""
    out: Counter = Counter()
    for counts, index in ((f.values, labels.index_of_raw), (f.colours, labels.index_of_colour)):
        for value, n in counts.items():
            out[index.get(value)] += n
    return out
