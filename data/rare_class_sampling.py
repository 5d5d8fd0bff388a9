"""Rare-class sampling: draw training images by class, rare classes more often (DAFormer, arXiv 2111.14887).

With f_c the share of class c in the labelled pixels of the training images and T a temperature,

    P(c) = exp((1 - f_c) / T) / sum_k exp((1 - f_k) / T)

draw a class by P, then one of the images that show it, all equally likely. T = 0.01 in the released configs. A lower T
draws only the rarest classes; a high T draws all classes equally often (which differs from all images equally often).
In the released code (github.com/lhoyer/DAFormer, mmseg/datasets/uda_dataset.py) an image shows a class if it has more
than 3000 pixels of it, in GTA's 1052x1914. Here that is a share of the labelled pixels, so that it works at any size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError

MIN_SHARE = 3000 / (1052 * 1914)  # of an image's labelled pixels


@dataclass(frozen=True)
class RareClasses:
    """`probabilities` (C,) of the classes, and for each class the images that show it (positions in the data set)."""

    probabilities: Tensor
    images: list[list[int]]

    def draw(self, length: int, generator: torch.Generator) -> list[tuple[int, int, int]]:
        """`length` draws with replacement: (image, how often it came before, the class it was drawn for)."""
        classes = torch.multinomial(self.probabilities, length, replacement=True, generator=generator).tolist()
        places = torch.rand(length, generator=generator, dtype=torch.float64).tolist()
        seen: Counter[int] = Counter()
        drawn = []
        for c, place in zip(classes, places):
            image = self.images[c][int(place * len(self.images[c]))]
            drawn.append((image, seen[image], c))
            seen[image] += 1
        return drawn


def rare_classes(counts: Tensor, temperature: float) -> RareClasses:
    """From counts (N, C), the pixels of each class in each image. A class without pixels is never drawn. A class that
    only has tiny pieces is drawn from all images that have a pixel of it.

    Raises: UserError if no image has a labelled pixel.
    """
    if not counts.any():
        raise UserError("data.sampling: rare_class: no training image has a labelled pixel")
    share = counts.sum(0).double() / counts.sum()  # f_c, (C,)
    scores = ((1 - share) / temperature).masked_fill(counts.sum(0) == 0, -torch.inf)
    large = counts > MIN_SHARE * counts.sum(1, keepdim=True)  # (N, C)
    shown = torch.where(large.any(0), large, counts > 0)
    return RareClasses(scores.softmax(0), [column.nonzero().flatten().tolist() for column in shown.T])
