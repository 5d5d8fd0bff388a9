"""PSPNet's head. Zhao et al., "Pyramid Scene Parsing Network", arXiv 1612.01105.

The last map is averaged over 1x1, 2x2, 3x3 and 6x6 cells of the image. Each pyramid level goes through a 1x1
convolution, is enlarged and concatenated with the map, so that every pixel sees its surroundings at four scales.

Public forms: hszhao's (the authors': align_corners=True throughout), mmseg's (the same with align_corners=False and, on
ResNet-18, fewer channels), smp's (on a ResNet cut off at stride 8; the map last, a 1x1 mix, no BatchNorm at 1x1 cells).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from models.heads.aspp import ImagePooling
from models.layers import conv_bn_relu, kaiming_fan_out
from models.tensors import resize


def average_cells(x: Tensor, bins: int) -> Tensor:
    """adaptive_avg_pool2d: mean over bins x bins cells of the map. (B, C, h, w) -> (B, C, bins, bins).

    Cell i covers rows floor(i h / bins) to ceil((i + 1) h / bins); cells overlap if bins does not divide a side. Such
    a pooling cannot be exported, so compilers get two products with matrices of 1 / (rows in the cell).
    """
    if not torch.compiler.is_compiling():
        return F.adaptive_avg_pool2d(x, bins)
    rows, columns = (_averaging(side, bins).to(x) for side in x.shape[-2:])  # (bins, h), (bins, w)
    return rows @ x @ columns.T  # (B, C, bins, h) -> (B, C, bins, bins)


def _averaging(side: int, bins: int) -> Tensor:
    matrix = torch.zeros(bins, side, dtype=torch.float64)
    for i in range(bins):
        first, last = i * side // bins, -((-(i + 1) * side) // bins)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


class PSPHead(nn.Module):
    """features -> (B, num_classes, h, w) of the last map, which is the only one used.

    Each level has a quarter of the map's channels; psp_channels is the width after the mix, whose kernel is
    mix_kernel squared. Under a padded 3x3 mix a constant level is not just a bias: at the border the padding counts.
    Raises: UserError for bins below 1.
    """

    textbook = False  # True: compute the formula of the paper (tests and counting tools set it)

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        num_classes: int,
        bins: tuple[int, ...] = (1, 2, 3, 6),
        psp_channels: int = 512,
        concat: Literal["map_first", "map_last"] = "map_first",
        mix_kernel: Literal[1, 3] = 3,
        classifier_kernel: Literal[1, 3] = 1,
        norm_single: bool = True,
        align_corners: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1:
            raise UserError(f"bins: expected whole numbers of at least 1, got {list(bins)}")
        width, inside = channels[-1] // 4, channels[-1]
        self.bins, self.map_first, self.align_corners = tuple(bins), concat == "map_first", align_corners
        self.levels = nn.ModuleList(
            conv_bn_relu(inside, width, 1) if n > 1 else ImagePooling(inside, width, norm_single) for n in bins
        )
        self.mix = conv_bn_relu(inside + len(bins) * width, psp_channels, mix_kernel)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(psp_channels, num_classes, classifier_kernel, padding=classifier_kernel // 2)
        kaiming_fan_out(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = features[-1]  # (B, C, h, w)
        levels = [level(x if n == 1 else average_cells(x, n)) for n, level in zip(self.bins, self.levels)]
        below = not self.textbook and self.mix[0].kernel_size == (1, 1)
        x = self._mix_below(x, levels) if below else self._mix(x, levels)  # (B, psp_channels, h, w)
        return self.classifier(self.dropout(x))

    def _mix(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        """The paper's order: enlarge, concatenate, mix."""
        levels = [self._enlarge(level, x) for level in levels]
        maps = [x, *levels] if self.map_first else [*levels, x]
        return self.mix(torch.cat(maps, dim=1))  # (B, C + bins C / 4, h, w) -> (B, psp_channels, h, w)

    def _mix_below(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        """The same for a 1x1 mix, which commutes with enlarging (docs/all_mlp.md): each level is mixed on its few
        cells, and the level of a single cell is a bias."""
        conv, bn, relu = self.mix
        maps = [x, *levels] if self.map_first else [*levels, x]
        weights = conv.weight.split([m.shape[1] for m in maps], dim=1)
        parts = [F.conv2d(m, weight) for m, weight in zip(maps, weights)]  # each (B, psp_channels, h_i, w_i)
        return relu(bn(sum(self._enlarge(part, x) for part in parts)))

    def _enlarge(self, level: Tensor, x: Tensor) -> Tensor:
        if level.shape[-2:] == (1, 1):
            return level.expand(-1, -1, *x.shape[-2:])  # (B, c, 1, 1) -> (B, c, h, w)
        return resize(level, x.shape[-2:], self.align_corners)
