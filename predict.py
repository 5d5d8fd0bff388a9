"""Segment your own images with a trained run or checkpoint.

python predict.py street.jpg holiday/ "scans/*.tif" --out predictions
python predict.py street.jpg --run runs/deeplabv3plus-streets-20261121-120000 --aggregate ensemble --out predictions
python predict.py street.jpg --checkpoint segformer.b2.1024x1024.city.160k.pth --out predictions
python predict.py drive.mp4 --every 30 --out predictions        (or camera:0; needs OpenCV or imageio)
"""

from __future__ import annotations

import common.openmp  # noqa: F401  before torch

# isort: split
import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from common import command
from common.console import say
from common.errors import UserError
from engine.evaluation.networks import chosen_checkpoint
from engine.folds.aggregate import parse_name
from engine.prediction.inputs import find_inputs
from engine.prediction.output_folder import Writer, pictures
from engine.prediction.pictures import KINDS
from engine.prediction.segmenter import open_segmenter, with_classes
from engine.run_folder import newest_run, open_run
from models.checkpoints.known import locate


def main(args: argparse.Namespace) -> None:
    path = checkpoint_path(args)
    inputs, aside = find_inputs(args.inputs, Path(args.out))
    segmenter = open_segmenter(path, command.overrides(args))
    if args.classes:
        segmenter = with_classes(segmenter, args.classes)
    say(f"checkpoint: {path}  inputs: {len(inputs)}")
    with Writer(segmenter, Path(args.out), args.write) as writer:
        for item in tqdm(inputs, disable=None):
            with writer.problems_of(item):
                for name, image, notes in pictures(item, args.every, args.frames):
                    writer.add(name, image, notes)
    say(writer.summary(aside))
    writer.require_some()


def checkpoint_path(args: argparse.Namespace) -> Path:
    if args.checkpoint:
        return locate(args.checkpoint)
    run = open_run(args.run) if args.run else newest_run(with_folds=bool(args.aggregate))
    if not args.aggregate:
        return chosen_checkpoint(run)
    name, _ = parse_name(args.aggregate, 10**6)
    path = run / "aggregate" / f"{name}.pt"
    if not path.exists():
        raise UserError(f"{path} does not exist; make it with  python eval.py --run {run} --aggregate {args.aggregate}")
    return path


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__.splitlines()[0], "python predict.py street.jpg holiday/ --out predictions")
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders, globs, videos, or camera:0")
    p.add_argument("--run", help="run folder (default: the newest under runs/)")
    p.add_argument("--checkpoint", metavar="FILE", help="this file instead of a run: ours, or any public one")
    command.add_weights(p)
    p.add_argument("--aggregate", metavar="NAME", help="a candidate of a cross-validated run (default: best on select)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder for the predictions")
    p.add_argument("--write", nargs="+", choices=KINDS, default=KINDS, metavar="KIND",
                   help=f"which pictures: {' '.join(KINDS)} (default: all)")  # fmt: skip
    p.add_argument("--classes", metavar="NAME|FILE", help="names and colours instead of the file's: "
                   "cityscapes, ade20k, voc, coco-voc21, camvid, pets, or a classes.yaml")  # fmt: skip
    p.add_argument("--every", type=positive, default=1, metavar="N", help="of a video, every N-th frame")
    p.add_argument("--frames", type=positive, metavar="N", help="of a video or camera, at most N pictures")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
