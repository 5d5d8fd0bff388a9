"""A trained network as a function from a picture of any size to class indices, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.console import say
from common.errors import UserError
from data.augment.geometry import resize_pair
from data.augment.transforms import normalise
from engine.evaluation.class_lists import class_list
from engine.evaluation.networks import open_networks
from engine.evaluation.views import Views, amp_dtype, predict_classes
from models import deploy

LARGEST = 2048 * 2048  # most pixels that a public network gets at once, unless data.size asks for more


@dataclass(frozen=True)
class Segmenter:
    """A network in use: `segment` maps a picture (H, W, 3) uint8 to class indices (H, W) uint8."""

    segment: Callable[[np.ndarray], np.ndarray]
    class_names: tuple[str, ...]
    palette: np.ndarray  # (C, 3) uint8


def open_segmenter(source: str | Path, settings: Sequence[str]) -> Segmenter:
    """A segmenter from a run, a checkpoint of this project or a public file; settings: SECTION.KEY=VALUE.

    A checkpoint of this project sees pictures at its config's data.size. A public file sees them at their own size
    (64 px to LARGEST pixels), unless data.size is among the settings.
    """
    opened = open_networks(source, settings)
    cfg, device = opened.config, opened.device
    if opened.report:
        say(f"{opened.report}\nclass names     {opened.names_from}: {', '.join(opened.class_names)}")
    models = [ready(m, cfg, device) for m in opened.networks]
    own_size = opened.report and not any(item.startswith("data.size=") for item in settings)

    def segment(image: np.ndarray) -> np.ndarray:
        size = network_size(image.shape[:2]) if own_size else cfg.data.size
        return predict_image(models, image, cfg, device, Views.of(cfg.eval), size)

    return Segmenter(segment, opened.class_names, np.asarray(opened.palette, np.uint8))


def ready(network: nn.Module, cfg, device: torch.device) -> nn.Module:
    """The network prepared for fast inference (on the CPU). Labels agree with eval.py's except where classes tie."""
    return deploy(network) if device.type == "cpu" and amp_dtype(cfg.train, device) is None else network


def with_classes(segmenter: Segmenter, name: str) -> Segmenter:
    """The segmenter with the class names and colours of `--classes` (see class_list) instead of the file's.

    Raises: UserError for an unknown list, and where the network has another number of classes.
    """
    table = class_list(name)
    if table.num_classes != len(segmenter.class_names):
        raise UserError(f"--classes {name}: {table.num_classes} classes, the network has {len(segmenter.class_names)}")
    return replace(segmenter, class_names=table.class_names, palette=table.palette)


def network_size(size: Sequence[int], largest: int = LARGEST) -> tuple[int, int]:
    """Network input (H, W) for a picture, if the network has no size of its own: sides of at least 64 px, at most
    `largest` pixels."""
    factor = min(1.0, (largest / (size[0] * size[1])) ** 0.5)
    return tuple(max(64, round(n * factor)) for n in size)


def predict_image(
    models: Sequence[nn.Module], image: np.ndarray, cfg, device: torch.device, views: Views, size=None
) -> np.ndarray:
    """Class indices (H, W) uint8 of an image (H, W, 3) uint8, at the image's size. The network sees the image at `size`
    (default: cfg.data.size), and its scores are resized back."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)  # (3, H, W)
    tensor = normalise(resize_pair(pixels, None, size or cfg.data.size)[0])[None]  # (1, 3, h, w)
    return predict_tensor(models, tensor, cfg, device, views, image.shape[:2])


def predict_tensor(models, tensor: Tensor, cfg, device: torch.device, views: Views, size) -> np.ndarray:
    """The same for a normalised image (1, 3, h, w); the result has `size` (H, W)."""
    pred = predict_classes(models, tensor.to(device), views, size, amp_dtype(cfg.train, device))
    return pred[0].to(torch.uint8).cpu().numpy()
