"""What a model costs: parameters, multiply-adds by a stated rule, and seconds.

Published numbers come from different counters, which count different things. So a number here always names its rule;
docs/counting.md tells what each of them sees and how far apart they are.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.errors import unknown
from engine.analysis.operation_trace import Step, walk

# --- rules ------------------------------------------------------------------------------------------------------------

PRODUCTS = {"convolution": 1, "matrix product": 1, "attention": 1}

# rule -> kind of step (engine/analysis/operation_trace.COSTS) -> multiply-adds per product, or per element of the map
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
    """One image through a model, forward, eval mode, and what that costs by a rule of RULES.

    blind: torchinfo counts no convolution below this path (see PUBLIC_FILES).
    """

    rule: str
    steps: Step
    blind: str = ""

    def by_kind(self, step: Step | None = None) -> dict[str, int]:
        """Kind -> multiply-adds of a step and all within it, the whole model if none is given."""
        step = step or self.steps
        if self.rule == "torchinfo":
            return _torchinfo(step, self.blind)
        weights = WEIGHTS[self.rule]
        return {kind: n * weights[kind] for kind, n in step.total().items() if weights.get(kind) and n}

    def total(self, step: Step | None = None) -> int:
        return sum(self.by_kind(step).values())


def count(model: nn.Module, size: tuple[int, int], rule: str = "house", blind: str = "") -> Count:
    """Walk one image (3, H, W) through the model, to be counted by `rule`. Fast at any size: nothing is computed.

    house counts what our code executes; fvcore and torchinfo count the published formulas (engine/analysis/operation_trace.as_printed).
    Raises: ValueError for an unknown rule or a size the model cannot take.
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    return Count(rule, walk(model, size, published=rule != "house"), blind)


def _torchinfo(step: Step, blind: str) -> dict[str, int]:
    """As torchinfo 1.8: each call of a module without children counts its `weight` and `bias`."""
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
    """unused(num_classes): parameters that stand in the file and that no forward of its publisher reads."""

    unused: Callable[[int], int]
    what: str
    blind: str = ""  # convolutions that own another module (a padding) are no leaves: torchinfo counts them 0


def _conv_head(width: int, head: int) -> PublicFile:
    """EfficientNet's last 1x1 convolution (no bias) and its BatchNorm, which only a classifier needs."""
    return PublicFile(lambda _: width * head + 2 * head, "encoder _conv_head, _bn1", blind="encoder")


def _last_stages(size: int) -> PublicFile:
    return PublicFile(lambda _: size, "encoder layer3, layer4")


_CONV_SEG = PublicFile(lambda num_classes: 129 * num_classes, "decode_head.conv_seg")  # 128 weights and a bias a class

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


# --- memory -----------------------------------------------------------------------------------------------------------


# --- seconds ----------------------------------------------------------------------------------------------------------


def parameters(model: nn.Module) -> int:
    """Numbers that are learned; a shared one counts once."""
    return sum(p.numel() for p in model.parameters())


def latency(model: nn.Module, images: Tensor, repeats: int = 10) -> float:
    """Median seconds of a forward pass without gradients, after two to warm up. To compare models, interleave them:
    benchmarks/models.py."""

    def seconds() -> float:
        start = time.perf_counter()
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - start

    with torch.no_grad():
        return statistics.median([seconds() for _ in range(repeats + 2)][2:])
