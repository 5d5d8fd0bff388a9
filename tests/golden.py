"""The losses of the first 20 steps of every config in configs/, which show whether a change alters results.

python -m tests.golden --update      (after a change that is meant to alter them: in the same commit)

Small sizes, noise for images, one thread. The digits belong to one version of torch and one set of processor
instructions, both in the file's first line; elsewhere sums round otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from common import command
from engine.config import load_config
from engine.training import train
from engine.training.single_run import train_single
from tests.helpers import make_cityscapes

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_name("golden_losses.txt")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STEPS = 20
SMALL = ["data.name=cityscapes", "data.size=[64, 64]", "data.cache=false", "device=cpu", "train.workers=0",
         "train.amp=none", "train.batch_size=2", "train.validate_every=1000", "train.epochs=3",
         "cv.folds=0", "cv.start=none", "cv.stages=[]", "cv.start_overrides={}"]  # fmt: skip


class Enough(Exception):
    """The steps that are compared are done."""


def machine() -> str:
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def losses(path: Path, place: Path) -> list[float]:
    """The loss of each of the first steps of a config, on the images in place/data."""
    run, found, train_step = place / path.stem, [], train.train_step
    run.mkdir()

    def step(*args, **options):
        logits, parts = train_step(*args, **options)
        found.append(parts["loss"])
        if len(found) == STEPS:
            raise Enough
        return logits, parts

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train.train_step = step
    try:
        train_single(load_config(path, [*SMALL, f"data.root={place / 'data'}"]), run, torch.device("cpu"))
    except Enough:
        return found
    finally:
        train.train_step = train_step
        torch.set_num_threads(threads)
    raise AssertionError(f"{path.name}: only {len(found)} steps")


def make_data(place: Path) -> None:
    for split, n in (("train", 8), ("val", 1)):
        make_cityscapes(place / "data", cities=("a", "b"), split=split, n=n)


def read() -> tuple[str, dict[str, list[float]]]:
    """(the machine, {config: losses}) of the file."""
    first, *lines = FILE.read_text().splitlines()
    found: dict[str, list[float]] = {}
    for line in lines:
        name, _, loss = line.split()
        found.setdefault(name, []).append(float(loss))
    return first.removeprefix("# "), found


def main(args: argparse.Namespace) -> None:
    lines = [f"# {machine()}"]
    with tempfile.TemporaryDirectory() as place:
        make_data(Path(place))
        for path in CONFIGS:
            lines += [f"{path.name} {i} {loss:.12g}" for i, loss in enumerate(losses(path, Path(place)))]
    print("\n".join(lines))
    if args.update:
        FILE.write_text("\n".join(lines) + "\n")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tests.golden", __doc__)
    p.add_argument("--update", action="store_true", help="write them into tests/golden_losses.txt")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
