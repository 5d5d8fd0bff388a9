"""Segment your own images with a trained run or checkpoint.

python predict.py street.jpg holiday/ --out predictions
python predict.py street.jpg --run runs/deeplabv3plus-streets-20261121-120000 --aggregate ensemble --out predictions
python predict.py street.jpg --checkpoint segformer.b2.1024x1024.city.160k.pth --out predictions
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
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
from engine.public import open_public
from engine.run_folder import newest_run, open_run, resolve_device, say
from engine.scoring import chosen_checkpoint, networks
from models.checkpoints.known import locate


def main(args: argparse.Namespace) -> None:
    path = checkpoint_path(args)
    files = find_images(args.inputs)
    segment = segment_public(args, path) if args.checkpoint and not ckpt.is_ours(path) else segment_ours(args, path)
    say(f"checkpoint: {path}  images: {len(files)}")
    for name, file in tqdm(files.items(), disable=None):
        image = read_image(file)
        pred, palette = segment(image)
        save_prediction(pred, image, palette, Path(args.out), name)
    say(f"written: {args.out}/*_ids.png (class index), *_color.png, *_overlay.png")


def segment_ours(args: argparse.Namespace, path: Path) -> Callable:
    """image (H, W, 3) -> (class indices (H, W), palette), by a checkpoint of ours at its config's data.size."""
    checkpoint = ckpt.load_ours(path)
    cfg = config_from(checkpoint["config"], cli.overrides(args))
    device = resolve_device(cfg.device)
    models = networks(checkpoint, cfg, len(checkpoint["class_names"]), device)
    palette = np.asarray(checkpoint["palette"], np.uint8)
    return lambda image: (predict_image(models, image, cfg, device, Views.of(cfg.eval)), palette)


def segment_public(args: argparse.Namespace, path: Path) -> Callable:
    """The same by a public file, at the image's own size (from 64 up) unless --set data.size says otherwise."""
    cfg = config_from({}, cli.overrides(args))
    device, resized = resolve_device(cfg.device), any(item.startswith("data.size=") for item in args.set)
    public = open_public(path)
    say(f"{public.report}\nclass names     {public.note}: {', '.join(public.class_names)}")
    network, palette = public.network.to(device), np.asarray(public.palette, np.uint8)

    def segment(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = cfg.data.size if resized else tuple(max(64, n) for n in image.shape[:2])
        return predict_image([network], image, cfg, device, Views.of(cfg.eval), size), palette

    return segment


def checkpoint_path(args: argparse.Namespace) -> Path:
    if args.checkpoint:
        return locate(args.checkpoint)
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
    p.add_argument("--checkpoint", metavar="FILE", help="this file instead of a run: ours, or any public one")
    p.add_argument("--aggregate", metavar="NAME", help="a candidate of a cross-validated run (default: best on select)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder for the predictions")
    return p


if __name__ == "__main__":
    sys.exit(cli.run(main, build_parser()))
