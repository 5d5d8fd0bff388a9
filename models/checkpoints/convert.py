"""Convert our weights to a file that a publisher's code loads: the tables of models/checkpoints/layouts, backwards.

A file holds names and weights but no eps, padding or dilation: these come from the publisher's code. A network with
other options than the publisher's would compute another function there, so it is refused unless the caller insists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from common.errors import UserError, unknown
from models.build import MODELS, Pair, build_encoder, encoder_name, encoder_values, option_values
from models.checkpoints.identify import Identity, misfit
from models.checkpoints.layout import Layout, State
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.numerics import CHOSEN_BY_HEAD, NOT_NUMERICS, plain
from models.checkpoints.rename import to_theirs
from models.encoders.mix_transformer import MIT, NUM_HEADS, SR_RATIOS
from models.forms import FORMS

ALIASES = {"hf": "huggingface"}
# publisher -> kind of encoder -> the publisher whose names it took over
SAME_NAMES = {
    "timm": {"resnet": "torchvision"},
    "vainf": {"resnet": "torchvision"},
    "smp": {"resnet": "torchvision", "mit": "nvlabs", "efficientnet": "lukemelas"},
    "timm_tf": {"efficientnet": "timm"},
}


@dataclass(frozen=True)
class Converted:
    """Weights under a publisher's names, with notes for the user."""

    state: State
    layout: Layout
    form: str  # the publisher, whose names the layout has
    name: str  # of models.MODELS, or of ENCODERS if they publish only the encoder
    notes: list[str] = field(default_factory=list)


def convert(
    state: State, name: str, options: dict[str, Any], form: str, encoder: bool = False, accept_differences: bool = False
) -> Converted:
    """The weights of build_model(name, .., **options) in a publisher's layout; encoder: only its encoder.

    Raises: UserError if the publisher has no such network or one with other parameters, or, unless accept_differences,
    one that is another function of the same parameters.
    """
    form = ALIASES.get(form, form)
    if form not in FORMS:
        raise unknown("publisher", form, [*FORMS, *ALIASES])
    name, options = canonical(name, options)
    inner, values = encoder_name(name, **options), option_values(name, **options)
    layout, notes = None if encoder else _layout(form, name), []
    if layout is not None:
        found, mine, kept = name, values, {k: v for k, v in state.items() if not k.startswith("aux_head.")}
        notes += ["the auxiliary head, which only training needs, is left out"] if len(kept) < len(state) else []
    elif inner is not None and (layout := _layout(form, inner, True)) is not None:
        found, mine = inner, encoder_values(inner, **values)
        kept = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
        notes += [] if encoder else [f"{form} publishes no {name} here: this is the encoder alone"]
    else:
        known = sorted({layout.form for layout in LAYOUTS if {name, inner} & set(layout.names)})
        raise UserError(f"{form} has no {name} here; files of it can be written for: {', '.join(known) or '-'}")
    theirs, different = _translate(kept, layout, form, found, mine)
    if different and not accept_differences:
        advice = "train with model.form, or insist with --accept-differences"
        raise UserError(f"{form}'s {found} is another function of these weights: {'; '.join(different)}; {advice}")
    notes += [f"differs there: {line}" for line in different]
    theirs |= stored_only(layout, found, theirs, notes)
    return Converted(theirs, layout, form, found, notes)


