"""ResNets, whose names ours follow: torchvision, timm, smp and VainF agree; mmseg and hszhao differ in the stem."""

from __future__ import annotations

from torch import Tensor

from models.checkpoints.identify import Layout
from models.checkpoints.translate import Table
from models.encoders.resnet import RESNET

RESNET_NAMES = tuple(RESNET)

BODY: Table = [
    ("layer{s}.{j}.conv{k}", "layer{s}.{j}.conv{k}"),
    ("layer{s}.{j}.bn{k}", "layer{s}.{j}.bn{k}"),
    ("layer{s}.{j}.downsample.{k}", "layer{s}.{j}.downsample.{k}"),
]

TORCHVISION: Table = [("conv1", "conv1"), ("bn1", "bn1"), *BODY]

# deep stems: Sequential(conv, BatchNorm, ReLU, conv, BatchNorm, ReLU, conv, BatchNorm, ReLU) with them, blocks with us


def _deep_stem(theirs: str) -> Table:
    return [(f"{theirs}.{3 * i + k}", f"deep_stem.{i}.{k}") for i in range(3) for k in range(2)]


DEEP_STEM_HSZHAO: Table = [*_deep_stem("layer0"), *BODY]
MMSEG: Table = [*TORCHVISION, *_deep_stem("stem")]  # its ResNet has torchvision's stem, its ResNetV1c the deep one


def either_stem(prefix: str, state: dict[str, Tensor]) -> dict[str, str]:
    """mmseg publishes both kinds of ResNet under one layout: which stem it is."""
    return {"stem_form": "v1c" if f"{prefix}stem.0.weight" in state else "conv7x7"}


LAYOUTS = [
    Layout(
        title="torchvision ResNet (timm and smp use the same names)",
        form="torchvision",
        marks=("conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv2.weight"),
        names=RESNET_NAMES,
        table=TORCHVISION,
        encoder=True,
        unused=(r"fc\..*",),
    ),
    Layout(
        title="MMSegmentation ResNetV1c",
        form="mmseg",
        marks=("stem.0.weight", "stem.6.weight", "layer4.0.conv2.weight"),
        names=RESNET_NAMES,
        table=MMSEG,
        encoder=True,
        unused=(r"fc\..*",),
        doubt="output stride 8 assumed, as in its segmentation models; output_stride=32 gives the ImageNet network",
    ),
    Layout(
        title="hszhao ResNet with deep stem",
        form="hszhao",
        marks=("layer0.0.weight", "layer0.6.weight", "layer4.0.conv2.weight"),
        names=RESNET_NAMES,
        table=DEEP_STEM_HSZHAO,
        encoder=True,
        unused=(r"fc\..*",),
        doubt="output stride 8 assumed, as in its segmentation models; output_stride=32 gives the ImageNet network",
    ),
]
