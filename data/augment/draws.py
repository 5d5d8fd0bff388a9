"""Random numbers of one sample: a seeded generator, and the draws that augmentation steps make."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from common.seeds import mix_seed

T = TypeVar("T")


@contextlib.contextmanager
def sample_rng(*parts: int) -> Iterator[None]:
    """Seed torch's default CPU generator with `parts`; restore its state on exit.

    `torch.manual_seed` would also reseed the GPU, and with it dropout.
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
    """A random integer in 0..n-1."""
    return int(torch.randint(n, ()).item())


def pick(choices: Sequence[T]) -> T:
    return choices[below(len(choices))]
