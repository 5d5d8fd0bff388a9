"""One confusion matrix per image, kept as its non-zero cells: for per-image scores, and for the paired bootstrap.

A 19-class matrix has 361 cells, of which one image fills a few dozen: the matrices of a whole validation set fit into
the JSON file beside its score, and two files can be compared image by image (tools/compare.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from common.errors import UserError
from engine.metrics import ConfusionMatrix


@dataclass
class PerImage:
    """Images in the order of scoring: name, group, and (n, 3) int32 rows of (target, prediction, pixels).

    Target C means void (only where void pixels count as errors), prediction C means no class.
    """

    names: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    cells: list[torch.Tensor] = field(default_factory=list)

    def add(self, name: str, group: str, matrix: ConfusionMatrix) -> None:
        self.names.append(name)
        self.groups.append(group)
        self.cells.append(pack(matrix))

    def matrices(self, like: ConfusionMatrix) -> list[ConfusionMatrix]:
        """One matrix per image, with the classes and rules of `like`."""
        return [unpack(cells, like) for cells in self.cells]

    def by_group(self, like: ConfusionMatrix) -> dict[str, ConfusionMatrix]:
        """One matrix per group, in the order of first appearance."""
        sums: dict[str, ConfusionMatrix] = {}
        for group, cells in zip(self.groups, self.cells):
            sums.setdefault(group, _empty(like)).merge(unpack(cells, like))
        return sums

    def to_json(self) -> dict:
        """Plain values; an image's cells are one string, 'target prediction pixels, ...'."""
        texts = [", ".join(" ".join(map(str, row)) for row in cells.tolist()) for cells in self.cells]
        return {"names": self.names, "groups": self.groups, "cells": texts}

    @staticmethod
    def from_json(found: dict) -> PerImage:
        rows = [[[int(v) for v in cell.split()] for cell in text.split(",") if cell] for text in found["cells"]]
        cells = [torch.tensor(r, dtype=torch.int32).reshape(-1, 3) for r in rows]
        return PerImage(list(found["names"]), list(found["groups"]), cells)


def pack(matrix: ConfusionMatrix) -> torch.Tensor:
    """The non-zero cells, (n, 3) int32: an image has fewer than 2**31 pixels."""
    void = torch.cat([matrix.void, matrix.void.new_zeros(1)])
    full = torch.cat([matrix.counts, void[None]])  # (C+1, C+1)
    where = full.nonzero()  # (n, 2)
    return torch.cat([where, full[where[:, 0], where[:, 1]][:, None]], 1).to(torch.int32)


def unpack(cells: torch.Tensor, like: ConfusionMatrix) -> ConfusionMatrix:
    matrix, c = _empty(like), like.num_classes
    target, pred, pixels = cells.long().unbind(1)
    if len(cells) and (min(target.min(), pred.min()) < 0 or max(target.max(), pred.max()) > c):
        raise UserError(f"per_image: a cell has a class index above the {c} classes")
    full = torch.zeros(c + 1, c + 1, dtype=torch.int64)
    full[target, pred] = pixels
    matrix.counts, matrix.void = full[:c], full[c, :c]
    return matrix


def _empty(like: ConfusionMatrix) -> ConfusionMatrix:
    return ConfusionMatrix(like.num_classes, like.ignore_index, like.void_rule)


def image_miou(matrix: ConfusionMatrix, exclude: Collection[int] = ()) -> float:
    """Mean IoU of one image over the classes in its target or prediction; nan without any.

    Void pixels count by the matrix's rule (eval.void), `exclude` holds the indices of eval.exclude. Classes that the
    image lacks are always left out: eval.absent is a rule for classes that the whole set lacks.
    The mean over images is the per-image mIoU, where a small object counts as much as a large one (the idea: Csurka
    et al., BMVC 2013, and mIoU^I of Wang et al., arXiv 2310.19252).
    """
    return matrix.miou("nan", exclude)
