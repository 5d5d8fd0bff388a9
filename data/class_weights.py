"""Class weights for losses, from the pixels that each class has in the training labels, by published rules.

    loss:
      class_weights: median_frequency                              # a row of RULES
      class_weights: {rule: effective_number, beta: 0.999999}      # with an option of the rule

n_c is the number of labelled pixels of class c in the training images, at the labels' own size; f_c = n_c / sum n. A
class without a pixel gets weight 0 and is left out of medians and means.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, unknown
from common.files import write_atomically
from data.dataset import SegmentationDataset, data_hash
from data.files import read_mask


@dataclass(frozen=True)
class ClassPixels:
    """Input of the rules, float64 (C,): pixels of each class, images that show it, labelled pixels of these images."""

    pixels: Tensor
    images: Tensor
    pixels_of_images: Tensor

    @staticmethod
    def of(counts: Tensor) -> ClassPixels:
        """counts (N, C): labelled pixels of each class in each of N images."""
        present, total = counts > 0, counts.sum(1, keepdim=True)  # (N, C), (N, 1)
        return ClassPixels(counts.sum(0).double(), present.sum(0).double(), (present * total).sum(0).double())

    @property
    def frequency(self) -> Tensor:
        """f_c, (C,)."""
        return self.pixels / self.pixels.sum().clamp(min=1)


# --- the rules: (ClassPixels) -> weights (C,); values of classes without pixels are not used


def inverse_frequency(p: ClassPixels, eps: float = 1e-6) -> Tensor:
    """1 / (f_c + eps), scaled to a mean of 1: every class has the same weight in a mean over pixels. A class of a
    hundred pixels in the whole set then has an enormous gradient at each of them."""
    return _mean_one(1 / (p.frequency + eps), p)


def inverse_sqrt(p: ClassPixels) -> Tensor:
    """1 / sqrt(f_c), scaled to a mean of 1: between no weights and inverse frequency."""
    return _mean_one(p.frequency.rsqrt(), p)


def median_frequency(p: ClassPixels) -> Tensor:
    """median of the F_c / F_c, where F_c = n_c / labelled pixels of the images that class c occurs in (Eigen and
    Fergus, arXiv 1411.4734; SegNet, arXiv 1511.00561). Not scaled: the class in the middle has 1. For an even number of
    classes the median is the mean of the two in the middle."""
    frequency = p.pixels / p.pixels_of_images
    return torch.quantile(frequency[p.pixels > 0], 0.5) / frequency


def effective_number(p: ClassPixels, beta: float | None = None) -> Tensor:
    """(1 - beta) / (1 - beta^n_c), scaled to a mean of 1 (Cui et al., arXiv 1901.05555).

    beta = (N - 1) / N, where N is the number of distinct samples of a class: beta 0 gives equal weights, beta towards 1
    inverse frequency. The paper counts images and chooses beta from 0.9 to 0.9999 by hand. We count pixels, of which
    there are so many that these values would give equal weights. Without beta, N is the mean of n_c.
    """
    if beta is None:
        beta = 1 - 1 / max(p.pixels[p.pixels > 0].mean().item(), 1.0)
    if not 0 <= beta < 1:
        raise UserError(f"class_weights: effective_number: beta must be at least 0 and below 1, got {beta}")
    log_beta = np.log(beta) if beta > 0 else -np.inf
    return _mean_one((1 - beta) / -torch.expm1(p.pixels * log_beta), p)  # expm1: beta^n is close to 1 for rare classes


def enet(p: ClassPixels, c: float = 1.02) -> Tensor:
    """1 / ln(c + f_c) (ENet, arXiv 1606.02147): bounded, from 1 / ln(1 + c) to 1 / ln(c), about 50. Not scaled.
    ERFNet uses it with c = 1.1."""
    if c <= 1:
        raise UserError(f"class_weights: enet: c must be above 1, got {c}")
    return 1 / (c + p.frequency).log()


def inverse_log_count(p: ClassPixels) -> Tensor:
    """1 / ln(1 + n_c), scaled to a mean of 1: mild; it depends on the number of images."""
    return _mean_one(1 / p.pixels.log1p(), p)


def _mean_one(weights: Tensor, p: ClassPixels) -> Tensor:
    """Scaled to a sum of C, the number of classes that have pixels."""
    present = p.pixels > 0
    return weights * present.sum() / weights[present].sum()


RULES: dict[str, Callable[..., Tensor]] = {
    rule.__name__: rule
    for rule in (inverse_frequency, median_frequency, effective_number, enet, inverse_log_count, inverse_sqrt)
}


def rule_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a rule with their types and defaults, from its signature."""
    if name not in RULES:
        raise unknown("rule for class_weights", name, RULES)
    parameters = inspect.signature(RULES[name], eval_str=True).parameters
    return {n: parameter for n, parameter in parameters.items() if n != "p"}


