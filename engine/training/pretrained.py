"""Load pretrained weights into a config's model (`model.pretrained`): a public file, or a checkpoint of ours.

    the same network    -> all weights; the classifier too if the classes are the same
    the same encoder    -> the encoder; the head is new (ImageNet files, or a whole model with another head)
    anything else       -> an error that says what the file is and what the config builds

The config's options decide eps, padding, dilation and so on; the report lists where the publisher's differ.
models.load_public does the opposite: it builds the publisher's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from engine import checkpoint as ckpt
from engine.evaluation.class_lists import class_names, shared_classes
from models import build_model
from models.build import encoder_name, encoder_values, option_values
from models.checkpoints.container import Container
from models.checkpoints.load import class_dims, open_container, recognise, shorten, table_text
from models.checkpoints.normalisation import IMAGENET, normalisation
from models.checkpoints.numerics import CHOSEN_BY_HEAD, NOT_NUMERICS, plain
from models.checkpoints.rename import to_ours

State = dict[str, Tensor]

NEW_IN_ENCODER = ("encoder.out_norms.",)  # mmseg's norms of Swin's maps: no ImageNet file has them


@dataclass(frozen=True)
class Weights:
    """A file's weights under our names. Those of an encoder begin with "encoder."."""

    title: str  # the publisher: "NVlabs SegFormer"
    name: str  # a name in models.MODELS, or in ENCODERS
    options: dict[str, Any]  # with which build_model, or build_encoder, makes that network
    encoder_only: bool
    state: State
    num_classes: int | None = None  # None: an encoder
    class_names: tuple[str, ...] | None = None  # None: unknown
    ignored: tuple[str, ...] = ()  # keys of the file that inference does not need
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        if self.encoder_only:
            return f"{self.title}: the encoder {self.name}"
        return f"{self.title}: {self.name} for {self.num_classes} classes"


@dataclass(frozen=True)
class TransferReport:
    """What was loaded from a file into a model. str() is a table."""

    source: str
    found: str  # what the file is
    target: str  # what the config builds
    part: str  # "whole model" or "encoder"
    loaded: int  # tensors
    classes: str  # what happened to the classifier
    initialised: tuple[str, ...]  # tensors of the model that the file does not have
    ignored: tuple[str, ...] = ()  # keys of the file that were not used
    notes: tuple[str, ...] = field(default_factory=tuple)

    def __str__(self) -> str:
        loaded, new, ignored = f"{self.part}, {self.loaded} tensors", shorten(self.initialised), shorten(self.ignored)
        rows = [("pretrained", self.source), ("the file is", self.found), ("the model is", self.target)]
        rows += [("loaded", loaded), ("classifier", self.classes), ("new", new), ("ignored", ignored)]
        return table_text(rows + [("note", note) for note in self.notes])


def transfer(
    model: nn.Module, source: str | Path | State, classes: Sequence[str], reuse_classes: bool = False, *,
    name: str, options: dict[str, Any], take: str = "all",
) -> TransferReport:  # fmt: skip
    """Load a file into `model`, which build_model(name, len(classes), **options) made. Returns what was loaded.

    source: a path, a URL, a known id (models/checkpoints/known.py), or a state dict. reuse_classes: copy the
    classifier's weights of classes with the same name. take="encoder": load the encoder of a whole model only.
    Raises: UserError, one line, if the file does not fit.
    """
    found = open_weights(source)
    try:
        return _fill(model, found, list(classes), reuse_classes, name, options, _shown(source), take)
    except UserError as e:
        raise UserError(f"model.pretrained={_shown(source)}: {e}") from None


def open_weights(source: str | Path | State) -> Weights:
    """Read a file and rename its weights to ours. Raises: UserError if its layout is unknown."""
    container, words = open_container(source)
    if container.wrapper == "ours":
        return _ours(container)
    try:
        found, told = recognise(container, words, source)
        with torch.device("meta"):
            wanted = found.build().state_dict()
        bare = {k.removeprefix(found.prefix): v for k, v in container.state.items() if k.startswith(found.prefix)}
        state, surplus = to_ours(bare, found.table, wanted)
    except UserError as e:
        raise UserError(f"{_shown(source)}: {e}") from None
    layout, notes = found.layout, [*container.notes, *(line.partition(";")[0] for line in told)]
    names, origin = class_names(container.meta, found.num_classes)
    if names and not layout.encoder:
        notes.append(f"class names: {origin}")
    if not (wanted := normalisation(layout.form, words, container.meta)).same_as(IMAGENET):
        notes.append(f"trained on images normalised otherwise: {wanted}; here by ImageNet's statistics")
    return Weights(
        title=layout.title,
        name=found.name,
        options={"form": layout.form, **found.options},
        encoder_only=layout.encoder,
        state={f"encoder.{k}": v for k, v in state.items()} if layout.encoder else state,
        num_classes=found.num_classes,
        class_names=names,
        ignored=(*surplus, *(k for k in container.state if not k.startswith(found.prefix))),
        notes=tuple(notes),
    )


def _ours(container: Container) -> Weights:
    """The weights of a checkpoint of train.py or eval.py."""
    model = dict(container.meta["config"]["model"])
    options = {k: v for k, v in model.items() if k not in ("name", "pretrained", "take", "freeze", "reuse_classes")}
    names = tuple(container.meta["class_names"])
    title, notes = "a checkpoint of this project", tuple(container.notes)
    return Weights(title, model["name"], options, False, container.state, len(names), names, notes=notes)


