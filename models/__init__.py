"""Models by name: `build_model("deeplabv3plus_resnet50", 19, output_stride=8)`. MODELS is the whole list.

Every model maps images (B, 3, H, W), normalised, to {"out": logits (B, num_classes, H, W)}; see models/segmenter.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Literal

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
    """DeepLabV3; the defaults are torchvision's. atrous_rates None: 12, 24, 36 at stride 8, half of that at 16."""
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
    separable: bool = False,
    concat: Literal["aspp_first", "low_first"] = "aspp_first",
    dropout: float = 0.1,
    aux: bool = False,
) -> Segmenter:
    """DeepLabV3+. atrous_rates None: 12, 24, 36 at stride 8, half of that at 16."""
    backbone = resnet(encoder, output_stride=output_stride, dilate=dilate)
    head = DeepLabV3PlusHead(
        backbone.channels, num_classes, _rates(atrous_rates, output_stride), aspp_channels, decoder_channels,
        low_level_channels, decoder_convs, separable, concat, dropout,
    )  # fmt: skip
    return Segmenter(backbone, head, _aux_head(backbone.channels, num_classes, aux))


def _rates(given: tuple[int, ...] | None, output_stride: int) -> tuple[int, ...]:
    rates = tuple(given or RATES[output_stride])
    if min(rates) < 1:
        raise UserError(f"atrous_rates: expected numbers of at least 1, got {list(rates)}")
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
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, got {num_classes}")
    return MODELS[name](num_classes=num_classes, **options)
