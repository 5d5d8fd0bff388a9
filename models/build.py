"""Models by name: `build_model("deeplabv3plus_resnet50", 19, output_stride=8)`. MODELS is the whole list.

Every model maps normalised images (B, 3, H, W) to {"out": logits (B, num_classes, H, W)}; see models/segmenter.py.
Most models are a pair, an encoder of ENCODERS and a head of HEADS; any two fit. The others are whole networks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args, get_origin

import torch
from torch import nn

from common.errors import UserError, unknown
from models.encoders.efficientnet import EFFICIENTNET, EfficientNet
from models.encoders.mix_transformer import MIT, MixTransformer
from models.encoders.resnet import RESNET, ResNet
from models.encoders.swin import SWIN, SwinTransformer
from models.encoders.vgg import VGG, VGG_DEPTHS
from models.forms import encoder_form, form_options, publishers
from models.heads.all_mlp import AllMLPHead
from models.heads.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from models.heads.fcn import FCNHead
from models.heads.fcn_skips import FCNSkipsHead
from models.heads.pspnet import PSPHead
from models.heads.unet_decoder import UNetDecoder
from models.networks.basic_seg_network import BasicSegNetwork
from models.networks.better_seg_network import BetterSegNetwork
from models.networks.unet import UNet
from models.segmenter import Segmenter

# name -> encoder(**options): images -> list of maps, fine to coarse; `.channels` and `.strides` describe them
ENCODERS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(MixTransformer, *row) for name, row in MIT.items()},
    **{name: partial(SwinTransformer, *row) for name, row in SWIN.items()},
    **{name: partial(ResNet, *row) for name, row in RESNET.items()},
    **{name: partial(EfficientNet, *row) for name, row in EFFICIENTNET.items()},
    **{name: partial(VGG, *row) for name, row in VGG_DEPTHS.items()},
}

# name -> head(channels, strides, num_classes, **options): list of maps -> logits at some map's size
HEADS: dict[str, Callable[..., nn.Module]] = {
    "all_mlp": AllMLPHead,
    "deeplabv3": DeepLabV3Head,
    "deeplabv3plus": DeepLabV3PlusHead,
    "fcn": FCNHead,
    "fcn_skips": FCNSkipsHead,
    "pspnet": PSPHead,
    "unet_decoder": UNetDecoder,
}


@dataclass(frozen=True)
class Pair:
    """A head on an encoder, both by name. `defaults` are options for which this pair has other defaults."""

    head: str
    encoder: str = "resnet50"
    defaults: dict[str, Any] = field(default_factory=dict)


MODELS: dict[str, Pair | Callable[..., nn.Module]] = {
    **{f"segformer_b{i}": Pair("all_mlp", f"mit_b{i}", dict(decoder_dim=256 if i < 2 else 768)) for i in range(6)},
    "segformer_swin_t": Pair("all_mlp", "swin_t", dict(head="conv", decoder_dim=512)),
    **{f"segformer_{name}": Pair("all_mlp", name, dict(stem=True)) for name in EFFICIENTNET},
    **{f"deeplabv3_{name}": Pair("deeplabv3", name, dict(output_stride=8)) for name in RESNET},
    **{f"deeplabv3plus_{name}": Pair("deeplabv3plus", name, dict(output_stride=16)) for name in RESNET},
    **{f"fcn_{name}": Pair("fcn", name, dict(output_stride=8)) for name in ("resnet50", "resnet101")},
    **{f"pspnet_{name}": Pair("pspnet", name, dict(output_stride=8)) for name in ("resnet18", "resnet50", "resnet101")},
    **{f"unet_{name}": Pair("unet_decoder", name, dict(stem=True)) for name in RESNET},
    **{f"fcn{n}s_vgg16": Pair("fcn_skips", "vgg16", dict(finest=n)) for n in (32, 16, 8)},
    "unet": UNet,
    "better_seg_network": BetterSegNetwork,
    "basic_seg_network": BasicSegNetwork,
    **{head: Pair(head) for head in HEADS},  # build_model("deeplabv3", 19, encoder="resnet34"): any pair
    "fcn_skips": Pair("fcn_skips", "vgg16"),  # on ResNet-50's 2048 channels fc6 would have 411 million weights
}


def list_models() -> list[str]:
    return list(MODELS)


def build_encoder(name: str, form: str | None = None, **options) -> nn.Module:
    """The encoder alone: images (B, 3, H, W) -> list of maps. Raises: UserError for an unknown name or option."""
    if name not in ENCODERS:
        raise unknown("encoder", name, ENCODERS)
    _check_options(name, options, _parameters(ENCODERS[name]))
    encoder = ENCODERS[name](**(encoder_form(form, name) if form else {}) | options)
    return encoder.to(memory_format=torch.channels_last)


def build_model(name: str, num_classes: int, **options) -> nn.Module:
    """The model `name` for `num_classes` classes. `form` sets all options as that publisher's files need them (FORMS).

    Raises: UserError for an unknown name or option (with the nearest valid one), or a value that cannot be built.
    """
    values = option_values(name, **options)
    _check_value(name, "num_classes", num_classes, int)
    del values["form"]
    row = MODELS[name]
    model = _build_pair(row, num_classes, values) if isinstance(row, Pair) else row(num_classes=num_classes, **values)
    return model.to(memory_format=torch.channels_last)  # the memory layout of the maps


def _build_pair(row: Pair, num_classes: int, values: dict[str, Any]) -> Segmenter:
    encoder_name = values.pop("encoder", row.encoder)
    make_encoder, make_head = ENCODERS[encoder_name], HEADS[row.head]
    encoder = make_encoder(**_take(values, make_encoder))
    head = make_head(encoder.channels, encoder.strides, num_classes, **_take(values, make_head))
    return _join(encoder, head, num_classes, **values)


def _join(
    encoder: nn.Module,
    head: nn.Module,
    num_classes: int,
    final_align_corners: bool = False,
    aux: bool = False,
    aux_channels: int | None = None,
) -> Segmenter:
    """A Segmenter. Options of the pair: an auxiliary FCN head on the map before the last; align_corners of the end."""
    aux_head = None
    if aux:
        aux_head = FCNHead(encoder.channels[:-1], encoder.strides[:-1], num_classes, aux_channels)
    return Segmenter(encoder, head, aux_head, final_align_corners)


def option_values(name: str, **options) -> dict[str, Any]:
    """The value of every option of build_model(name, classes, **options): given, else the form's, else the default."""
    valid = model_options(name, **{k: options[k] for k in ("encoder", "form") if k in options})
    _check_options(name, options, valid)
    return {k: p.default for k, p in valid.items()} | options


