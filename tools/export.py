"""Export a trained network to one file that runs without this repository, and check that it computes the same.

python -m tools.export --run runs/unet-streets-20261121-120000 --size 512 1024 --format onnx
python -m tools.export --checkpoint segformer.b2.1024x1024.city.160k.pth --size 1024 1024 --format pt2 --out b2.pt2

onnx  for ONNX Runtime, TensorRT, OpenVINO and others; needs onnx and onnxscript, the check needs onnxruntime
pt2   torch.export: a graph that torch runs, compiles or packs for AOTInductor

The file takes `images`, float32 (batch, 3, H, W), normalised as ImageNet networks expect them, and gives `out`, logits
(batch, classes, H, W). It holds classes, palette, mean and std as a JSON text named `segmentation`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common import command
from common.command import add_network_arguments
from common.console import say
from common.errors import UserError
from common.imagenet import MEAN, STD
from engine.evaluation.networks import Opened, open_network
from models.segmenter import SMALLEST

KEY = "segmentation"  # the name of the JSON text inside the file
TOLERANCE = 1e-4  # of the largest logit: another order of rounding stays far below, another formula far above


class Logits(nn.Module):
    """images (B, 3, H, W) -> logits (B, C, H, W): the exported graph takes one tensor and gives one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]


def to_onnx(model: nn.Module, images: Tensor, facts: dict, path: Path) -> None:
    """One .onnx file, weights inside. Raises: UserError where onnx or onnxscript is not installed."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("--format onnx needs two more packages: pip install onnx onnxscript") from None
    names = {"input_names": ["images"], "output_names": ["out"]}
    program = torch.onnx.export(model, (images,), dynamo=True, external_data=False, verbose=False, **names)
    program.model.metadata_props[KEY] = json.dumps(facts)
    program.save(path, external_data=False)


def to_pt2(model: nn.Module, images: Tensor, facts: dict, path: Path) -> None:
    with torch.no_grad():
        program = torch.export.export(model, (images,))
    with open(path, "wb") as file:  # given a path, torch warns of every suffix but .pt2
        torch.export.save(program, file, extra_files={KEY: json.dumps(facts)})


def open_onnx(path: Path) -> Callable[[Tensor], Tensor] | None:
    """images -> logits, by ONNX Runtime on the CPU; None if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["out"], {"images": images.cpu().numpy()})[0])


def open_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    with open(path, "rb") as file:
        return torch.export.load(file).module()


FORMATS = {"onnx": (to_onnx, open_onnx), "pt2": (to_pt2, open_pt2)}  # also the suffixes


def compare_logits(
    network: Callable, exported: Callable, shape: tuple[int, ...], device: torch.device
) -> tuple[float, str]:
    """Run both on three batches of random images that the export has not seen: noise, stronger noise, and a smooth
    picture, whose neighbouring pixels are alike as in photographs.

    Returns the largest difference as a fraction of the network's largest logit, and a description.
    """
    draw = torch.Generator().manual_seed(1)
    noise, stronger, smooth = (torch.randn(shape, generator=draw) for _ in range(3))
    largest = total = size = 0.0
    changed = pixels = 0
    for images in (noise, 2 * stronger, 8 * nn.functional.avg_pool2d(smooth, 17, 1, 8)):
        with torch.no_grad():
            ours, theirs = (f(images.to(device)).float().cpu() for f in (network, exported))
        if ours.shape != theirs.shape:
            raise UserError(f"the exported file gives {tuple(theirs.shape)}, the network {tuple(ours.shape)}")
        difference = (ours - theirs).abs().double()
        difference[~torch.isfinite(theirs)] = float("inf")
        largest, size = max(largest, float(difference.max())), max(size, float(ours.abs().max()))
        total += float(difference.mean()) / 3
        changed += int((ours.argmax(1) != theirs.argmax(1)).sum())
        pixels += ours[:, 0].numel()
    relative = largest / size if size else largest
    gap = f"largest difference {largest:.2e} ({relative:.1e} of the largest logit), mean {total:.1e}"
    return relative, f"{gap}; {changed} of {pixels} pixels get another class"


def export(opened: Opened, shape: tuple[int, int, int, int], format: str, path: Path) -> str:
    """Write the file, open it again, compare and describe the result; "" if nothing is installed that opens it.

    The file gets its final name only after the check. Raises: UserError where its logits differ from the network's.
    """
    (write, reopen), model = FORMATS[format], Logits(opened.network).eval()
    facts = {"classes": opened.class_names, "palette": opened.palette, "mean": MEAN, "std": STD, "title": opened.title}
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(opened.device)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # hide what the exporters print
            warnings.simplefilter("ignore")
            write(model, images, facts, part)
            exported = reopen(part)
        relative, text = compare_logits(model, exported, shape, opened.device) if exported else (0.0, "")
        if not relative <= TOLERANCE:
            raise UserError(f"{path} was not written: the exported file computes otherwise: {text}")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return text


def main(args: argparse.Namespace) -> None:
    opened = open_network(args, device="cpu")
    args.size = tuple(args.size or opened.size or ())
    if not args.size:
        raise UserError(f"{opened.path} does not say which size it was trained at: give --size H W")
    command.check_at_least(SMALLEST, size=args.size)
    command.check_at_least(1, batch=args.batch)
    folder, shape = Path() if args.checkpoint else opened.path.parent, (args.batch, 3, *args.size)
    path = args.out or folder / f"{opened.path.stem}-{args.size[0]}x{args.size[1]}.{args.format}"
    command.check_output("--out", path)
    say(f"network: {opened.title}, {opened.path}")
    difference = export(opened, shape, args.format, path)
    say(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")
    inputs, outputs = (" x ".join(map(str, (args.batch, n, *args.size))) for n in (3, len(opened.class_names)))
    say(f"images {inputs} -> out {outputs}")
    compared = f"compared with the network on {3 * args.batch} random images: {difference}"
    say(compared if difference else "not compared: onnxruntime is not installed (pip install onnxruntime)")


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.export --run runs/RUN --size 512 1024 --format onnx")
    add_network_arguments(p)
    p.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: the run's data.size)")
    p.add_argument("--batch", type=int, default=1, metavar="N", help="images at a time; default 1")
    p.add_argument("--format", choices=list(FORMATS), default="onnx", help="default onnx")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: the checkpoint's name with the size")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
