"""What a file says about its network besides names and shapes: smp's and transformers' config.json, mmseg's config in
`meta`, a publisher's file name. Told options replace assumptions; what is told and cannot be built here is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from common.errors import UserError
from models.build import MODELS, Pair, encoder_name, model_options
from models.checkpoints.layout import Layout
from models.checkpoints.numerics import plain
from models.checkpoints.python_config import config_of
from models.encoders.mix_transformer import NUM_HEADS


@dataclass
class Told:
    """Options of build_model, and lines for the report."""

    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def told(layout: Layout, name: str, meta: dict[str, Any], source: object = "") -> Told:
    """What the words of a file say about the network `name` of a layout. source: where it is, for its name.

    Raises: UserError for a network that the words describe and that cannot be built here.
    """
    found = Told()
    config = _dict(meta.get("config.json"))
    if layout.form == "smp":
        _smp(config, found)
    elif layout.form == "huggingface":
        _transformers(meta, config, found)
    elif layout.form in ("timm", "timm_tf", "torchvision"):
        _timm(config, name)
    elif layout.form in ("mmseg", "nvlabs"):
        _mmseg(config_of(meta), name, found)
    if name.startswith("resnet") and re.search("caffe", str(source)):
        theirs = "such networks take images in BGR and 0..255, and have a block's stride in its first 1x1 convolution"
        found.notes.append(f"its name says caffe: {theirs}; the keys are torchvision's, and so is the network here")
    if not layout.encoder:
        _file_name(layout.form, source, found)
        valid = model_options(name, form=layout.form)
        found.options = {key: value for key, value in found.options.items() if key in valid}
    else:
        found.options = {}
    return found


def settled(doubt: str, options: dict[str, Any]) -> bool:
    """Whether one of the options that a doubt names is known."""
    return any(re.search(rf"\b{key}=", doubt) for key in options)


def _require(where: str, words: dict[str, Any], **expected: Any) -> None:
    """Raises: UserError where the words give another value. Tuples and lists are the same."""
    for key, value in expected.items():
        got = words.get(key)
        got = tuple(got) if isinstance(got, list) else got
        if got is not None and got != value:
            raise UserError(f"{where} says {key}={plain(got)}, which is not built here: only {plain(value)}")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _numbers(where: str, key: str, value: Any) -> tuple[int, ...]:
    """Whole numbers from 1. Raises: UserError."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(type(v) is int and 1 <= v < 10_000 for v in values):
        raise UserError(f"{where} says {key}={str(value)[:60]}: whole numbers are expected")
    return tuple(values)


# --- segmentation_models_pytorch: save_pretrained writes every argument of the constructor ----------------------------

SMP_OPTIONS = {  # theirs: ours
    "encoder_output_stride": "output_stride",
    "decoder_atrous_rates": "atrous_rates",
    "decoder_interpolation": "interpolation",
}
# by class: what its final upsampling has to be, so that its logits have the size of the image
SMP_UPSAMPLING = {"DeepLabV3Plus": 4, "PSPNet": 8, "Segformer": 4}


def _smp(config: dict[str, Any], found: Told) -> None:
    for theirs, ours in SMP_OPTIONS.items():
        if (value := config.get(theirs)) is not None:
            found.options[ours] = _numbers("config.json", theirs, value) if ours == "atrous_rates" else value
    found.options.setdefault("atrous_rates", (12, 24, 36))  # smp's default at any stride
    norm = config.get("decoder_use_norm")
    norm = {"type": norm} if isinstance(norm, str) else norm
    if isinstance(norm, dict):  # true and false are seen in the keys
        kind = norm.get("type")
        _require(
            "config.json",
            {"decoder_use_norm": kind},
            decoder_use_norm="identity" if kind == "identity" else "batchnorm",
        )
        _require("config.json: decoder_use_norm", norm, eps=1e-5, affine=True, track_running_stats=True)
    if (activation := config.get("activation")) not in (None, "identity"):
        found.notes.append(f"config.json says activation={activation}: here are the logits before it")
    stride, upsampling = SMP_UPSAMPLING.get(str(config.get("_model_class"))), config.get("upsampling")
    if stride and isinstance(upsampling, int) and upsampling != stride:
        there = f"there the result is 1/{stride} of the image times {upsampling}"
        found.notes.append(f"config.json says upsampling={upsampling}: {there}; here it has the image's size")


# --- transformers -----------------------------------------------------------------------------------------------------


def _transformers(meta: dict[str, Any], config: dict[str, Any], found: Told) -> None:
    """Widths and depths are seen in the shapes. Versions 4.46 and 5.23 write layer_norm_eps and do not use it."""
    _require("config.json", config, num_attention_heads=NUM_HEADS, strides=(4, 2, 2, 2), hidden_act="gelu")
    name = "preprocessor_config.json"
    own = _dict(meta.get(name))
    size = own.get("size") if own.get("do_resize", True) else None
    size = [size, size] if isinstance(size, int) else list(size.values()) if isinstance(size, dict) else None
    if size:
        shown = "x".join(map(str, size))
        found.notes.append(f"{name} resizes images to {shown}; here they keep their size, unless data.size is set")


