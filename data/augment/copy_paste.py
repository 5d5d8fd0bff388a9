"""Copy-paste: objects of one training image pasted into another, labels along (system A).

System A's form of the idea of Ghiasi et al. (arXiv 2012.07177), which pastes instances: here whole classes of a
semantic mask, where they stood in their own picture. The pasted objects keep their place, so cars land on roads more
often than not; they do not keep their context.
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
    """What is pasted how often. `classes`: class indices. `edge`: sigma in px of the feathered border, 0 is hard."""

    probability: float
    classes: tuple[int, ...]
    edge: float = 0.0

    def __call__(self, image: Tensor, target: Tensor, source: Pair) -> Pair:
        """`source` resized to the target's size, mirrored with p 0.5, and some of its classes pasted: every non-empty
        subset of those that it shows has the same chance. image (3, H, W), target (H, W), uint8."""
        other, labels = resize_pair(*source, tuple(target.shape))
        if torch.rand(()).item() < 0.5:
            other, labels = flip(other, labels)
        other, labels = other.as_subclass(Tensor), labels.as_subclass(Tensor)
        present = torch.bincount(labels.flatten(), minlength=256)
        classes = random_subset([c for c in self.classes if present[c]])
        return paste(image, target, other, labels, classes, self.edge)


def random_subset(items: Sequence[int]) -> list[int]:
    """A random non-empty subset, each with the same chance; of nothing, nothing."""
    chosen: list[int] = []
    while items and not chosen:
        chosen = [item for item, heads in zip(items, (torch.rand(len(items)) < 0.5).tolist()) if heads]
    return chosen


def paste(image: Tensor, target: Tensor, other: Tensor, labels: Tensor, classes: Sequence[int], edge: float) -> Pair:
    """The pixels of `other` (3, H, W) that `labels` (H, W) give one of `classes`, over image and target.

    edge > 0: the image's border is feathered by blurring the mask, the label's stays hard. A labelled pixel shows at
    least half of what its label says, so poles two pixels wide do not fade, and ignored pixels are never blended in.
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
    """From the config's `data.copy_paste`, `paste_classes`, `paste_exclude`, `paste_edge`; None: nothing is pasted.

    No classes named: all but one called 'background'. Raises: UserError for a name that is no class, or no class left.
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
