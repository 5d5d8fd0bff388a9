"""Evenly spaced indices: which of many images to look at, when a few must do."""

from __future__ import annotations


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` indices of range(total), spaced evenly and in order; all of them if there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
