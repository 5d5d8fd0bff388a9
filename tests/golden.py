"""The losses of the first 20 steps of every config in configs/, which show whether a change alters results.

python -m tests.golden --update      (after a change that is meant to alter them: in the same commit)

Small sizes, noise for images, one thread. The digits belong to one version of torch and one set of processor
instructions, both in the file's first line; elsewhere sums round otherwise, and training makes such differences grow.
So every config is in the file twice: as it is, compared where torch and processor are the same, and calm (a thousandth
of the learning rate, no augmentation), compared to 1e-4 elsewhere. `ATEN_CPU_CAPABILITY=default python -m tests.golden`
against the file from AVX2 (torch 2.14.1, 2026-11-25): losses differ by up to 1.1 % as they are, by 1.7e-6 calm.
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
from tests.helpers import write_image, write_mask

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


def losses(path: Path, place: Path, calm: bool) -> list[float]:
    """The loss of each of the first steps of a config, on the images in place/data."""
    run, found, train_step = place / f"{path.stem} {calm}", [], train.train_step
    run.mkdir()
    cfg = load_config(path, [*SMALL, f"data.root={place / 'data'}"])
    if calm:
        cfg.optim.lr, cfg.data.augment = cfg.optim.lr / 1000, "none"

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
        train_single(cfg, run, torch.device("cpu"))
    except Enough:
        return found
    finally:
        train.train_step = train_step
        torch.set_num_threads(threads)
    raise AssertionError(f"{path.name}: only {len(found)} steps")


def make_data(place: Path) -> None:
    """In the layout of Cityscapes, at the size of the network: resizing bytes is rounded in many ways."""
    for split, n in (("train", 16), ("val", 2)):
        for i in range(n):
            stem = f"{split}/city/city_{i:06d}_000019"
            write_image(place / "data" / "leftImg8bit" / f"{stem}_leftImg8bit.png", (64, 64), seed=i)
            write_mask(place / "data" / "gtFine" / f"{stem}_gtFine_labelIds.png", (7, 11, 26, 0), (64, 64))


def read() -> tuple[str, dict[str, list[float]]]:
    """(the machine, {config: losses}) of the file; the calm ones are under "calm NAME"."""
    first, *lines = FILE.read_text().splitlines()
    found: dict[str, list[float]] = {}
    for line in lines:
        name, _, loss = line.rsplit(maxsplit=2)
        found.setdefault(name, []).append(float(loss))
    return first.removeprefix("# "), found


def main(args: argparse.Namespace) -> None:
    lines = [f"# {machine()}"]
    with tempfile.TemporaryDirectory() as place:
        make_data(Path(place))
        for path, calm in ((path, calm) for calm in (False, True) for path in CONFIGS):
            name = "calm " * calm + path.name
            lines += [f"{name} {i} {loss:.12g}" for i, loss in enumerate(losses(path, Path(place), calm))]
    print("\n".join(lines))
    if args.update:
        FILE.write_text("\n".join(lines) + "\n")


def build_parser() -> argparse.ArgumentParser:
    p = command.plain_parser("tests.golden", __doc__)
    p.add_argument("--update", action="store_true", help="write them into tests/golden_losses.txt")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
