"""Draw the inside of a network for one image: attention, feature maps, and the branches of ASPP.

python -m tools.look --run runs/segformer-streets-20261121-120000 --image street.jpg --query 300 410 --out look
python -m tools.look --checkpoint segformer.b2.1024x1024.city.160k.pth --image street.jpg --size 512 1024 --out look

input.png              the image as the network sees it, the query, and the prediction
attention.png          SegFormer, Swin: the attention of the query, by stage (mean over heads)
attention_stage1.png   the same for each head
features_stage1.png    the maps of a stage: main components as colours, and the channels that vary most
aspp.png               DeepLab: the response of each branch, on one scale
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from common import command
from common.command import add_network_arguments
from common.console import say
from common.drawing import colourise
from common.errors import UserError
from data.augment.geometry import resize_pair
from data.augment.transforms import denormalise, normalise
from data.files import read_image
from engine.analysis.attention_weights import Weights, attention
from engine.analysis.stage_maps import stage_maps
from engine.evaluation.networks import Opened, open_network
from engine.report.contact_sheet import Panel, compact, enlarge, fire, sheet
from models.heads.aspp import ASPP
from models.segmenter import SMALLEST

WIDTH = 240  # pixels of a panel
CHANNELS = 11  # channels shown of each stage, beside the components
QUERY = (0, 255, 255)  # colour of the mark


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of a panel for an image of `size`."""
    return max(1, round(WIDTH * size[0] / size[1])), WIDTH


def mark(picture: Image.Image, query: tuple[float, float]) -> Image.Image:
    """Draw a ring around the query, given as fractions (row, column) of the sides."""
    x, y = query[1] * picture.width, query[0] * picture.height
    draw = ImageDraw.Draw(picture)
    for radius, colour in ((6, (0, 0, 0)), (5, QUERY), (4, QUERY), (3, (0, 0, 0))):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour)
    return picture


def stretched(values: np.ndarray) -> np.ndarray:
    """Scale values to 0..1 between their 1 % and 99 % quantiles."""
    a, b = np.quantile(values, [0.01, 0.99])
    return np.clip((values - a) / max(b - a, 1e-12), 0, 1)


def overlay(image: np.ndarray, weights: np.ndarray, query: tuple[float, float], size: tuple[int, int]) -> Image.Image:
    """The image in dark grey, bright where the weights (h, w) are high. The scale ends at three times the weight of
    uniform attention, or at the highest weight if that is more."""
    values = weights / max(weights.max(), min(3 / max(np.count_nonzero(weights), 1), 1))
    grey = Image.fromarray(image).convert("L").resize(size[::-1], Image.Resampling.BILINEAR)
    light = np.asarray(enlarge(fire(values), size), np.float32)  # (H, W, 3)
    mixed = 0.3 * np.asarray(grey, np.float32)[..., None] + 0.85 * light
    return mark(Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8)), query)


def attention_caption(w: Weights, weights: Tensor, name: str) -> tuple[str, str]:
    """The effective number of keys: as many equal weights would have the same entropy."""
    p = weights.flatten()[weights.flatten() > 0]
    p = p / p.sum()
    return name, f"{w.what}, effectively {float(torch.exp(-(p * p.log()).sum())):.0f}"


def attention_sheets(found: list[Weights], image: np.ndarray, query: tuple[float, float]) -> dict[str, Image.Image]:
    size = panel_size(image.shape[:2])
    note = "ring: the query; bright: its keys; uniform attention is dark violet, three times that is white"

    def panel(w: Weights, weights: Tensor, name: str) -> Panel:
        return overlay(image, weights.numpy(), query, size), attention_caption(w, weights, name)

    means = [panel(w, w.heads.mean(0), w.block) for w in found]
    pages = {"attention": sheet(means, "Attention of one pixel, mean over heads", note)}
    for stage in sorted({w.stage for w in found}):
        heads = [(w, i, head) for w in found if w.stage == stage for i, head in enumerate(w.heads, 1)]
        panels = [panel(w, head, f"{w.block}, head {i}") for w, i, head in heads]
        pages[f"attention_stage{stage + 1}"] = sheet(panels, f"Attention of one pixel, stage {stage + 1}", note)
    return pages


def components(x: Tensor, n: int = 3) -> tuple[np.ndarray, float]:
    """The n principal components of a map (C, h, w): (n, h, w), and their share of the variance.

    A component has no sign; each is turned so that its largest weight is positive.
    """
    flat = x.double().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)  # (C, h w)
    variances, directions = torch.linalg.eigh(flat @ flat.T)  # ascending
    top = directions[:, -n:].flip(1)  # (C, n)
    top = top * top.gather(0, top.abs().argmax(0, keepdim=True)).sign()
    share = float(variances[-n:].sum() / variances.sum().clamp(min=1e-30))
    return (top.T @ flat).view(-1, *x.shape[1:]).numpy(), share


def feature_sheet(name: str, x: Tensor, size: tuple[int, int], channels: Sequence[str] = ()) -> Image.Image:
    """Components as red, green and blue, then the channels that vary most. channels: their names, if they have any."""
    count, shape = x.shape[0], panel_size(size)
    parts, share = components(x, min(3, count))
    rgb = np.stack([stretched(p) for p in parts] + [np.zeros(parts.shape[1:])] * (3 - len(parts)), axis=-1)
    colours = (255 * rgb).round().astype(np.uint8)
    panels: list[Panel] = [(enlarge(colours, shape), ("main components", f"{100 * share:.0f} % of the variance"))]
    for c in x.flatten(1).std(1).argsort(descending=True)[:CHANNELS].tolist():
        values = x[c].numpy()
        caption = (channels[c] if channels else f"channel {c}", f"{values.min():.2g} to {values.max():.2g}")
        panels.append((enlarge(fire(stretched(values)), shape), caption))
    note = f"{count} channels of {x.shape[1]} x {x.shape[2]}; those that vary most, each on its own scale"
    return sheet(panels, f"Feature maps: {name}", note)


