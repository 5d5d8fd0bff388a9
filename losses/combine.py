"""A weighted sum of losses, which keeps the value of each term for the log."""

from __future__ import annotations

from torch import Tensor, nn


class WeightedSum(nn.Module):
    """sum_i weights[i] * terms[i](logits, target). `.parts` holds each term's own value (not times its weight) of the
    last call, by name; a second term of one name is `name_2`. A term of weight 0 is not computed."""

    def __init__(self, terms: list[nn.Module], weights: list[float]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)
        self.weights = weights
        self.parts: dict[str, Tensor] = {}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        total, self.parts = logits.new_zeros(()).float(), {}
        for term, weight in zip(self.terms, self.weights):
            if weight == 0:
                continue
            total = total + weight * term(logits, target)
            for name, value in term.parts.items():
                n = 2
                while name in self.parts:
                    name, n = f"{name.removesuffix(f'_{n - 1}')}_{n}", n + 1
                self.parts[name] = value
        return total
