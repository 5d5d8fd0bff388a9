"""Seeds made of several numbers or words, so that neighbouring seeds share nothing."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *what: object) -> int:
    """A 63-bit seed for one purpose: sha256 of the words, so that neighbouring seeds share nothing."""
    digest = hashlib.sha256(repr((seed, *what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed from several numbers. Hashed, not added: (seed 1, epoch 0) must not equal (seed 0, epoch 1)."""
    digest = hashlib.blake2b(":".join(str(p) for p in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
