"""How the network of a public file wants its images: mean and std of channels in 0..1, and their order.

A file's own words come first: preprocessor_config.json (transformers), config.json (timm, smp),
albumentations_config_eval.json (smp's hub), the config in `meta` (mmseg). A file that says nothing gets what its
publisher trains with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.errors import UserError
from common.imagenet import MEAN, STD
from models.checkpoints.python_config import config_of, dicts_in

Three = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """(channel - mean) / std of images in 0..1, in the order that the network takes its channels."""

    mean: Three = tuple(MEAN)
    std: Three = tuple(STD)
    bgr: bool = False  # blue first, as OpenCV reads images
    per_image: bool = False  # each image by its own mean and std instead
    origin: str = "as its publisher trains; the file does not say"

    def __str__(self) -> str:
        if self.per_image:
            return f"each image by its own mean and std, {self.origin}"
        mean, std = ([round(value, 6) for value in values] for values in (self.mean, self.std))
        order = "blue first" if self.bgr else "red first"
        return f"mean {mean}, std {std} of images in 0..1, {order}, {self.origin}"

    def same_as(self, other: Normalisation) -> bool:
        """Whether both compute the same, wherever they come from."""
        return replace(self, origin="") == replace(other, origin="")


IMAGENET = Normalisation()
NONE = Normalisation((0.0,) * 3, (1.0,) * 3)
HALF = Normalisation((0.5,) * 3, (0.5,) * 3)  # to -1..1, as Inception was trained

BY_FORM = {"milesial": NONE, "milesial_bilinear": NONE, "mateuszbuda": Normalisation(per_image=True)}
CONFIG = "the config in meta"
# in the names of EfficientNets trained with adversarial examples (AdvProp, arXiv 1911.09665)
ADVPROP = r"\badv-efficientnet|\.advprop|\.ap_in1k"


def normalisation(form: str, words: str = "", meta: dict[str, Any] | None = None) -> Normalisation:
    """What the network of a file expects. words: the file's name and what it says about itself; meta: the same as data.

    Raises: UserError for a mean or std in the file that is none.
    """
    for own in (_transformers, _albumentations, _timm, _smp, _mmseg):
        if (found := own(meta or {})) is not None:
            return found
    if form in ("timm_tf", "lukemelas") and re.search(ADVPROP, words):
        return replace(HALF, origin="its name says AdvProp")
    return BY_FORM.get(form, IMAGENET)


def changed(wanted: Normalisation, given: dict[str, Any]) -> Normalisation:
    """With the user's mean, std (of channels in 0..1) and bgr instead. Raises: UserError."""
    if not given:
        return wanted
    base = IMAGENET if wanted.per_image else wanted
    numbers = {key: _three(given[key], f"model.{key}") for key in ("mean", "std") if key in given}
    return replace(base, **numbers, bgr=given.get("bgr", base.bgr), per_image=False, origin="by --set")


def _three(value: Any, where: str) -> Three:
    """Three numbers from a list of three, or of one for all. Raises: UserError."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    values = values * 3 if len(values) == 1 else values
    is_number = [isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values]
    if len(values) != 3 or not all(is_number) or (where.endswith("std") and min(values) <= 0):
        raise UserError(f"{where}: expected {'three numbers above 0' if where.endswith('std') else 'three numbers'}, "
                        f"got {value!r}")  # fmt: skip
    return tuple(float(v) for v in values)


def _scaled(mean: Any, std: Any, scale: float, origin: str, bgr: bool = False) -> Normalisation:
    """Of a publisher who normalises images in 0..1 times `scale`: 255 for their own values."""
    mean, std = _three(mean, f"{origin}: mean"), _three(std, f"{origin}: std")
    return Normalisation(tuple(m / scale for m in mean), tuple(s / scale for s in std), bgr, origin=f"from {origin}")


# --- each publisher's words -------------------------------------------------------------------------------------------


def _transformers(meta: dict[str, Any]) -> Normalisation | None:
    name = "preprocessor_config.json"
    own = meta.get(name)
    if not isinstance(own, dict):
        return None
    scale, mean, std = 1.0, own.get("image_mean"), own.get("image_std")
    if own.get("do_rescale", True) is False:
        scale = 255.0
    elif isinstance(factor := own.get("rescale_factor"), int | float) and factor > 0:
        scale = 255.0 * factor
    if own.get("do_normalize", True) is False:
        mean, std = 0.0, 1.0
    elif mean is None or std is None:
        mean, std = (list(values) if given is None else given for values, given in ((MEAN, mean), (STD, std)))
    return _scaled(mean, std, scale, name, bgr=own.get("do_flip_channel_order") is True)


def _albumentations(meta: dict[str, Any]) -> Normalisation | None:
    name = "albumentations_config_eval.json"
    for step in dicts_in(meta.get(name)):
        if str(step.get("__class_fullname__", "")).split(".")[-1] == "Normalize":
            largest = step.get("max_pixel_value", 255.0)
            scale = 255.0 / largest if isinstance(largest, int | float) and largest > 0 else 1.0
            if step.get("normalization", "standard") == "standard":
                return _scaled(step.get("mean", list(MEAN)), step.get("std", list(STD)), scale, name)
    return None


def _timm(meta: dict[str, Any]) -> Normalisation | None:
    own = meta.get("config.json")
    own = own.get("pretrained_cfg") if isinstance(own, dict) else None
    if not isinstance(own, dict) or "mean" not in own or "std" not in own:
        return None
    return _scaled(own["mean"], own["std"], 1.0, "config.json")


def _smp(meta: dict[str, Any]) -> Normalisation | None:
    """smp's EfficientNets pretrained with AdvProp; all its other encoders here take ImageNet's statistics."""
    own = meta.get("config.json")
    if not isinstance(own, dict) or own.get("encoder_weights") != "advprop":
        return None
    return replace(HALF, origin="from config.json, encoder_weights=advprop")


def _mmseg(meta: dict[str, Any]) -> Normalisation | None:
    """data_preprocessor (1.x), else a pipeline's last Normalize, else img_norm_cfg (0.x). Images in 0..255, read BGR.

    A data_preprocessor without mean does not normalise; without one of its two conversions the channels stay BGR.
    """
    config = config_of(meta)
    model = config.get("model")
    inside = model.get("data_preprocessor") if isinstance(model, dict) else None
    for own in (inside, config.get("data_preprocessor")):
        if isinstance(own, dict) and own:
            rgb = own.get("bgr_to_rgb") is True or own.get("rgb_to_bgr") is True
            mean, std = own.get("mean"), own.get("std")
            return _scaled(0.0 if mean is None else mean, 1.0 if std is None else std, 255.0, CONFIG, bgr=not rgb)
    steps = [step for step in dicts_in(config) if step.get("type") == "Normalize"]
    for own in (*steps[-1:], config.get("img_norm_cfg")):
        if isinstance(own, dict) and own.get("mean") is not None and own.get("std") is not None:
            return _scaled(own["mean"], own["std"], 255.0, CONFIG, bgr=own.get("to_rgb", True) is False)
    return None
