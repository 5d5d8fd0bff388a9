"""Public files where eval.py and predict.py take checkpoints of ours: their network, behind the house's own images.

Data sets here give images normalised as ImageNet networks expect them. A publisher who trained on others gets his own:
NORMALISATION is the table, and `AsPublished` turns one into the other before the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data.augment.transforms import MEAN, STD
from engine.checkpoint import file_error
from engine.evaluation.class_lists import class_names, palette
from models.checkpoints.load import Report, load_container, open_container
from models.checkpoints.normalisation import PER_IMAGE, normalisation


@dataclass(frozen=True)
class Public:
    """A public file as these commands use it."""

    network: nn.Module  # images normalised as here -> {"out": logits (B, num_classes, H, W)}, in eval mode
    num_classes: int
    class_names: tuple[str, ...]  # "class 0", .. where nothing tells them
    palette: list[tuple[int, int, int]]
    report: Report
    note: str  # where the names are from


def open_public(path: str | Path) -> Public:
    """Raises: UserError for what cannot be read, is of no known layout, or is an encoder, which segments nothing."""
    container, words = open_container(path)
    model, report = load_container(container, words, path)
    if report.num_classes is None:
        problem = f"an encoder ({report.layout}, {report.architecture}), it segments nothing"
        raise file_error(path, f"{problem}; train a head on it with model.pretrained")
    count = max(report.num_classes, 2)  # one channel: the class against everything else
    names, origin = class_names(container.meta, count)
    return Public(
        network=AsPublished(model, normalisation(report.options["form"], words)).eval(),
        num_classes=count,
        class_names=names or tuple(f"class {i}" for i in range(count)),
        palette=palette(container.meta, count),
        report=report,
        note=origin or "not in the file",
    )


class AsPublished(nn.Module):
    """Images normalised as in this house -> as the publisher's network expects them -> its logits.

    A network with one channel of logits z says by sigmoid(z) > 0.5 whether a pixel is its class: the same as two
    channels (0, z), whose softmax is (1 - sigmoid(z), sigmoid(z)). Shapes: (B, 3, H, W) -> (B, max(C, 2), H, W).
    """

    def __init__(self, model: nn.Module, wanted) -> None:
        super().__init__()
        self.model, self.per_image = model, wanted is PER_IMAGE
        mean, std = ((0.0,) * 3, (1.0,) * 3) if self.per_image else wanted
        scale = [ours / theirs for ours, theirs in zip(STD, std)]
        shift = [(ours - theirs) / s for ours, theirs, s in zip(MEAN, mean, std)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.same = not self.per_image and (mean, std) == (MEAN, STD)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if self.per_image:  # whatever scale and shift the images come with fall out
            std, mean = torch.std_mean(images, (2, 3), correction=0, keepdim=True)
            images = (images - mean) / std.clamp(min=1e-6)
        elif not self.same:
            images = images * self.scale + self.shift
        logits = self.model(images)["out"]
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)  # (B, 2, H, W)
        return {"out": logits}
