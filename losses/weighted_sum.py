"""A weighted sum of losses that keeps the value of each term for the log."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class WeightedSum(nn.Module):
    """sum_i weights[i] * terms[i](logits, target). `.parts` holds each term's unweighted value of the last call; a
    second term of the same name is `name_2`. A term of weight 0 is not computed.

    A weight may be a pair (first, last): it changes linearly with `.progress`, the share of the training that is done
    (0 to 1). The training loop writes `.progress` and `.val_iou`, the classes' IoU in the last validation. A teacher's
    logits (third argument) go to the terms that distil.
    """

    def __init__(self, terms: list[nn.Module], weights: Sequence[float | tuple[float, float]]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.weights = [w if isinstance(w, tuple) else (w, w) for w in weights]
        self.progress = 0.0
        self.val_iou: list[float] = []
        self.distils = any(distils(term) for term in terms)
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor, teacher: Tensor | None = None) -> Tensor:
        total, self.parts = logits.new_zeros(()).float(), {}
        for term, (first, last) in zip(self.terms, self.weights):
            if first == last == 0:
                continue
            weight = first + (last - first) * self.progress
            term.progress, term.val_iou = self.progress, self.val_iou
            value = term(logits, target, teacher) if distils(term) else term(logits, target)
            total = total + weight * value
            for name, value in term.parts.items():
                n = 2
                while name in self.parts:
                    name, n = f"{name.removesuffix(f'_{n - 1}')}_{n}", n + 1
                self.parts[name] = value
        return total


def distils(loss: nn.Module) -> bool:
    """Whether a loss needs a teacher's logits."""
    return getattr(loss, "distils", False)