def _fill(
    model: nn.Module, found: Weights, classes: list[str], reuse: bool, name: str, options: dict[str, Any], source: str,
    take: str,
) -> TransferReport:  # fmt: skip
    own, by_class = model.state_dict(), class_dims(lambda n: build_model(name, n, **options))
    core = {k: v for k, v in own.items() if not k.startswith("aux_head.")}
    encoder = {k: v for k, v in core.items() if k.startswith("encoder.")}
    fault = "it holds an encoder" if found.encoder_only else misfit(core, found.state, by_class)
    whole = fault is None and take == "all"
    if not whole:
        if not encoder or misfit(encoder, found.state, {}) is not None:
            fault = misfit(encoder or core, found.state, {}) or fault or "it has no encoder apart from its head"
            fault += _advice(found, name, options)
            raise UserError(f"the file is {found.describe()}; the config builds {name}: {fault}")
        if reuse:
            raise UserError(f"model.reuse_classes: the file is {found.describe()}; it gives no classifier for {name}")
    taken = {k: found.state[k] for k in (own if whole else encoder) if k in found.state and k not in by_class}
    rows, said = _classifier(found, own, by_class, classes, reuse) if whole else ({}, "new, as is the whole head")
    taken |= rows
    ckpt.require_finite(taken, "its weights")
    model.load_state_dict({**own, **taken}, strict=True)
    unused = () if whole else tuple(k for k in found.state if k not in taken)
    return TransferReport(
        source=source,
        found=found.describe(),
        target=f"{name} for {len(classes)} classes",
        part="whole model" if whole else "encoder",
        loaded=len(taken),
        classes=said,
        initialised=tuple(k for k in own if k not in taken),
        ignored=(*found.ignored, *unused),
        notes=(*found.notes, *_differences(found, name, options, whole)),
    )


def misfit(own: State, state: State, by_class: dict[str, tuple[int, ...]]) -> str | None:
    """The first tensor that the file lacks or has in another shape, in words. The class dimensions may differ."""
    for key, ours in own.items():
        if key not in state:
            if key.startswith(NEW_IN_ENCODER):
                continue
            return f"{key} is not in the file"
        sizes = [[n for d, n in enumerate(t.shape) if d not in by_class.get(key, ())] for t in (ours, state[key])]
        if sizes[0] != sizes[1] or ours.ndim != state[key].ndim:
            return f"{key} has shape {tuple(state[key].shape)} in the file, {tuple(ours.shape)} in the model"
    return None


def _classifier(
    found: Weights, own: State, by_class: dict[str, tuple[int, ...]], classes: list[str], reuse: bool
) -> tuple[State, str]:
    """(the classifier's tensors that the file provides, what was done in words)."""
    known = None if found.class_names is None else list(found.class_names)
    keys = [k for k in by_class if k in found.state]
    if known == classes or (known is None and found.num_classes == len(classes)):
        said = "loaded, the classes are the same" + ("" if known else " in number; the file does not name them")
        return {k: found.state[k] for k in keys}, said
    if not reuse:
        return {}, f"new: other classes; model.reuse_classes=true copies those of the same name ({found.num_classes})"
    if known is None:
        raise UserError(f"model.reuse_classes: nothing names the file's {found.num_classes} classes")
    pairs = shared_classes(classes, known)
    mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    rows = {}
    for key in keys:
        rows[key] = own[key].clone()
        value, dims = found.state[key], by_class[key]
        to, where = (np.ix_(*[side if d in dims else range(n) for d, n in enumerate(value.shape)])
                     for side in (mine, theirs))  # fmt: skip
        rows[key][to] = value[where].to(rows[key].dtype)
    shared = ", ".join(classes[i] for i in mine) or "none"
    done = f"rows of {len(pairs)} of {len(classes)} classes by name: {shared}; the others are new"
    return (rows if pairs else {}), done


def _differences(found: Weights, name: str, options: dict[str, Any], whole: bool) -> list[str]:
    """Options in which the config's network and the file's compute differently, with both values."""
    different = _different(found, name, options, whole)
    if not different:
        return []
    line = ", ".join(f"{key} {mine} (there {theirs})" for key, mine, theirs in different)
    form, notes = found.options.get("form"), [f"numerics are the config's where the file's differ: {line}"]
    if form and whole:
        notes.append(f"model.form={form} would follow the file")
    return notes


def _different(found: Weights, name: str, options: dict[str, Any], whole: bool) -> list[tuple[str, str, str]]:
    """(option, the config's value, the file's) where these differ and affect the logits, of the network or encoder."""
    if whole:
        mine, theirs = option_values(name, **options), option_values(found.name, **found.options)
        left_out = NOT_NUMERICS
    else:
        mine = encoder_values(encoder_name(name, **options), **option_values(name, **options))
        if found.encoder_only:
            theirs = encoder_values(found.name, **found.options)
        else:
            inner = encoder_name(found.name, **found.options)
            theirs = encoder_values(inner, **option_values(found.name, **found.options)) if inner else {}
        left_out = NOT_NUMERICS | CHOSEN_BY_HEAD
    keys = [k for k in mine if k in theirs and k not in left_out and "dropout" not in k and mine[k] != theirs[k]]
    return [(k, plain(mine[k]), plain(theirs[k])) for k in keys]


def _advice(found: Weights, name: str, options: dict[str, Any]) -> str:
    """If the two encoders differ in options only: these options."""
    inner = found.name if found.encoder_only else encoder_name(found.name, **found.options)
    if inner is None or inner != encoder_name(name, **options):
        return ""
    different = [f"{key}={theirs}" for key, _, theirs in _different(found, name, options, whole=False)]
    return f" (the file's encoder has {', '.join(different)})" if different else ""


def _shown(source: str | Path | State) -> str:
    return "the state dict" if isinstance(source, dict) else str(source)
