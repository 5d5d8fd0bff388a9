"""Measure the theoretical and effective receptive field of each stage of a network, as a table and a picture.

python -m tools.receptive_field deeplabv3plus_resnet50 --size 512 512
python -m tools.receptive_field segformer_b0 --images 16 --out field.png
python -m tools.receptive_field --run runs/unet-streets-20261121-120000 --image street.jpg

A NAME is measured with random weights, new ones for each image, on noise, as in Luo et al. (arXiv 1701.04128); a run or
a checkpoint with its own weights. The measured unit is the one in the middle of each map.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from common import command
from common.command import add_network_arguments
from common.console import say
from common.device import resolve_device
from common.errors import UserError
from common.tables import format_table
from data.augment.geometry import resize_pair
from data.augment.transforms import normalise
from data.files import read_image
from engine.analysis.receptive_field import extent, theoretical
from engine.analysis.stage_maps import effective, share_within
from engine.config.coerce import coerce_options, parse_override
from engine.evaluation.networks import open_network
from engine.report.contact_sheet import compact, fire, sheet
from models import build_model, list_models, model_options
from models.segmenter import SMALLEST

CANVAS = 2048  # pixels: the side of the image on which theoretical fields are measured; larger than all finite fields
THEORETICAL, HELD = (86, 180, 233), (255, 255, 255)  # colours of the two frames


@dataclass(frozen=True)
class Row:
    """One stage; sizes in pixels of the image."""

    name: str
    theory: str  # rows x columns on a large image
    box: tuple[tuple[int, int], tuple[int, int]]  # (first, length) of rows and columns on this image
    field: np.ndarray  # (H, W), 0..1
    half: int  # side of the square that holds half of the gradient
    most: int  # and 95 %


def measure(
    models: Iterator[nn.Module], images: Iterator[Tensor], size: tuple[int, int], example: nn.Module,
    inner: nn.Module | None = None,
) -> list[Row]:  # fmt: skip
    """The rows of all stages. models, images: pairs for the effective field; example: a model for the theoretical one;
    inner: the part that has the stages, if the models wrap it."""
    large, here = theoretical(example, (CANVAS, CANVAS)), theoretical(example, size)
    centre = (size[0] // 2, size[1] // 2)
    rows = []
    for name, field in effective(models, images, inner).items():
        h, w = (extent(mask)[1] for mask in large[name])
        theory = "whole image" if min(h, w) >= CANVAS else f"{h} x {w}"
        box = tuple(extent(mask) for mask in here[name])
        rows.append(Row(name, theory, box, field, *(share_within(field, s, centre) for s in (0.5, 0.95))))
    return rows


def panel(row: Row, width: int = 220) -> Image.Image:
    """One stage: bright is the root of the gradient, blue frames the theoretical field, white 95 % of the gradient."""
    h, w = row.field.shape
    scale = width / w
    picture = Image.fromarray(fire(np.sqrt(row.field))).resize((width, round(h * scale)), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    (top, height), (left, length) = row.box
    y, x, r = h // 2 + 0.5, w // 2 + 0.5, row.most / 2
    theory, held = (left, top, left + length, top + height), (x - r, y - r, x + r, y + r)
    for box, colour, line in ((theory, THEORETICAL, 2), (held, HELD, 1)):
        corners = [min(max(round(v * scale), 0), picture.size[i % 2] - 1) for i, v in enumerate(box)]  # clipped
        draw.rectangle(corners, outline=colour, width=line)
    return picture


def random_models(name: str, options: dict, device: torch.device) -> Iterator[nn.Module]:
    """Models with new random weights each, from seeds 0, 1, .."""
    for seed in itertools.count():
        torch.manual_seed(seed)
        yield build_model(name, 19, **options).to(device)


def inputs(args: argparse.Namespace, size: tuple[int, int], device: torch.device) -> Iterator[Tensor]:
    """The given images, resized and normalised, or noise; each (1, 3, H, W)."""
    for path in args.image or []:
        pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)  # (3, H, W)
        yield normalise(resize_pair(pixels, None, size)[0])[None].to(device)
    draw = torch.Generator().manual_seed(0)
    for _ in range(0 if args.image else args.images):
        yield torch.randn(1, 3, *size, generator=draw).to(device)


def main(args: argparse.Namespace) -> None:
    if bool(args.name) == bool(args.run or args.checkpoint):
        raise UserError("give a model's NAME, or --run or --checkpoint")
    command.check_at_least(1, images=args.images)
    command.check_output("--out", args.out)
    if args.name:
        options = dict(parse_override(item) for item in args.set)
        options = coerce_options(options, model_options(args.name, encoder=options.get("encoder")), args.name)
        device = resolve_device(args.device or "auto")
        models, title, weights = random_models(args.name, options, device), args.name, "random weights"
        example, inner, size = build_model(args.name, 19, **options), None, args.size or (512, 512)
    else:
        opened = open_network(args)
        device, title, weights = opened.device, opened.title, f"weights of {opened.path.name}"
        example = inner = opened.inner
        models, size = iter(lambda: opened.network, None), args.size or opened.size or (512, 512)
    size = tuple(size)
    command.check_at_least(SMALLEST, size=size)
    count = len(args.image) if args.image else args.images
    what = f"{count} {'image' if args.image else 'noise image'}{'s' if count > 1 else ''} of {size[0]} x {size[1]}"
    rows = measure(models, inputs(args, size, device), size, example, inner)
    cells = [[r.name, r.theory, f"{r.half} x {r.half}", f"{r.most} x {r.most}"] for r in rows]
    table = format_table(cells, ["stage", "theoretical", "half of the gradient", "95 % of it"])
    say(f"{title}: {weights}, {what}\n{table}")
    captions = [f"half in {r.half} x {r.half}, 95 % in {r.most} x {r.most}" for r in rows]
    panels = [(panel(r), (r.name, f"theoretical {r.theory}", text)) for r, text in zip(rows, captions)]
    note = f"{weights}, {what}; blue: theoretical, white: 95 % of the gradient"
    compact(sheet(panels, f"Receptive fields: {title}", note)).save(args.out, optimize=True)
    say(f"written: {args.out}")


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.receptive_field deeplabv3plus_resnet50 --size 512 512")
    p.add_argument("name", nargs="?", metavar="NAME", help=f"random weights; one of: {', '.join(list_models())}")
    add_network_arguments(p)
    p.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: the run's, or 512 512)")
    p.add_argument("--images", type=int, default=8, metavar="N", help="noise images, each new weights; default 8")
    p.add_argument("--image", type=Path, action="append", metavar="FILE", help="this image, not noise; repeatable")
    p.add_argument("--out", type=Path, default=Path("receptive_field.png"), metavar="FILE", help="the picture")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
