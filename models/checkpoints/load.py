"""Load a public checkpoint into a model that gives its publisher's logits: `load_public("segformer.b0...pth")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from models.checkpoints.container import Container, read
from models.checkpoints.identify import Identity, identify, is_unused
from models.checkpoints.known import locate
from models.checkpoints.rename import their_names, to_ours


@dataclass(frozen=True)
class Report:
    """What was recognised and loaded; str() is a table."""

    layout: str  # whose file: "NVlabs SegFormer"
    architecture: str  # a name of models.MODELS or models.ENCODERS
    num_classes: int | None  # of the model that was built; None: an encoder
    options: dict[str, Any]  # the publisher's numerics and widths, as build_model takes them
    loaded: int  # our tensors that the file filled
    renamed: int  # how many of these have another name in the file
    ignored: tuple[str, ...] = ()  # keys of the file that no forward needs
    reinitialised: tuple[str, ...] = ()  # keys of ours that the file did not fill
    notes: tuple[str, ...] = ()  # wrappers removed, assumptions made

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        rows = [
            ("layout", self.layout),
            ("architecture", self.architecture + classes),
            ("options", options or "(ours by default)"),
            ("loaded", f"{self.loaded} tensors"),
            ("renamed", str(self.renamed)),
            ("ignored", shorten(self.ignored)),
            ("re-initialised", shorten(self.reinitialised)),
            *[("note", note) for note in self.notes],
        ]
        return table_text(rows)


def table_text(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:15s} {value}" for name, value in rows)


def shorten(keys: tuple[str, ...]) -> str:
    """How many keys, and the first of them."""
    shown = ", ".join(keys[:4])
    return f"{len(keys)}" + (f" ({shown}{', ..' if len(keys) > 4 else ''})" if keys else "")


def load_public(
    source: str | Path | dict[str, Tensor], num_classes: int | None = None, **options
) -> tuple[nn.Module, Report]:
    """The model of a public checkpoint, in eval mode, with its publisher's numerics, and a report.

    source: a file, a hub folder, a URL, a known id (known.py), or a state dict. num_classes: build for this number of
    classes; if the file has another, the classifier is new. options: of build_model; they override what was recognised
    and settle a doubt. Raises: UserError for a file that cannot be read, has no known layout, or does not fit.
    """
    return load_container(*open_container(source), source, num_classes, **options)


def open_container(source: str | Path | dict[str, Tensor]) -> tuple[Container, str]:
    """The weights of a source, and what it says about itself: its name, a config.json, a publisher's meta."""
    if isinstance(source, dict):
        return Container(source, "", "", {}, []), ""
    container = read(locate(source))
    return container, f"{source} {container.meta}"


def load_container(
    container: Container, words: str, source: object, num_classes: int | None = None, **options
) -> tuple[nn.Module, Report]:
    """load_public for a container that is already read."""
    where = "" if isinstance(source, dict) else f"{source}: "
    if container.wrapper == "ours":
        raise UserError(f"{where}a checkpoint of this project, no public one: eval.py and predict.py take it as it is")
    try:
        found = identify(container.state, words)
        model = found.build(num_classes, **options)
        report = fill(model, container, found, num_classes, options)
    except UserError as e:
        raise UserError(f"{where}{e}") from None
    return model.eval(), report


def class_dims(build: Callable[[int], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Which dimensions of which tensors are classes: those that differ between build(2) and build(3)."""
    with torch.device("meta"):
        two, three = (build(n).state_dict() for n in (2, 3))
    return {
        key: tuple(d for d, n in enumerate(few.shape) if n != three[key].shape[d])
        for key, few in two.items()
        if few.shape != three[key].shape
    }


def fill(model: nn.Module, container: Container, found: Identity, num_classes: int | None, options: dict) -> Report:
    """Load the weights strictly into the model that was built for them."""
    layout, own, state = found.layout, model.state_dict(), container.state
    bare = {key.removeprefix(found.prefix): value for key, value in state.items() if key.startswith(found.prefix)}
    foreign = [key for key in state if not key.startswith(found.prefix)]
    other_classes = num_classes not in (None, found.num_classes)
    new = list(class_dims(lambda n: found.build(n, **options))) if other_classes else []
    ours, surplus = to_ours(bare, found.table, {key: value for key, value in own.items() if key not in new})
    left = {name for key in new for name in their_names(found.table, key)[0]}  # the file's classifier
    surplus = [key for key in surplus if key not in left]
    if unknown := [key for key in surplus if not is_unused(key, layout)] + foreign:
        raise UserError(f"keys of the file that have no place in {found.name}: {', '.join(unknown[:8])}")
    model.load_state_dict({**{key: own[key] for key in new}, **ours}, strict=True)
    return Report(
        layout=layout.title,
        architecture=found.name,
        num_classes=None if layout.encoder else num_classes or found.num_classes,
        options={"form": layout.form, **found.options, **options},
        loaded=len(ours),
        renamed=sum(found.prefix + key not in state for key in ours),
        ignored=tuple(surplus),
        reinitialised=tuple(new),
        notes=(*container.notes, *([layout.doubt] if layout.doubt and not options else [])),
    )
