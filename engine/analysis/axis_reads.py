"""Input positions that an operation reads along one axis, for the theoretical receptive field (receptive_field.py).

Each function returns a `Reads`: wanted output positions (m,) bool -> input positions read (n,) bool.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from models.encoders.swin import WINDOW

Reads = Callable[[np.ndarray], np.ndarray]


def taps(n: int, kernel: int, stride: int, padding: int, dilation: int) -> Reads:
    """A convolution or pooling over an axis of n positions; padding is not read."""

    def reads(wanted: np.ndarray) -> np.ndarray:
        seen = np.zeros(n, bool)
        for tap in range(kernel):
            at = np.flatnonzero(wanted) * stride - padding + tap * dilation
            seen[at[(at >= 0) & (at < n)]] = True
        return seen

    return reads


def transposed_taps(n: int, kernel: int, stride: int, padding: int, dilation: int) -> Reads:
    def reads(wanted: np.ndarray) -> np.ndarray:
        seen = np.zeros(n, bool)
        for tap in range(kernel):
            at = np.flatnonzero(wanted) + padding - tap * dilation
            at = at[at % stride == 0] // stride
            seen[at[(at >= 0) & (at < n)]] = True
        return seen

    return reads


def bilinear(n: int, size: int, align_corners: bool) -> Reads:
    """Resizing an axis of n positions to `size`: both neighbours, if their weight is not 0."""

    def reads(wanted: np.ndarray) -> np.ndarray:
        at = np.flatnonzero(wanted)
        x = at * (n - 1) / max(size - 1, 1) if align_corners else np.clip((at + 0.5) * n / size - 0.5, 0, n - 1)
        x = np.where(np.abs(x - x.round()) < 1e-6, x.round(), x)
        seen = np.zeros(n, bool)
        seen[np.floor(x).astype(int)] = seen[np.ceil(x).astype(int)] = True
        return seen

    return reads


def nearest(n: int, size: int) -> Reads:
    def reads(wanted: np.ndarray) -> np.ndarray:
        seen = np.zeros(n, bool)
        seen[np.flatnonzero(wanted) * n // size] = True
        return seen

    return reads


def cells(n: int, bins: int) -> Reads:
    """Adaptive pooling to `bins` cells."""

    def reads(wanted: np.ndarray) -> np.ndarray:
        seen = np.zeros(n, bool)
        for i in np.flatnonzero(wanted):
            seen[i * n // bins : -(-(i + 1) * n // bins)] = True
        return seen

    return reads


def everything(n: int) -> Reads:
    return lambda wanted: np.full(n, bool(wanted.any()))


def alike(n: int, size: int) -> Reads:
    """Position by position; an axis of length 1 is broadcast."""
    return (lambda wanted: wanted.copy()) if n == size else everything(n)


def moved(n: int, first: int, step: int = 1) -> Reads:
    """Position i reads first + step i, if that is on the axis: slices, and padding with first < 0."""
    return lambda wanted: taps(n, 1, step, -first, 1)(wanted)


def windows(n: int, shift: int) -> Reads:
    """Swin's attention: everything in the same window, except what the roll brought there from the other end."""
    length = math.ceil(n / WINDOW) * WINDOW  # padded to whole windows
    rolled = (np.arange(n) - shift) % length
    window = 2 * (rolled // WINDOW) + (rolled >= length - shift)

    def reads(wanted: np.ndarray) -> np.ndarray:
        return np.isin(window, window[wanted])

    return reads