# --- timm -------------------------------------------------------------------------------------------------------------


def _timm(config: dict[str, Any], name: str) -> None:
    """timm has networks of the same keys that compute otherwise: resnetblur50 filters before it samples."""
    said = config.get("architecture")
    plain_name = re.sub("^(tf_|tv_|gluon_)|_v1b$", "", said) if isinstance(said, str) else name
    if name.startswith("resnet") and plain_name != name:
        raise UserError(f"config.json says {said}: its keys are those of {name}, but it computes otherwise")


# --- mmseg and NVlabs: the config of the training, as Python text -----------------------------------------------------


def _mmseg(config: dict[str, Any], name: str, found: Told) -> None:
    where, model = "the config in meta", _dict(config.get("model"))
    backbone, head, test = (_dict(model.get(key)) for key in ("backbone", "decode_head", "test_cfg"))
    row, encoder = MODELS.get(name), encoder_name(name) if name in MODELS else name
    if backbone and str(encoder).startswith("resnet"):
        _mmseg_resnet(where, backbone, found)
    if str(encoder).startswith("mit"):
        _require(where, backbone, num_heads=NUM_HEADS, strides=(4, 2, 2, 2))
        _mmseg_eps(backbone, found, "norm_eps", "patch_norm_eps")
    if head and isinstance(row, Pair):
        if isinstance(corners := head.get("align_corners"), bool):
            found.options |= {"align_corners": corners, "final_align_corners": corners}
        rates, bins = head.get("dilations"), head.get("pool_scales")
        if rates is not None and row.head.startswith("deeplab"):
            rates = _numbers(where, "dilations", rates)
            _require(where, {"dilations[0]": rates[0]}, **{"dilations[0]": 1})
            found.options["atrous_rates"] = rates[1:]
        if bins is not None:
            found.options["bins"] = _numbers(where, "pool_scales", bins)
        _require(where, head, interpolate_mode="bilinear")
        if row.head == "all_mlp":
            _mmseg_eps(head, found, "head_bn_eps")
        else:
            _require(f"{where}: norm_cfg", _dict(head.get("norm_cfg")), eps=1e-5)
    if test.get("mode") == "slide":
        window = "x".join(map(str, _numbers(where, "crop_size", test.get("crop_size"))))
        found.notes.append(f"{where} tests by windows of {window}; here the whole image, unless eval.window is set")


def _mmseg_resnet(where: str, backbone: dict[str, Any], found: Told) -> None:
    """mmseg's defaults where the config has no such key."""
    strides = _numbers(where, "strides", backbone.get("strides") or [1, 2, 2, 2])
    dilations = _numbers(where, "dilations", backbone.get("dilations") or [1, 1, 1, 1])
    stride = 4 * math.prod(strides)
    usual = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}.get(stride)
    if dilations != usual:
        raise UserError(f"{where} says strides={plain(strides)}, dilations={plain(dilations)}, which is not built here")
    _require(where, backbone, multi_grid=None, style="pytorch", dcn=None)
    _require(f"{where}: norm_cfg", _dict(backbone.get("norm_cfg")), eps=1e-5)
    contract = backbone.get("contract_dilation") is True
    found.options |= {"output_stride": stride, "dilate": "first_keeps" if contract else "whole_stage"}


def _mmseg_eps(part: dict[str, Any], found: Told, *options: str) -> None:
    eps = _dict(part.get("norm_cfg")).get("eps")
    if isinstance(eps, float):
        found.options |= dict.fromkeys(options, eps)


# --- file names -------------------------------------------------------------------------------------------------------

# by form: how the publisher's scripts write the output stride into a name: best_deeplabv3plus_resnet50_voc_os16.pth
STRIDE_IN_NAME = {"vainf": r"_os(8|16)(?!\d)", "mmseg": r"-d(8|16)(?!\d)"}


def _file_name(form: str, source: object, found: Told) -> None:
    name = PurePath(str(source)).name if isinstance(source, str | PurePath) else ""
    said = re.search(STRIDE_IN_NAME[form], name) if form in STRIDE_IN_NAME else None
    if said and "output_stride" not in found.options:
        found.options["output_stride"] = int(said[1])
        found.notes.append(f"output stride {said[1]}: its name says {said[0].strip('_-')}")


# --- one channel: from which probability a pixel is the class ---------------------------------------------------------


def threshold_of(layout: Layout, meta: dict[str, Any]) -> tuple[float, str]:
    """(threshold, where it comes from) of a network with one channel. mmseg's heads have 0.3 by default."""
    if layout.form != "mmseg":
        return 0.5, "the usual one"
    own = _dict(_dict(config_of(meta).get("model")).get("decode_head")).get("threshold")
    if isinstance(own, int | float) and 0 < own < 1:
        return float(own), "from the config in meta"
    return 0.3, "mmseg's default"
