"""Rare-class sampling: which image comes next is drawn by class, rare classes more often (DAFormer, arXiv 2111.14887).

With f_c the share of class c in the labelled pixels of the training images and T a temperature,

    P(c) = exp((1 - f_c) / T) / sum_k exp((1 - f_k) / T)

a class is drawn by P and then, with equal chances, one of the images that show it. T = 0.01 in the released configs;
the lower, the more only the rarest classes are drawn; a high T draws all classes alike, which is not the same as all
images alike. As released (github.com/lhoyer/DAFormer, mmseg/datasets/uda_dataset.py), an image shows a class if it has
more than 3000 pixels of it, in GTA's 1052x1914; here that is a share of the image, so that it holds at any size.
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
    """From counts (N, C), pixels of each class in each image. A class that no image shows is never drawn; one that
    shows everywhere in tiny pieces only is drawn from all images that have a pixel of it.

    Raises: UserError where no image has a labelled pixel.
    """
    if not counts.any():
        raise UserError("data.sampling: rare_class: no training image has a labelled pixel")
    share = counts.sum(0).double() / counts.sum()  # f_c, (C,)
    scores = ((1 - share) / temperature).masked_fill(counts.sum(0) == 0, -torch.inf)
    large = counts > MIN_SHARE * counts.sum(1, keepdim=True)  # (N, C)
    shown = torch.where(large.any(0), large, counts > 0)
    return RareClasses(scores.softmax(0), [column.nonzero().flatten().tolist() for column in shown.T])
