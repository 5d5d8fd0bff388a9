"""Losses by name or as a weighted sum: `build_loss({"terms": [{"name": "dice", "weight": 0.4}, ...]}, 19)`.

Every loss maps logits (B, C, H, W) and a target (B, H, W) int64 to a scalar, computed in float32 or float64. Ignored
pixels change neither the value nor the gradient; without any labelled pixel both are exactly 0. `.parts` holds the
terms' values of the last call, {name: detached scalar}. docs/losses.md lists formulas, sources and options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import nn

from common.errors import UserError, unknown
from losses.cross_entropy import CrossEntropy
from losses.dice import Dice
from losses.distillation import CWD, KD
from losses.focal import Focal
from losses.iou import IoU
from losses.lovasz import Lovasz
from losses.ssim import SSIM
from losses.weighted_sum import WeightedSum, distils

__all__ = ["LOSSES", "build_loss", "distils", "loss_options"]

LOSSES: dict[str, Callable[..., nn.Module]] = {
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "iou": IoU,
    "lovasz": Lovasz,
    "ssim": SSIM,
    "focal": Focal,
    "cwd": CWD,
    "kd": KD,
}


def loss_options(name: str) -> dict[str, inspect.Parameter]:
    """The options of a loss with their types and defaults, read from its signature."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    parameters = inspect.signature(LOSSES[name], eval_str=True).parameters
    return {n: p for n, p in parameters.items() if n not in ("num_classes", "ignore_index")}


def build_loss(spec: str | dict, num_classes: int, ignore_index: int = 255) -> nn.Module:
    """spec: a name; {"name": ..., options}; or {"terms": [{"name": ..., "weight": w, options}, ...]}, where an extra
    "weights": [...] replaces the terms' weights in order. A weight may be a pair [first, last]: see WeightedSum.
    Raises: ValueError for unknown names and options."""
    if not isinstance(spec, str | dict) or (isinstance(spec, dict) and not {"name", "terms"} & spec.keys()):
        raise UserError(f"loss: expected a name, {{name: ...}} or {{terms: [...]}}, got {spec!r}")
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "terms" in spec:
        for key in spec.keys() - {"terms", "weights"}:
            raise unknown("key beside loss terms", key, ["terms", "weights"])
        terms = [dict(t) for t in spec["terms"]]
        weights = [t.pop("weight", 1.0) for t in terms]
        pairs = [tuple(w) if isinstance(w, list | tuple) else (w, w) for w in spec.get("weights") or weights]
        ends = [float(w) for pair in pairs for w in pair]  # of each term's weight: first, last
        if not terms or len(pairs) != len(terms) or len(ends) != 2 * len(pairs) or not any(ends) or min(ends) < 0:
            got = spec.get("weights") or weights
            raise UserError(f"loss: {len(terms)} terms need as many weights >= 0 (or pairs), not all 0; got {got}")
        if any(t.get("reduction") == "none" for t in terms):
            raise UserError("loss: a term needs one value, not reduction: none")
        return WeightedSum([build_loss(t, num_classes, ignore_index) for t in terms], list(zip(ends[::2], ends[1::2])))
    name, options = spec.pop("name"), spec
    valid = loss_options(str(name))
    for option in options:
        if option not in valid:
            raise unknown(f"option of {name}", option, valid)
    return LOSSES[name](num_classes, ignore_index, **options)
