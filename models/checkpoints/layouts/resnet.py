"""ResNets, whose names ours follow: torchvision, timm, smp and VainF agree (theirs, ours)."""

from __future__ import annotations

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
]
