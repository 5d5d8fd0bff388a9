"""Copy-paste: paste objects of one training image, with their labels, into another.

Ghiasi et al. (arXiv 2012.07177) paste instances. Here, as in system A, whole classes of a semantic mask are pasted at
the place they had in their own image, so cars mostly land on roads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError, unknown
from data.augment.colour import gaussian
from data.augment.geometry import Pair, flip, resize_pair
from data.labels import IGNORE_INDEX

BACKGROUND = "background"  # a class of this name is never pasted unless it is named


@dataclass(frozen=True)
class CopyPaste:
    """How often and what to paste. classes: class indices. edge: sigma in px of the feathered border, 0 is hard."""

    probability: float
    classes: tuple[int, ...]
    edge: float = 0.0

    def __call__(self, image: Tensor, target: Tensor, source: Pair) -> Pair:
        """Resize `source` to the target's size, mirror it with p 0.5, and paste a random non-empty subset of the
        classes that it shows, all subsets equally likely. image (3, H, W), target (H, W), uint8."""
        other, labels = resize_pair(*source, tuple(target.shape))
        if torch.rand(()).item() < 0.5:
            other, labels = flip(other, labels)
        other, labels = other.as_subclass(Tensor), labels.as_subclass(Tensor)
        present = torch.bincount(labels.flatten(), minlength=256)
        classes = random_subset([c for c in self.classes if present[c]])
        return paste(image, target, other, labels, classes, self.edge)


def random_subset(items: Sequence[int]) -> list[int]:
    """A random non-empty subset, all equally likely; empty if there are no items."""
    chosen: list[int] = []
    while items and not chosen:
        chosen = [item for item, heads in zip(items, (torch.rand(len(items)) < 0.5).tolist()) if heads]
    return chosen


def paste(image: Tensor, target: Tensor, other: Tensor, labels: Tensor, classes: Sequence[int], edge: float) -> Pair:
    """Paste the pixels of `other` (3, H, W) whose label (H, W) is one of `classes` over image and target.

    edge > 0: the border is feathered in the image by blurring the mask, and stays hard in the target. A pasted pixel
    keeps at least half of its own colour, so poles two pixels wide do not fade; ignored pixels are never blended in.
    """
    mask = torch.isin(labels, torch.tensor(list(classes), dtype=labels.dtype))  # (H, W) bool
    pasted = torch.where(mask, labels, target)
    if edge <= 0 or not mask.any():
        return torch.where(mask, other, image), pasted
    soft = gaussian(mask[None].float(), edge)[0]
    soft = torch.where(mask, soft.clamp(min=0.5), soft.clamp(max=0.5))
    soft[labels == IGNORE_INDEX] = 0
    return torch.lerp(image.float(), other.float(), soft).round_().to(torch.uint8), pasted


def build_copy_paste(
    probability: float, classes: Sequence[str], exclude: Sequence[str], edge: float, class_names: Sequence[str]
) -> CopyPaste | None:
    """From the config's `data.copy_paste`, `paste_classes`, `paste_exclude`, `paste_edge`; None if nothing is pasted.

    Without class names: all but 'background'. Raises: UserError for a name that is no class, or if no class is left.
    """
    for key, names in (("paste_classes", classes), ("paste_exclude", exclude)):
        for name in names:
            if name not in class_names:
                raise unknown(f"class (data.{key})", name, class_names)
    wanted = classes or [name for name in class_names if name.lower() != BACKGROUND]
    indices = tuple(i for i, name in enumerate(class_names) if name in wanted and name not in exclude)
    if not probability:
        return None
    if not indices:
        raise UserError("data.copy_paste: paste_exclude leaves no class to paste")
    return CopyPaste(probability, indices, edge)
