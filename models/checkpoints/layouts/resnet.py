"""ResNets, whose names ours follow: torchvision, timm, smp and VainF agree; mmseg and hszhao differ in the stem."""

from __future__ import annotations

from collections.abc import Callable

from models.build import MODELS
from models.checkpoints import layout
from models.checkpoints.layout import Layout, State, settles, widths
from models.checkpoints.rename import Table
from models.encoders.resnet import RESNET

RESNET_NAMES = tuple(RESNET)

BODY: Table = [(name, name) for name in ("layer{s}.{j}.conv{k}", "layer{s}.{j}.bn{k}", "layer{s}.{j}.downsample.{k}")]

TORCHVISION: Table = [("conv1", "conv1"), ("bn1", "bn1"), *BODY]

# deep stems: theirs is one Sequential of conv, BatchNorm, ReLU three times; ours has three blocks


def _deep_stem(theirs: str) -> Table:
    return [(f"{theirs}.{3 * i + k}", f"deep_stem.{i}.{k}") for i in range(3) for k in range(2)]


DEEP_STEM_HSZHAO: Table = [*_deep_stem("layer0"), *BODY]
MMSEG: Table = [*TORCHVISION, *_deep_stem("stem")]  # its ResNet has torchvision's stem, its ResNetV1c the deep one

# --- for the layouts of networks on a ResNet --------------------------------------------------------------------------


def names_on(head: str) -> tuple[str, ...]:
    """The models of a head on every ResNet."""
    return tuple(f"{head}_{name}" for name in RESNET_NAMES if f"{head}_{name}" in MODELS)


def mmseg_options(**keys: str) -> Callable[[State], dict]:
    """Widths, and which stem the ResNet has: mmseg publishes both under one layout."""
    return lambda state: {
        **widths(**keys)(state),
        "stem_form": "v1c" if "backbone.stem.0.weight" in state else "conv7x7",
    }


AUXILIARY = (r"aux_classifier\..*", r"auxiliary_head\..*", r"aux\..*")  # for training only

STRIDE_8 = settles("output stride 8 assumed, as published: keys do not tell it", "output_stride=16")
STRIDE_16 = settles("output stride 16 assumed, as published: keys do not tell it", "output_stride=8")
MMSEG_NETWORK = {**layout.MMSEG, "unused": AUXILIARY, "doubt": STRIDE_8}

# --- ResNet encoders --------------------------------------------------------------------------------------------------

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
    *[
        Layout(
            title=title,
            form=form,
            marks=(f"{stem}.0.weight", f"{stem}.6.weight", "layer4.0.conv2.weight"),
            names=RESNET_NAMES,
            table=table,
            encoder=True,
            unused=(r"fc\..*",),
            doubt="output stride 8 assumed, as in its segmentation models; output_stride=32 gives the ImageNet network",
        )
        for title, form, stem, table in (
            ("MMSegmentation ResNetV1c", "mmseg", "stem", MMSEG),
            ("hszhao ResNet with deep stem", "hszhao", "layer0", DEEP_STEM_HSZHAO),
        )
    ],
]
