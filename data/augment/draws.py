"""Random numbers: seeds made of several numbers, a generator set for one sample, and the draws that steps make."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed from several numbers. Hashed, not added: (seed 1, epoch 0) must not equal (seed 0, epoch 1)."""
    digest = hashlib.blake2b(":".join(str(p) for p in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextlib.contextmanager
def sample_rng(*parts: int) -> Iterator[None]:
    """Inside, torch's CPU default generator is a function of `parts`; afterwards it goes on as if nothing happened.

    `torch.manual_seed` would also reseed the GPU, whose dropout is none of a sample's business.
    """
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(mix_seed(*parts))
    try:
        yield
    finally:
        generator.set_state(state)


def uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def below(n: int) -> int:
    """A whole number in 0..n-1."""
    return int(torch.randint(n, ()).item())


def pick(choices: Sequence[T]) -> T:
    return choices[below(len(choices))]
