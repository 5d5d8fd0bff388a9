"""Ranges and combinations that types cannot express. Names of models, losses and data sets are checked when built."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from common.errors import UserError
from engine.config.keys import RANGES, Config, DataConfig, EvalConfig


def check(cfg: Config, where: str = "config") -> None:
    """Raises: UserError for the first key whose value is out of range or does not go with another."""
    fault = next(chain(_out_of_range(cfg), _in_data(cfg.data), _in_eval(cfg.eval), _in_combination(cfg)), None)
    if fault:
        raise UserError(f"{where}: {fault}")


def _out_of_range(cfg: Config) -> Iterator[str]:
    for key, (low, high) in RANGES.items():
        section, leaf = key.split(".")
        value = getattr(getattr(cfg, section), leaf)
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            bound = f"at least {low}" if high is None else f"between {low} and {high}"
            yield f"{key} must be {bound}, got {value}"


def _in_data(data: DataConfig) -> Iterator[str]:
    if min(data.size) < 64:
        yield f"data.size must be at least 64x64, got {list(data.size)}"
    if data.sample and (len(data.sample) != 3 or data.sample[0] < 1 or min(data.sample) < 0):
        yield (
            "data.sample must be [train, val, test] in images, train at least 1 and 0 for the data set's own "
            f"val or test, got {data.sample}"
        )
    if data.crop is not None and min(data.crop) < 64:
        yield f"data.crop must be at least 64x64, got {list(data.crop)}"


def _in_eval(e: EvalConfig) -> Iterator[str]:
    if not e.scales or min(e.scales) <= 0:
        yield f"eval.scales must be positive numbers, got {e.scales}"
    if len(e.window) not in (0, 2) or min(e.window, default=64) < 64:
        yield f"eval.window must be [H, W] of at least 64, or [], got {e.window}"
    if e.stride and (len(e.stride) != 2 or not all(1 <= s <= w for s, w in zip(e.stride, e.window or [0, 0]))):
        yield f"eval.stride must be [] or [H, W] of 1 to eval.window ({e.window}), got {e.stride}"


def _in_combination(cfg: Config) -> Iterator[str]:
    if cfg.cv.folds == 1:
        yield "cv.folds must be 0 (a single run) or at least 2, got 1"
    if cfg.cv.start == "pretrained" and not cfg.model.pretrained:
        yield "cv.start=pretrained needs model.pretrained, a checkpoint to start from"
    if cfg.model.reuse_classes and not cfg.model.pretrained:
        yield "model.reuse_classes needs model.pretrained, a file to take them from"
    if cfg.model.take == "encoder" and cfg.model.reuse_classes:
        yield "model.take=encoder leaves no classifier for model.reuse_classes"
    if cfg.cv.start_share + cfg.cv.select_share >= 0.95:
        yield "cv.start_share + cv.select_share leave nothing for the folds"
