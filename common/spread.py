"""Evenly spaced indices: a few images out of many."""

from __future__ import annotations


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` evenly spaced indices of range(total), in order; all of them if there are fewer."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