def aspp_of(model: nn.Module) -> ASPP | None:
    return next((m for m in model.modules() if isinstance(m, ASPP)), None)


def branch_name(branch: nn.Module) -> str:
    """A branch is named after its first convolution: 1x1, or 3x3 with its dilation rate."""
    conv = next(m for m in branch.modules() if isinstance(m, nn.Conv2d))
    return "1x1" if conv.kernel_size == (1, 1) else f"3x3, rate {conv.dilation[0]}"


@torch.no_grad()
def aspp_responses(network: nn.Module, aspp: ASPP, images: Tensor) -> dict[str, Tensor]:
    """{branch: mean over its channels, after ReLU, (h, w)}; a single number for the pooled branch."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in [*((branch_name(b), b) for b in aspp.branches), ("image pooling", aspp.pooling)]:
            hook = lambda m, args, out, name=name: found.__setitem__(name, out[0].mean(0).float().cpu())  # noqa: E731
            stack.callback(module.register_forward_hook(hook).remove)
        network(images)
    return found


def aspp_sheet(found: dict[str, Tensor], size: tuple[int, int]) -> Image.Image:
    highest = max(float(x.max()) for x in found.values())
    panels = []
    for name, x in found.items():
        picture = enlarge(fire((x / max(highest, 1e-12)).numpy()), panel_size(size))
        words = f"{x.item():.3g} everywhere" if x.numel() == 1 else f"mean {x.mean():.3g}, at most {x.max():.3g}"
        panels.append((picture, (name, words)))
    note = f"mean over channels after ReLU, one scale for all: black 0, white {highest:.3g}"
    return sheet(panels, "ASPP: response of each branch", note, columns=3)


def look(opened: Opened, images: Tensor, query: tuple[float, float]) -> dict[str, Image.Image]:
    """{file name: page} for one image (1, 3, H, W)."""
    image = denormalise(images[0].cpu()).permute(1, 2, 0).numpy()  # (H, W, 3)
    size = image.shape[:2]
    with torch.no_grad():
        maps = {k: v[0].float().cpu() for k, v in stage_maps(opened.network, images, opened.inner).items()}
    pred = colourise(maps["out"].argmax(0).numpy().astype(np.uint8), np.asarray(opened.palette, np.uint8))
    row, column = (int(q * n) for q, n in zip(query, size))
    name = opened.class_names[int(maps["out"][:, row, column].argmax())]
    shape = panel_size(size)
    seen = Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR)
    first = [(mark(seen, query), ("image", f"query at {row}, {column}")),
             (mark(enlarge(pred, shape), query), ("prediction", f"of the query: {name}"))]  # fmt: skip
    pages = {"input": sheet(first, opened.title, f"as the network sees it: {size[0]} x {size[1]}")}
    if found := attention(opened.network, opened.inner, images, query):
        found = [replace(w, heads=w.heads.float().cpu()) for w in found]
        pages |= attention_sheets(found, image, query)
    for k, x in maps.items():
        names = opened.class_names if len(x) == len(opened.class_names) and k in ("head", "out", "classifier") else ()
        pages[f"features_{k.replace(' ', '')}"] = feature_sheet(k, x, size, names)
    if (aspp := aspp_of(opened.inner)) is not None:
        pages["aspp"] = aspp_sheet(aspp_responses(opened.network, aspp, images), size)
    return pages


def main(args: argparse.Namespace) -> None:
    opened = open_network(args)
    pixels = read_image(args.image)
    size = tuple(args.size or opened.size or (max(SMALLEST, n) for n in pixels.shape[:2]))
    command.check_at_least(SMALLEST, size=size)
    h, w = pixels.shape[:2]
    at = args.query or [h // 2, w // 2]
    if not (0 <= at[0] < h and 0 <= at[1] < w):
        raise UserError(f"--query: row {at[0]}, column {at[1]} is outside {args.image}, which has {h} x {w} pixels")
    query = (at[0] + 0.5) / h, (at[1] + 0.5) / w
    tensor = normalise(resize_pair(torch.from_numpy(pixels).permute(2, 0, 1), None, size)[0])[None]  # (1, 3, H, W)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UserError(f"--out: cannot make the folder {args.out}: {e.strerror}") from None
    say(f"network: {opened.title}, {opened.path}")
    pages = look(opened, tensor.to(opened.device), query)
    for name, picture in pages.items():
        compact(picture).save(args.out / f"{name}.png", optimize=True)
    if "attention" not in pages:
        say("no attention in this network")
    say(f"written in {args.out}: {', '.join(pages)}")


def build_parser() -> argparse.ArgumentParser:
    p = command.parser(__doc__, "python -m tools.look --run runs/RUN --image street.jpg --out look")
    add_network_arguments(p)
    p.add_argument("--image", type=Path, required=True, metavar="FILE", help="the image to look at")
    p.add_argument("--query", type=int, nargs=2, metavar=("Y", "X"), help="pixel of the image; default: its middle")
    p.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="network size (default: the run's data.size)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the pictures")
    return p


if __name__ == "__main__":
    sys.exit(command.run(main, build_parser()))
