"""Load a public checkpoint into a model that gives its publisher's logits: `load_public("segformer.b0...pth")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from models.checkpoints.container import Container, read
from models.checkpoints.identify import Identity, identify, is_unused
from models.checkpoints.known import locate
from models.checkpoints.normalisation import Normalisation, normalisation
from models.checkpoints.rename import their_names, to_ours
from models.checkpoints.words import settled, threshold_of, told


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
    normalisation: Normalisation | None = None  # how the network wants its images
    threshold: tuple[float, str] | None = None  # of one channel: from which probability on, and where that comes from

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        classes = "" if self.num_classes is None else f", {self.num_classes} classes"
        rows = [
            ("layout", self.layout),
            ("architecture", self.architecture + classes),
            ("options", options or "(ours by default)"),
            ("loaded", f"{self.loaded} tensors"),
            ("renamed", str(self.renamed)),
            *[("normalisation", str(self.normalisation)) for _ in range(self.normalisation is not None)],
            *[("threshold", self.threshold_text) for _ in range(self.threshold is not None)],
            ("ignored", shorten(self.ignored)),
            ("re-initialised", shorten(self.reinitialised)),
            *[("note", note) for note in self.notes],
        ]
        return table_text(rows)

    @property
    def threshold_text(self) -> str:
        number, origin = self.threshold
        return f"one channel: a pixel is the class where its sigmoid is above {number:g}, {origin}"


def table_text(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:15s} {value}" for name, value in rows)


def shorten(keys: tuple[str, ...]) -> str:
    """How many keys, and the first of them."""
    shown = ", ".join(keys[:4])
    return f"{len(keys)}" + (f" ({shown}{', ..' if len(keys) > 4 else ''})" if keys else "")


def load_public(
    source: str | Path | dict[str, Tensor], num_classes: int | None = None, weights: str | None = None, **options
) -> tuple[nn.Module, Report]:
    """The model of a public checkpoint, in eval mode, with its publisher's numerics, and a report.

    source: a file, a hub folder, a URL, a known id (known.py), OWNER/NAME of the Hugging Face hub, or a state dict.
    num_classes: build for this number of classes; if the file has another, the classifier is new. weights: which set to
    take from a file that holds several ("ema"). options: of build_model; they override what was recognised and settle a
    doubt. Raises: UserError for a file that cannot be read, has no known layout, or does not fit.
    """
    return load_container(*open_container(source, weights), source, num_classes, **options)


def open_container(source: str | Path | dict[str, Tensor], weights: str | None = None) -> tuple[Container, str]:
    """The weights of a source, and what it says about itself: its name, a config.json, a publisher's meta."""
    if isinstance(source, dict):
        return Container(source, "", "", {}, []), ""
    container = read(locate(source), weights)
    return container, f"{source} {container.meta}"


def recognise(
    container: Container, words: str, source: object = "", options: dict[str, Any] | None = None
) -> tuple[Identity, list[str]]:
    """What the weights are, with the options that the file's own words tell, and notes: what is told, chosen, in doubt.

    options: the user's. Raises: UserError for an unknown layout, and where the words tell of another network.
    """
    found = identify(container.state, words)
    own = told(found.layout, found.name, container.meta, source)
    found = replace(found, options={**found.options, **own.options})
    doubt = found.layout.doubt
    if callable(doubt):
        bare = {key.removeprefix(found.prefix): value for key, value in container.state.items()}
        doubt = doubt(bare)
    in_doubt = doubt is not None and not settled(doubt, {**own.options, **(options or {})})
    return found, [*own.notes, *([doubt] if in_doubt else [])]


def load_container(
    container: Container, words: str, source: object, num_classes: int | None = None, **options
) -> tuple[nn.Module, Report]:
    """load_public for a container that is already read."""
    where = "" if isinstance(source, dict) else f"{source}: "
    if container.wrapper == "ours":
        raise UserError(f"{where}a checkpoint of this project, no public one: eval.py and predict.py take it as it is")
    try:
        found, notes = recognise(container, words, source, options)
        model = found.build(num_classes, **options)
        report = fill(model, container, found, num_classes, options)
        images = normalisation(report.options["form"], words, container.meta)
    except UserError as e:
        raise UserError(f"{where}{e}") from None
    if container.others:
        other = container.others[0]
        notes.insert(0, f"--weights {other} (load_public: weights='{other}') takes another set")
    threshold = threshold_of(found.layout, container.meta) if report.num_classes == 1 else None
    whole = {} if found.layout.encoder else {"threshold": threshold}
    return model.eval(), replace(report, notes=(*report.notes, *notes), normalisation=images, **whole)


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
        notes=tuple(container.notes),
    )
