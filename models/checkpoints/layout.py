"""A layout: one way in which a publisher names the tensors of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from models.checkpoints.rename import Table, under

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """One kind of file. Keys are the publisher's, without a prefix that a file may put before all of them."""

    title: str  # for people: "NVlabs SegFormer"
    form: str  # key of models.forms.FORMS: the numerics that go with the file
    marks: tuple[str, ...]  # keys that distinguish this layout from all others
    names: tuple[str, ...]  # models (or encoders) it can be, the likeliest first
    table: Table | Callable[[str], Table]  # their names <-> ours; may depend on which of `names` it is
    encoder: bool = False  # the file holds an encoder, with or without an ImageNet classifier
    options: Callable[[State], dict[str, Any]] = lambda state: {}  # what shapes show beyond the name, e.g. widths
    unused: tuple[str, ...] = ()  # regular expressions: keys of these files that our forward does not need
    # if the same keys can mean two networks: what was assumed, and the option that decides; may depend on the state
    doubt: str | Callable[[State], str | None] | None = None
    hint: str | None = None  # regular expression on the file's own words (name, config), if keys do not decide


def settles(assumed: str, *options: str) -> str:
    """The text of a doubt about a whole model: what was assumed, and the options of which one decides."""
    return f"{assumed}; {' or '.join(options)} settles it (in commands: --set model.{options[0]})"


def widths(**keys: str) -> Callable[[State], dict[str, int]]:
    """Layout.options for options that are the number of rows of a weight: widths(decoder_dim="linear_fuse.weight")."""
    return lambda state: {option: state[key].shape[0] for option, key in keys.items()}


# --- what several layouts share ---------------------------------------------------------------------------------------

SMP = {"form": "smp"}
MMSEG = {"form": "mmseg"}
CONV_BN: Table = [("conv", "conv"), ("bn", "bn")]
CONV_MODULE: Table = [("conv", "0"), ("bn", "1")]  # mmseg's ConvModule is a Sequential here
SEPARABLE: Table = under("depthwise_conv.", "0.", CONV_MODULE) + under("pointwise_conv.", "1.", CONV_MODULE)