def canonical(name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A head with an encoder option -> the pair's own name: all_mlp on mit_b0 -> segformer_b0."""
    row = MODELS[name]
    if not isinstance(row, Pair) or name != row.head:
        return name, options
    values = option_values(name, **options)
    for other, pair in MODELS.items():
        if isinstance(pair, Pair) and other != pair.head and (pair.head, pair.encoder) == (row.head, values["encoder"]):
            return other, {k: v for k, v in values.items() if k != "encoder" and v is not None}
    return name, options


def _layout(form: str, name: str, encoder: bool = False) -> Layout | None:
    if encoder:
        form = SAME_NAMES.get(form, {}).get(re.match("[a-z]+", name)[0], form)
    return next((x for x in LAYOUTS if x.form == form and x.encoder == encoder and name in x.names), None)


def _translate(state: State, layout: Layout, form: str, name: str, mine: dict[str, Any]) -> tuple[State, list[str]]:
    """(weights under their names, options in which their network differs)."""
    values_of = encoder_values if layout.encoder else option_values
    try:
        identity = Identity(layout, name, None, mine)
        theirs = to_theirs(state, identity.table)
        found = layout.options(theirs)  # widths and the like, which their code takes from its own config
    except (UserError, KeyError):
        lines = differences(mine, values_of(name, form=form), layout)
        raise UserError(f"{form}'s {name} has other parameters: {'; '.join(lines)}") from None
    different = differences(mine, values_of(name, **{"form": form, **found}), layout)
    classes = None if layout.encoder else theirs[identity.classifier].shape[0]
    if (fault := misfit(Identity(layout, name, classes, found), theirs)) is not None:
        raise UserError(f"{form}'s {name} has other parameters: {'; '.join(different) or fault}")
    return theirs, different


def differences(mine: dict[str, Any], theirs: dict[str, Any], layout: Layout) -> list[str]:
    left_out = NOT_NUMERICS | (CHOSEN_BY_HEAD if layout.encoder else set())
    return [
        f"{k} {plain(mine[k])} (there {plain(theirs[k])})"
        for k in mine
        if k in theirs and k not in left_out and "dropout" not in k and mine[k] != theirs[k]
    ]


# --- tensors that publishers store and load but never use -----------------------------------------------------------


def stored_only(layout: Layout, name: str, theirs: State, notes: list[str]) -> State:
    """New tensors for their names that have no counterpart here."""
    fresh: State = {}
    if layout.title == "NVlabs SegFormer":  # from the base class of their heads
        classes = theirs["decode_head.linear_pred.weight"].shape[0]
        shapes = {"weight": (classes, 128, 1, 1), "bias": (classes,)}
        fresh = {f"decode_head.conv_seg.{leaf}": torch.zeros(shape) for leaf, shape in shapes.items()}
    if layout.form == "smp" and name.startswith("pspnet_"):  # smp uses half of the encoder but keeps all of it
        encoder = build_encoder(encoder_name(name), form="smp", stages=4, output_stride=32)
        fresh = {f"encoder.{k}": v for k, v in encoder.state_dict().items() if k.startswith(("layer3.", "layer4."))}
    if layout.form == "smp" and "encoder._bn0.weight" in theirs:  # the ImageNet classifier's last convolution
        last = max(int(k.split(".")[2]) for k in theirs if k.startswith("encoder._blocks."))
        inside = theirs[f"encoder._blocks.{last}._project_conv.weight"].shape[0]  # channels of the last block
        width = 4 * inside
        fresh = {"encoder._conv_head.weight": torch.zeros(width, inside, 1, 1)}
        for leaf, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            fresh[f"encoder._bn1.{leaf}"] = torch.full((width,), value)
        fresh["encoder._bn1.num_batches_tracked"] = torch.tensor(0)
    if fresh:
        notes.append(f"{len(fresh)} tensors that their code stores and never uses are newly made")
    return fresh


# --- files as publishers write them ---------------------------------------------------------------------------------


def container(found: Converted, names: Sequence[str], palette: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What torch.save writes: the weights as the publisher wraps them."""
    if found.layout.encoder:
        return {"model": found.state} if found.layout.form == "microsoft" else found.state
    form, state = found.form, found.state
    if form in ("nvlabs", "mmseg"):
        meta = {"CLASSES": list(names), "PALETTE": [list(map(int, c)) for c in palette]}
        return {"meta": meta, "state_dict": state}
    if form == "vainf":
        return {"cur_itrs": 0, "model_state": state, "best_score": 0.0}
    if form == "hszhao":
        return {"epoch": 0, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    if form in ("milesial", "milesial_bilinear"):
        return {**state, "mask_values": list(range(len(names)))}
    return state


def hub_config(found: Converted, names: Sequence[str]) -> dict[str, Any]:
    """config.json beside model.safetensors: with both in a folder, transformers' from_pretrained(folder) loads it."""
    if found.form != "huggingface" or found.layout.encoder or "segformer" not in found.name:
        raise UserError(f"only SegFormers for Hugging Face are written as a folder, not {found.form}'s {found.name}")
    dims, depths = MIT[f"mit_{found.name.removeprefix('segformer_')}"]
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "hidden_sizes": list(dims),
        "depths": list(depths),
        "num_attention_heads": list(NUM_HEADS),
        "sr_ratios": list(SR_RATIOS),
        "decoder_hidden_size": found.state["decode_head.linear_fuse.weight"].shape[0],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
