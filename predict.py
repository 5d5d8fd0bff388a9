"""Segment your own images with a trained run or checkpoint.

python predict.py street.jpg holiday/ --out predictions
python predict.py street.jpg --run runs/deeplabv3plus-streets-20261121-120000 --aggregate ensemble --out predictions
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.files import SUFFIXES, read_image
from engine import checkpoint as ckpt
from engine import cli
from engine.aggregate import parse_name
from engine.config import config_from
from engine.errors import UserError
from engine.inference import Views
from engine.pictures import predict_image, save_prediction
from engine.run_folder import newest_run, open_run, resolve_device, say
from engine.scoring import chosen_checkpoint, networks


def main(args: argparse.Namespace) -> None:
    path = checkpoint_path(args)
    checkpoint = ckpt.load_ours(path)
    cfg = config_from(checkpoint["config"], cli.overrides(args))
    device = resolve_device(cfg.device)
    files = find_images(args.inputs)
    say(f"checkpoint: {path}  images: {len(files)}")
    models = networks(checkpoint, cfg, len(checkpoint["class_names"]), device)
    palette = np.asarray(checkpoint["palette"], np.uint8)
    for name, file in tqdm(files.items(), disable=None):
        image = read_image(file)
        pred = predict_image(models, image, cfg, device, Views.of(cfg.eval))
        save_prediction(pred, image, palette, Path(args.out), name)
    say(f"written: {args.out}/*_ids.png (class index), *_color.png, *_overlay.png")


def checkpoint_path(args: argparse.Namespace) -> Path:
    if args.checkpoint:
        return Path(args.checkpoint)
    run = open_run(args.run) if args.run else newest_run(with_folds=bool(args.aggregate))
    if not args.aggregate:
        return chosen_checkpoint(run)
    name, _ = parse_name(args.aggregate, 10**6)
    path = run / "aggregate" / f"{name}.pt"
    if not path.exists():
        raise UserError(f"{path} is not there; make it with  python eval.py --run {run} --aggregate {args.aggregate}")
    return path


def find_images(inputs: list[str]) -> dict[str, Path]:
    """Output name -> file: files by stem, folders with what lies below them."""
    found: dict[str, Path] = {}
    for entry in map(Path, inputs):
        if entry.is_dir():
            below = sorted(p for p in entry.rglob("*") if p.suffix.lower() in SUFFIXES)
            pairs = [(str(p.relative_to(entry).with_suffix("")), p) for p in below]
        elif entry.is_file():
            pairs = [(entry.stem, entry)]
        else:
            raise UserError(f"input not found: {entry}")
        for name, path in pairs:
            if name in found and found[name] != path:
                raise UserError(f"{found[name]} and {path} would both be written as {name}; run them apart")
            found[name] = path
    if not found:
        raise UserError(f"no images ({', '.join(sorted(SUFFIXES))}) in {', '.join(inputs)}")
    return found


def build_parser() -> argparse.ArgumentParser:
    p = cli.parser(__doc__.splitlines()[0], "python predict.py street.jpg holiday/ --out predictions")
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="images or folders of images")
    p.add_argument("--run", help="run folder (default: the newest under runs/)")
    p.add_argument("--checkpoint", metavar="FILE", help="use this file instead of a run")
    p.add_argument("--aggregate", metavar="NAME", help="a candidate of a cross-validated run (default: best on select)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder for the predictions")
    return p


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
