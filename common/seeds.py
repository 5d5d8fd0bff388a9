"""Seeds from several numbers or words. Both functions hash, so (seed 1, epoch 0) and (seed 0, epoch 1) share nothing.

Their bits decide every random draw of a run, so they must not change: a saved run would not resume to the same weights.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *what: object) -> int:
    """A 63-bit seed for one job of a run: its weights, its fold, its process. Used by engine and tools."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed for one draw of the data: the order of an epoch, a split, the augmentation of a sample."""
    digest = hashlib.blake2b(":".join(str(p) for p in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
