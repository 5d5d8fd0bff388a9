"""Recognise whose file it is and which network, from its keys and shapes and the table of all known layouts.

A Layout fits if all its marks, keys that only this publisher's files of this kind have, follow one common prefix ("",
"module.", "model.", "backbone.", ..). To find the size, each of the layout's names is built without memory (on the meta
device) and compared key by key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from common.errors import UserError
from models.build import MODELS, Pair, build_encoder, build_model
from models.checkpoints.layout import Layout, State
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.rename import Table, find, their_names


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

    @property
    def classifier(self) -> str:
        """Their key of the classifier's weight, whose rows are the classes; of a whole model."""
        key = "head.classifier.weight" if isinstance(MODELS[self.name], Pair) else "classifier.weight"
        return their_names(self.table, key)[0][0]

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
            found = Identity(layout, name, None, layout.options(bare), prefix)
            if not layout.encoder:
                found = replace(found, num_classes=bare[found.classifier].shape[0])
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
    shapes, table, theirs = {key: value.to("meta") for key, value in state.items()}, identity.table, set()
    for key, value in ours.items():
        names, _, fault = find(shapes, table, key, value.shape)
        if fault:
            return fault
        theirs.update(names)
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