def encoder_values(name: str, form: str | None = None, **options) -> dict[str, Any]:
    """The same for build_encoder; options that the encoder does not have are left out."""
    valid = _parameters(ENCODERS[name])
    values = {k: p.default for k, p in valid.items()} | (encoder_form(form, name) if form else {})
    return values | {k: v for k, v in options.items() if k in valid}


def encoder_name(name: str, **options) -> str | None:
    """The encoder of build_model(name, classes, **options); None for a whole network."""
    row = MODELS[name]
    return option_values(name, **options).get("encoder", row.encoder) if isinstance(row, Pair) else None


def model_options(name: str, form: str | None = None, encoder: str | None = None) -> dict[str, inspect.Parameter]:
    """The options of a model with their types and defaults, read from the signatures of its parts."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    row = MODELS[name]
    if isinstance(row, Pair):
        own = {}
        if name == row.head:  # the pair's encoder is the caller's choice
            own["encoder"] = _option("encoder", Literal[tuple(ENCODERS)], row.encoder)
            encoder = encoder or row.encoder
            if encoder not in ENCODERS:
                raise unknown("encoder", encoder, ENCODERS)
        encoder = row.encoder if name != row.head else encoder
        parts = (row.head, encoder)
        options = _parameters(ENCODERS[encoder]) | _parameters(HEADS[row.head]) | _parameters(_join) | own
        defaults = row.defaults
    else:
        parts, options, defaults = (name,), _parameters(row), {}
    names = publishers(parts)
    options["form"] = _option("form", Literal[(None, *names)], None)
    if form is not None:
        if form not in names:
            raise unknown(f"form of {name}", form, names)
        defaults = defaults | form_options(form, parts)
    return {n: p.replace(default=defaults.get(n, p.default)) for n, p in options.items()}


def _parameters(make: Callable) -> dict[str, inspect.Parameter]:
    """The options of a builder are its parameters with a default."""
    parameters = inspect.signature(make, eval_str=True).parameters
    return {n: p for n, p in parameters.items() if p.default is not p.empty}


def _option(name: str, kind: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _take(values: dict[str, Any], make: Callable) -> dict[str, Any]:
    """Take the options of `make` out of `values`."""
    return {n: values.pop(n) for n in _parameters(make)}


def _check_options(name: str, options: dict[str, Any], valid: dict[str, inspect.Parameter]) -> None:
    for option, value in options.items():
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
        _check_value(name, option, value, valid[option].annotation)


def _check_value(name: str, option: str, value: object, kind: object) -> None:
    """Check types and ranges; what only one builder can know (a stride it cannot build) it checks itself."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise unknown(f"{option} of {name}", value, get_args(kind))
    if kind is bool and not isinstance(value, bool):  # the word "false" would count as true
        raise UserError(f"{name}: {option} must be true or false, got {value!r}")
    if kind is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{name}: {option} must be a whole number of at least 1, got {value!r}")
    if kind is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UserError(f"{name}: {option} must be a number, got {value!r}")
    if option in ("dropout", "drop_path_rate") and not 0 <= value < 1:
        raise UserError(f"{name}: {option} must be at least 0 and below 1, got {value}")
