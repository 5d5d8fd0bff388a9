"""Resize score maps and take their argmax a few rows at a time, so that the large map is never in memory.

19 score maps of 1024x2048 are 159 MB in float32, and every `resize`, `softmax` or `.float()` makes another such block.
Interpolating a crop is not the same as cropping the interpolation: at its edge a crop repeats its own border rows where
the whole map has neighbours, and its scale differs. So the two source rows of each output row, and their weights, are
computed for the whole map. The strips then agree to the last bit, wherever they are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

STRIP_VALUES = 2**20  # values of the result in one strip: 4 MB in float32


def axis_weights(source: int, size: int, align_corners: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Linear interpolation of `source` samples to `size`: (low, high, weight), each (size,).

    Output sample i is (1 - weight[i]) * x[low[i]] + weight[i] * x[high[i]]. With align_corners the outer samples
    coincide; without, the outer edges of the pixels coincide, and positions before the first centre take the first
    sample. Computed in float32 as torch does: in float64 the weights of a 2048 px row would differ by up to 6e-5.
    """
    i = torch.arange(size, dtype=torch.float32)
    if align_corners:
        place = i * torch.tensor((source - 1) / max(size - 1, 1), dtype=torch.float32)
    else:
        place = ((i + 0.5) * torch.tensor(source / size, dtype=torch.float32) - 0.5).clamp_(min=0)
    low = place.long().clamp_(max=source - 1)
    return low, (low + 1).clamp_(max=source - 1), (place - low).clamp_(0, 1)


def rows(
    scores: Tensor, size: Sequence[int], top: int, bottom: int, *,
    align_corners: bool = False, softmax: bool = False, mirrored: bool = False,
) -> Tensor:  # fmt: skip
    """Rows top..bottom of (B, C, h, w) resized to `size` (H, W): (B, C, bottom - top, W) float32.

    softmax: convert to probabilities over C first; mirrored: flip the map left to right first.
    """
    (h, w), (height, width) = scores.shape[-2:], size
    first, last = top, bottom
    if h != height:
        low, high, weight = (a[top:bottom].to(scores.device) for a in axis_weights(h, height, align_corners))
        first, last = int(low[0]), int(high[-1]) + 1
    part = scores[:, :, first:last].float()  # (B, C, source rows, w)
    part = part.flip(-1) if mirrored else part  # before the softmax, whose bits then equal the plain view's
    part = row_softmax(part) if softmax else part
    if h != height:
        weight = weight[:, None]
        above, below = (part.index_select(2, rows_there - first) for rows_there in (low, high))
        part = above.mul_(1 - weight).add_(below.mul_(weight))  # (B, C, bottom - top, w)
    return part if w == width else _widen(part, width, align_corners)


def row_softmax(scores: Tensor) -> Tensor:
    """Softmax over C of (B, C, h, w) float32; a pixel gets the same bits in any strip."""
    if scores.device.type != "cpu":
        return scores.softmax(1)
    return _row_by_row(scores, scores.shape[-1], lambda row: row.softmax(0))


def _widen(part: Tensor, width: int, align_corners: bool) -> Tensor:
    """Linear interpolation along the rows by torch, as strips do not cut rows: (B, C, h, width)."""
    if part.device.type != "cpu":
        return F.interpolate(part, (part.shape[2], width), mode="bilinear", align_corners=align_corners)
    how = {"size": width, "mode": "linear", "align_corners": align_corners}
    return _row_by_row(part, width, lambda row: F.interpolate(row[None], **how)[0])


def _row_by_row(x: Tensor, width: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    """function, (C, w) -> (C, width), of one row of one image at a time.

    torch's CPU kernels take different paths by a block's shape and alignment, which differ in the last bits: exp is
    computed one way in the vectorised part of a block and another way in the rest. Here every call has the same shape
    and alignment. One row of 19 classes at 2048 px has 39 thousand values, so the calls add little.
    """
    out = torch.empty(*x.shape[:3], width, dtype=x.dtype)
    for b in range(x.shape[0]):
        for y in range(x.shape[2]):
            out[b, :, y] = function(x[b, :, y].clone(memory_format=torch.contiguous_format))
    return out


def cuts(height: int, values_per_row: int, strip: int | None = None) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips that cover 0..height, with `strip` rows each, or as many as STRIP_VALUES allows."""
    step = strip or max(1, STRIP_VALUES // max(1, values_per_row))
    for top in range(0, height, step):
        yield top, min(top + step, height)


def strips(scores: Tensor, size: Sequence[int], strip: int | None = None, **how) -> Iterator[tuple[int, int, Tensor]]:
    """(top, bottom, rows) of (B, C, h, w) resized to `size`; how: see `rows`."""
    for top, bottom in cuts(size[0], scores.shape[0] * scores.shape[1] * size[1], strip):
        yield top, bottom, rows(scores, size, top, bottom, **how)


def classes(scores: Tensor, size: Sequence[int], strip: int | None = None) -> Tensor:
    """The class with the highest score after resizing (B, C, h, w) to `size`: (B, H, W) int64; ties: the first."""
    pred = torch.empty(len(scores), *size, dtype=torch.int64, device=scores.device)
    for top, bottom, part in strips(scores, size, strip):
        pred[:, top:bottom] = part.argmax(1)
    return pred
