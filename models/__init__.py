"""Models by name: `build_model("deeplabv3plus_resnet50", 19, output_stride=8)`. MODELS is the whole list.

Every model maps images (B, 3, H, W), normalised, to {"out": logits (B, num_classes, H, W)}; see models/segmenter.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args, get_origin

from torch import nn

from engine.errors import UserError, unknown
from models.encoders.resnet import RESNET, Dilate, resnet
from models.heads.deeplab import RATES, DeepLabV3Head, DeepLabV3PlusHead
from models.heads.fcn import FCNHead
from models.networks.unet import UNet
from models.segmenter import Segmenter

__all__ = ["MODELS", "build_model", "list_models", "model_options"]


def _aux_head(channels: list[int], num_classes: int, aux: bool) -> nn.Module | None:
    return FCNHead(channels[-2], num_classes, index=-2) if aux else None


def deeplabv3(
    encoder: str,
    num_classes: int,
    output_stride: int = 8,
    dilate: Dilate = "first_keeps",
    atrous_rates: tuple[int, ...] | None = None,
    aspp_channels: int = 256,
    decoder_channels: int = 256,
    separable: bool = False,
    dropout: float = 0.5,
    aux: bool = False,
) -> Segmenter:
    """DeepLabV3; the defaults are torchvision's. atrous_rates None: 12, 24, 36 at stride 8, half of that at 16,
    half again at 32: the same reach in pixels of the image."""
    backbone = resnet(encoder, output_stride=output_stride, dilate=dilate)
    rates = _rates(atrous_rates, output_stride)
    head = DeepLabV3Head(backbone.channels, num_classes, rates, aspp_channels, decoder_channels, separable, dropout)
    return Segmenter(backbone, head, _aux_head(backbone.channels, num_classes, aux))


def deeplabv3plus(
    encoder: str,
    num_classes: int,
    output_stride: int = 16,
    dilate: Dilate = "first_keeps",
    atrous_rates: tuple[int, ...] | None = None,
    aspp_channels: int = 256,
    decoder_channels: int = 256,
    low_level_channels: int = 48,
    decoder_convs: int = 2,
    aspp_conv: bool = False,
    separable: bool = False,
    concat: Literal["aspp_first", "low_first"] = "aspp_first",
    dropout: float = 0.1,
    aux: bool = False,
) -> Segmenter:
    """DeepLabV3+, options as in DeepLabV3PlusHead. atrous_rates None: as in `deeplabv3`."""
    backbone = resnet(encoder, output_stride=output_stride, dilate=dilate)
    head = DeepLabV3PlusHead(
        backbone.channels, num_classes, _rates(atrous_rates, output_stride), aspp_channels, decoder_channels,
        low_level_channels, decoder_convs, aspp_conv, separable, concat, dropout,
    )  # fmt: skip
    return Segmenter(backbone, head, _aux_head(backbone.channels, num_classes, aux))


def _rates(given: tuple[int, ...] | None, output_stride: int) -> tuple[int, ...]:
    rates = RATES[output_stride] if given is None else tuple(given)
    if not rates or min(rates) < 1:
        raise UserError(f"atrous_rates: expected whole numbers of at least 1, got {list(rates)}")
    return rates


MODELS: dict[str, Callable[..., nn.Module]] = {
    **{f"deeplabv3_{name}": partial(deeplabv3, name) for name in RESNET},
    **{f"deeplabv3plus_{name}": partial(deeplabv3plus, name) for name in RESNET},
    "unet": UNet,
}


def list_models() -> list[str]:
    return list(MODELS)


def model_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a model with their types and defaults, from the signature that receives them."""
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    parameters = inspect.signature(MODELS[name], eval_str=True).parameters
    return {n: p for n, p in parameters.items() if n not in ("encoder", "num_classes")}


def build_model(name: str, num_classes: int, **options) -> nn.Module:
    """The model `name` for `num_classes` classes. Raises: ValueError for an unknown name or option (with the nearest
    valid one), or for a value that cannot be built."""
    valid = model_options(name)
    for option in options:
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
        _check_value(name, option, options[option], valid[option].annotation)
    _check_value(name, "num_classes", num_classes, int)
    return MODELS[name](num_classes=num_classes, **options)


def _check_value(name: str, option: str, value: object, kind: object) -> None:
    """Checks that every builder would need alike; what only one can know (a stride it cannot build) it says itself."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise unknown(f"{option} of {name}", value, get_args(kind))
    if kind is bool and not isinstance(value, bool):  # the word "false" would count as true
        raise UserError(f"{name}: {option} must be true or false, got {value!r}")
    if kind is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"{name}: {option} must be a whole number of at least 1, got {value!r}")
    if option == "dropout" and not 0 <= value < 1:
        raise UserError(f"{name}: dropout must be at least 0 and below 1, got {value}")
