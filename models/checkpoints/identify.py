"""Recognise whose file it is and which network, from its keys and shapes and the table of all known layouts.

A Layout fits if all its marks, keys that only this publisher's files of this kind have, follow one common prefix ("",
"module.", "model.", "backbone.", ..). To find the size, each of the layout's names is built without memory (on the meta
device) and compared key by key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from models.build import build_encoder, build_model
from models.checkpoints.layout import Layout, State
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.rename import Table, their_names


@dataclass(frozen=True)
class Identity:
    """What a state dict was recognised as; build() makes the network, without the weights."""

    layout: Layout
    name: str
    num_classes: int | None  # None: an encoder
    options: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""

    @property
    def table(self) -> Table:
        table = self.layout.table
        return table(self.name) if callable(table) else table

    def build(self, num_classes: int | None = None, **options) -> nn.Module:
        options = {"form": self.layout.form, **self.options, **options}
        if self.layout.encoder:
            return build_encoder(self.name, **options)
        return build_model(self.name, num_classes or self.num_classes, **options)


def identify(state: State, words: str = "") -> Identity:
    """Recognise a state dict. `words`: what the file says about itself (its name, a config.json).

    Raises: UserError if no layout fits, with the closest one and what does not fit it.
    """
    nearest: list[str] = []
    for layout in LAYOUTS:
        if layout.encoder and nearest:  # a whole model that does not quite fit is no encoder
            break
        prefix = _prefix(state, layout.marks)
        if prefix is None or (layout.hint and not re.search(layout.hint, words, re.IGNORECASE)):
            continue
        bare = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for name in layout.names:
            classes = bare[layout.classifier].shape[0] if layout.classifier else None
            found = Identity(layout, name, classes, layout.options(bare), prefix)
            fault = misfit(found, bare)
            if fault is None:
                return found
            nearest.append(f"{layout.title} as {name}: {fault}")
    if nearest:
        raise UserError(f"no network here fits the file; the nearest is {nearest[0]}")
    sample = ", ".join(list(state)[:3])
    raise UserError(f"no known layout has these keys: {sample}, .. (python -m tools.pretrained --layouts lists them)")


def misfit(identity: Identity, state: State) -> str | None:
    """Why the state dict is not this network; None if every parameter is there with its shape."""
    with torch.device("meta"):
        ours = identity.build().state_dict()
    table = identity.table
    for key, value in ours.items():
        names, operation = their_names(table, key)
        missing = [name for name in names if name not in state]
        if missing and not key.endswith("num_batches_tracked"):
            return f"{missing[0]} is missing"
        if not missing:
            shape = operation.apply([state[name].to("meta") for name in names], value.shape).shape
            if shape != value.shape:
                return f"{names[0]} has shape {tuple(state[names[0]].shape)}, which gives {tuple(shape)}"
    theirs = {name for key in ours for name in their_names(table, key)[0]}
    rest = [key for key in state if key not in theirs and not is_unused(key, identity.layout)]
    return f"it has no place for {rest[0]}" if rest else None


def is_unused(key: str, layout: Layout) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in layout.unused)


def _prefix(state: State, marks: tuple[str, ...]) -> str | None:
    """The common prefix of the marks in the state dict; None if they have none."""
    first = marks[0]
    for key in state:
        if key == first or key.endswith("." + first):
            prefix = key.removesuffix(first)
            if all(prefix + mark in state for mark in marks):
                return prefix
    return None
