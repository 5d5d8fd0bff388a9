"""The cost of a model: parameters, and multiply-adds (FLOPs) by a stated rule.

Published numbers come from different counters that count different things, so every number here names its rule.
docs/counting.md says what each rule counts and how far apart they are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from common.errors import unknown
from engine.analysis.operation_trace import Step, trace

# --- rules ------------------------------------------------------------------------------------------------------------

PRODUCTS = {"convolution": 1, "matrix product": 1, "attention": 1}

# rule -> kind of step (operation_trace.COSTS) -> multiply-adds per product, or per element of the map
WEIGHTS: dict[str, dict[str, int]] = {
    "house": PRODUCTS | {"bilinear": 4},
    "fvcore": PRODUCTS | {"bilinear": 4, "nearest": 1, "pooling": 1, "BatchNorm": 2, "LayerNorm": 5},
}

RULES = {  # rule -> what it says, in one line
    "house": "every product of convolutions, linear layers, matrix products and attention (q k and its product with v) "
    "that is executed, products of weights included; 4 an output of a bilinear resizing; norms and activations 0",
    "fvcore": "the formulas as published, counted as fvcore does: products as above, 4 an output of a bilinear "
    "resizing, 1 of a nearest one, LayerNorm 5, BatchNorm 2 and averaging 1 an input; activations and sums 0",
    "torchinfo": "the formulas as published, counted as torchinfo does, by modules: a convolution's parameters once a "
    "pixel, those of any other layer once an image, functions nothing (so attention and most of a Linear are missing)",
}


@dataclass(frozen=True)
class Count:
    """The multiply-adds of one image in a forward pass in eval mode, by a rule of RULES.

    blind: torchinfo misses the convolutions below this path (see PUBLIC_FILES).
    """

    rule: str
    steps: Step
    blind: str = ""

    def by_kind(self, step: Step | None = None) -> dict[str, int]:
        """{kind: multiply-adds} of a step and all steps in it; without a step, of the whole model."""
        step = step or self.steps
        if self.rule == "torchinfo":
            return _torchinfo(step, self.blind)
        weights = WEIGHTS[self.rule]
        return {kind: n * weights[kind] for kind, n in step.total().items() if weights.get(kind) and n}

    def total(self, step: Step | None = None) -> int:
        return sum(self.by_kind(step).values())


def count(model: nn.Module, size: tuple[int, int], rule: str = "house", blind: str = "") -> Count:
    """Count the multiply-adds of one image (3, H, W) by `rule`. Fast at any size, because nothing is computed.

    house counts what our code executes; fvcore and torchinfo count the published formulas (operation_trace.as_printed).
    Raises: ValueError for an unknown rule or a size that the model does not accept.
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    return Count(rule, trace(model, size, published=rule != "house"), blind)


def _torchinfo(step: Step, blind: str) -> dict[str, int]:
    """torchinfo 1.8 counts the `weight` and `bias` of a module without children once per call."""
    kinds: Counter = Counter()
    for _, s in step.flat():
        if s.module is None or any(s.module.children()) or s.shape is None:
            continue
        kind = type(s.module).__name__
        if "Conv" in kind and blind and s.name.startswith(blind):
            continue
        times = math.prod(s.shape[:1] + s.shape[2:]) if "Conv" in kind else s.shape[0]
        kinds[kind] += times * sum(p.numel() for name, p in s.module.named_parameters() if name in ("weight", "bias"))
    return +kinds  # without zeros


# --- public files that hold more than their network uses --------------------------------------------------------------


@dataclass(frozen=True)
class PublicFile:
    """unused(num_classes): parameters in the file that the publisher's forward pass never reads."""

    unused: Callable[[int], int]
    what: str
    blind: str = ""  # torchinfo counts 0 for convolutions that own another module (a padding)


def _conv_head(width: int, head: int) -> PublicFile:
    """EfficientNet's last 1x1 convolution (no bias) and its BatchNorm, which only the classifier needs."""
    return PublicFile(lambda _: width * head + 2 * head, "encoder _conv_head, _bn1", blind="encoder")


def _last_stages(size: int) -> PublicFile:
    return PublicFile(lambda _: size, "encoder layer3, layer4")


_CONV_SEG = PublicFile(lambda num_classes: 129 * num_classes, "decode_head.conv_seg")  # 128 weights + bias per class

PUBLIC_FILES: dict[tuple[str, str], PublicFile] = {  # (model, form)
    **{(f"segformer_b{i}", "nvlabs"): _CONV_SEG for i in range(6)},
    ("segformer_efficientnet_b0", "smp"): _conv_head(320, 1280),
    ("segformer_efficientnet_b1", "smp"): _conv_head(320, 1280),
    ("segformer_efficientnet_b2", "smp"): _conv_head(352, 1408),
    ("segformer_efficientnet_b3", "smp"): _conv_head(384, 1536),
    ("pspnet_resnet18", "smp"): _last_stages(10_493_440),
    ("pspnet_resnet50", "smp"): _last_stages(22_063_104),
    ("pspnet_resnet101", "smp"): _last_stages(41_055_232),
}


def parameters(model: nn.Module) -> int:
    """Number of learned parameters; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())
