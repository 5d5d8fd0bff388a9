"""Samples per second of every augmentation preset, and milliseconds of each step.

    python -m benchmarks.augment                             # at 256x512, one thread
    python -m benchmarks.augment --size 512 1024 --steps

Times augmentation and normalisation of a sample that is already decoded and resized (`data.cache: true`), in one
thread, as in a worker process. Presets take turns; the result is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import torch
from torchvision import tv_tensors

from common.tables import format_table
from data.augment.copy_paste import CopyPaste
from data.augment.draws import sample_rng
from data.augment.presets import AUGMENTS
from data.augment.transforms import build_transform

SAMPLES = 20  # per preset and round


def picture(height: int, width: int, seed: int = 0) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Blocks of 19 classes with noise. The content hardly matters: only the retried crop depends on it."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 19, (height // 32 + 1, width // 32 + 1), generator=generator, dtype=torch.uint8)
    mask = blocks.repeat_interleave(32, 0).repeat_interleave(32, 1)[:height, :width].contiguous()
    noise = torch.randint(0, 40, (3, height, width), generator=generator, dtype=torch.uint8)
    return tv_tensors.Image(noise + 10 * mask), tv_tensors.Mask(mask)


def median_ms(calls: dict, rounds: int) -> dict[str, float]:
    """Milliseconds of each call, the median over rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            for i in range(SAMPLES):
                with sample_rng(number, i):
                    call()
            times[name].append(1000 * (time.perf_counter() - started) / SAMPLES)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", action="store_true", help="each step by itself, done every time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(args.size)
    pair, other = picture(*size), picture(*size, seed=1)
    calls = {name: partial(build_transform(name, size), *pair) for name in AUGMENTS}
    for edge in (0, 2):
        calls[f"copy-paste, edge {edge}"] = partial(CopyPaste(1.0, tuple(range(19)), edge), *pair, other)
    if args.steps:
        rows = {step for preset in AUGMENTS.values() for _, step in [*preset.before, *preset.after]}
        calls = {describe(step): partial(step, *pair) for step in rows}
    found = median_ms(calls, args.rounds)
    rows = [(name, f"{ms:.1f}", f"{1000 / ms:.0f}") for name, ms in sorted(found.items(), key=lambda item: item[1])]
    print(f"{size[0]}x{size[1]}, one thread, torch {torch.__version__}")
    print(format_table(rows, ("step" if args.steps else "preset", "ms a sample", "samples/s")))


def describe(step) -> str:
    options = getattr(step, "keywords", {})
    shown = ", ".join(f"{k} {v}" for k, v in options.items() if k != "steps")
    return f"{getattr(step, 'func', step).__name__} {shown}".strip()


if __name__ == "__main__":
    main()