def is_rule(value: object) -> bool:
    """Whether a value of `class_weights` names a rule (a word, or a mapping with `rule`), not numbers."""
    return isinstance(value, dict) or (isinstance(value, str) and value.strip()[:1].isalpha())


def class_weights(rule: str | dict, counts: Tensor) -> list[float]:
    """The C weights by a rule of RULES, or by {rule: ..., options}, from counts (N, C) of `count_pixels`.

    Raises: UserError for an unknown rule or option, or images without one labelled pixel.
    """
    options = dict(rule) if isinstance(rule, dict) else {"rule": rule}
    name = str(options.pop("rule", None))
    for option in options.keys() - rule_options(name).keys():
        raise unknown(f"option of {name}", option, rule_options(name))
    pixels = ClassPixels.of(counts)
    if not pixels.pixels.sum():
        raise UserError(f"class_weights: {name}: the {len(counts)} training images have no labelled pixel")
    return RULES[name](pixels, **options).masked_fill(pixels.pixels == 0, 0.0).tolist()


# --- counting ---------------------------------------------------------------------------------------------------------


def cache_file(dataset: SegmentationDataset) -> Path:
    """Where the counts of a split are cached: under $XDG_CACHE_HOME or ~/.cache, named by the data's hash."""
    whole = copy.copy(dataset)
    whole.indices = list(range(len(dataset.all_records)))
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "segmentation-class-pixels" / f"{data_hash(whole)[:32]}.json"


def count_pixels(dataset: SegmentationDataset, cache: bool = True) -> Tensor:
    """Labelled pixels of each class in each image of a data set, (N, C) int64, at the masks' own size.

    Reads masks only. Counts are kept per image in `cache_file`, which the folds of a split share; a mask that was
    written since is counted again.
    """
    dataset.require_labels()
    path = cache_file(dataset) if cache else None
    known = _read_cache(path) if path else {}
    records = {i: dataset.all_records[i] for i in dataset.indices}
    stamps = {i: record.label.stat().st_mtime_ns for i, record in records.items()}
    missing = [i for i, record in records.items() if known.get(record.name, {}).get("written") != stamps[i]]

    def count(i: int) -> dict[str, int]:
        values = np.bincount(read_mask(records[i].label, dataset.labels).ravel(), minlength=256)[: dataset.num_classes]
        return {str(c): int(values[c]) for c in np.flatnonzero(values)}

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases Python's lock
        for i, pixels in zip(missing, pool.map(count, missing)):
            known[records[i].name] = {"written": stamps[i], "pixels": pixels}
    if path and missing:
        _write_cache(path, known)
    counts = torch.zeros(len(dataset), dataset.num_classes, dtype=torch.int64)
    for row, record in enumerate(records.values()):
        for c, n in known[record.name]["pixels"].items():
            counts[row, int(c)] = n
    return counts


def class_shares(dataset: SegmentationDataset) -> dict[str, float]:
    """Share of each class in the labelled pixels, at the masks' own size; all 0 where nothing is labelled."""
    pixels = count_pixels(dataset).sum(0)
    return dict(zip(dataset.class_names, (pixels.double() / pixels.sum().clamp(min=1)).tolist()))


def _read_cache(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_cache(path: Path, content: dict) -> None:
    with contextlib.suppress(UserError):  # a cache that cannot be written costs time, not the run
        write_atomically(path, lambda file: file.write(json.dumps(content).encode()))
