"""Their names to ours and back: a layout is a table of rows (theirs, ours[, operation]).

    ("block{i+1}.{j}.norm1",  "stages.{i}.blocks.{j}.norm1")

A row names a module (or a single parameter); its weight, bias, running_mean, .. follow. {i}, {j}, .. are numbers, which
their name may shift or reverse: {i+1}, {3-i}. If their leaf is not joined by a dot, the row says where it goes:
"attn.in_proj_{leaf}". Operations are reshapes that can be inverted. Each of our keys looks up its tensor, so no
parameter stays uninitialised; keys of theirs that nobody looked up are surplus.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import UserError

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Operation:
    """to_ours: their tensors (one for each name in the row), shape of ours -> ours. to_theirs: ours -> their pieces,
    each with its position among the pieces of other rows with the same name of theirs (0 if there are none)."""

    to_ours: Callable[[list[Tensor], torch.Size], Tensor]
    to_theirs: Callable[[Tensor], list[tuple[int, Tensor]]]

    def apply(self, theirs: list[Tensor], shape: torch.Size) -> Tensor:
        """to_ours; if shapes do not allow it, their first tensor unchanged, so that the caller can report its shape."""
        try:
            return self.to_ours(theirs, shape)
        except RuntimeError:
            return theirs[0]


def rows(start: int, stop: int, of: int) -> Operation:
    """Our parameter is the rows start/of .. stop/of of theirs: q of a joint q, k, v is rows(0, 1, 3)."""

    def take(theirs: list[Tensor], shape: torch.Size) -> Tensor:
        n = theirs[0].shape[0] // of
        return theirs[0][start * n : stop * n]

    return Operation(take, lambda ours: [(start, ours)])


SAME = Operation(lambda theirs, shape: theirs[0], lambda ours: [(0, ours)])
# ours is theirs stacked: k and v in one product
STACKED = Operation(lambda theirs, shape: torch.cat(theirs), lambda ours: [(0, piece) for piece in ours.chunk(2)])
# a 1x1 convolution there, a Linear layer here: (out, in, 1, 1) <-> (out, in); biases pass
CONV_TO_LINEAR = Operation(
    lambda theirs, shape: theirs[0].reshape(shape),
    lambda ours: [(0, ours[:, :, None, None] if ours.ndim == 2 else ours)],
)

Row = tuple[str | Sequence[str], str] | tuple[str | Sequence[str], str, Operation]
Table = Sequence[Row]


def under(theirs: str, ours: str, table: Table) -> list[Row]:
    """The table with a prefix on each side: the table of an encoder within that of a whole model."""
    out = []
    for names, our_name, *operation in table:
        names = [names] if isinstance(names, str) else names
        out.append(([theirs + name for name in names], ours + our_name, *operation))
    return out


def their_names(table: Table, key: str) -> tuple[list[str], Operation]:
    """Their names of a parameter of ours, and the operation between. Raises: KeyError if no row has it."""
    module, _, leaf = key.rpartition(".")
    for theirs, ours, *operation in table:
        numbers = _match(ours, module if leaf in LEAVES else key)
        if numbers is not None:
            names = [theirs] if isinstance(theirs, str) else theirs
            names = [_fill(name, numbers, leaf if leaf in LEAVES else "") for name in names]
            return names, operation[0] if operation else SAME
    raise KeyError(key)


def to_ours(state: dict[str, Tensor], table: Table, wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Their state dict -> (ours, their keys that were not needed). `wanted`: our model's state dict, for its shapes.

    num_batches_tracked may be missing (files from before 2018 have none): no forward depends on it.
    Raises: UserError that lists every key that is missing or has another shape.
    """
    out, used, faults = {}, set(), []
    for key, ours in wanted.items():
        try:
            names, operation = their_names(table, key)
        except KeyError:
            faults.append(f"{key} (in no row of the table)")
            continue
        used.update(names)
        if missing := [name for name in names if name not in state]:
            if key.endswith("num_batches_tracked"):
                out[key] = torch.zeros(ours.shape, dtype=ours.dtype)  # not zeros_like: `wanted` may have no memory
            else:
                faults.append(f"{', '.join(missing)} is missing")
            continue
        out[key] = operation.apply([state[name] for name in names], ours.shape)
        if out[key].shape != ours.shape:
            faults.append(f"{', '.join(names)} gives {tuple(out[key].shape)}, expected {tuple(ours.shape)}")
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise UserError(f"the file does not fit the model: {shown}")
    return out, [key for key in state if key not in used]


def to_theirs(state: dict[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our state dict under their names: the inverse of to_ours. Raises: UserError for a key that no row has."""
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    for key, ours in state.items():
        try:
            names, operation = their_names(table, key)
        except KeyError:
            raise UserError(f"{key} has no name in this layout") from None
        for name, piece in zip(names, operation.to_theirs(ours)):
            pieces.setdefault(name, []).append(piece)
    out = {}
    for name, parts in pieces.items():
        parts = [tensor for _, tensor in sorted(parts, key=lambda part: part[0])]
        out[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).contiguous()
    return out


def _match(pattern: str, name: str) -> dict[str, int] | None:
    """ "stages.{i}.norm" on "stages.2.norm" -> {"i": 2}; None where it does not fit."""
    expression = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(pattern))
    found = re.fullmatch(expression, name)
    return None if found is None else {k: int(v) for k, v in found.groupdict().items()}


def _fill(pattern: str, numbers: dict[str, int], leaf: str) -> str:
    """ "block{i+1}" with i = 2 -> "block3"; the leaf at {leaf}, or behind a dot."""

    def number(found: re.Match) -> str:
        first, sign, second = found.groups()
        a, b = (numbers[t] if t in numbers else int(t or 0) for t in (first, second))
        return str(a - b if sign == "-" else a + b)

    if leaf and "{leaf}" not in pattern:
        pattern += ".{leaf}"
    return re.sub(r"\{(\w)([+-])?(\w)?\}", number, pattern.replace("{leaf}", leaf))
