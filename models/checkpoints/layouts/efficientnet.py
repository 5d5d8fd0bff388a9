"""EfficientNet encoders as lukemelas (and smp), timm and torchvision name them, and smp's Segformer on them (theirs,
ours). All these files also have a last 1x1 convolution and a classifier, which our encoder does not have."""

from __future__ import annotations

import math

from models.checkpoints.layout import SMP, Layout, widths
from models.checkpoints.layouts.segformer import head_smp
from models.checkpoints.rename import Table, under
from models.encoders.efficientnet import B0, EFFICIENTNET

NAMES = tuple(EFFICIENTNET)
ENCODER = {"names": NAMES, "encoder": True}


def _part(theirs: str, conv: str, bn: str, ours: str) -> Table:
    return [(f"{theirs}{conv}", f"{ours}.conv"), (f"{theirs}{bn}", f"{ours}.bn")]


def _block(
    theirs: str, ours: str, expand: tuple[str, str] | None, depthwise: tuple[str, str], se: tuple[str, str],
    project: tuple[str, str],
) -> Table:  # fmt: skip
    """One inverted bottleneck: their (convolution, BatchNorm) of each part, and (reduce, expand) of the SE layers."""
    table = _part(theirs, *expand, f"{ours}.expand") if expand else []
    table += _part(theirs, *depthwise, f"{ours}.depthwise")
    table += [(theirs + se[0], f"{ours}.se.reduce"), (theirs + se[1], f"{ours}.se.expand")]
    return table + _part(theirs, *project, f"{ours}.project")


def lukemelas(name: str) -> Table:
    """Blocks are counted through all stages; the number per stage depends on the variant."""
    table, k = _part("", "_conv_stem", "_bn0", "stem"), 0
    for g, row in enumerate(B0):
        for j in range(math.ceil(row[-1] * EFFICIENTNET[name][1])):
            expand = ("_expand_conv", "_bn0") if g else None
            parts = (expand, ("_depthwise_conv", "_bn1"), ("_se_reduce", "_se_expand"), ("_project_conv", "_bn2"))
            table += _block(f"_blocks.{k}.", f"stages.{g}.{j}", *parts)
            k += 1
    return table


SE_TIMM = ("se.conv_reduce", "se.conv_expand")
TIMM: Table = [
    *_part("", "conv_stem", "bn1", "stem"),
    *_block("blocks.0.{j}.", "stages.0.{j}", None, ("conv_dw", "bn1"), SE_TIMM, ("conv_pw", "bn2")),
    *_block("blocks.{g}.{j}.", "stages.{g}.{j}", ("conv_pw", "bn1"), ("conv_dw", "bn2"), SE_TIMM, ("conv_pwl", "bn3")),
]

TORCHVISION: Table = [
    *_part("features.0.", "0", "1", "stem"),
    *_block("features.1.{j}.block.", "stages.0.{j}", None, ("0.0", "0.1"), ("1.fc1", "1.fc2"), ("2.0", "2.1")),
    *_block("features.{g+1}.{j}.block.", "stages.{g}.{j}", ("0.0", "0.1"), ("1.0", "1.1"), ("2.fc1", "2.fc2"),
            ("3.0", "3.1")),
]  # fmt: skip


def segformer_smp(name: str) -> Table:
    """Five maps: smp's head also reads the map of stride 2."""
    encoder = lukemelas(name.removeprefix("segformer_"))
    return under("encoder.", "encoder.", encoder) + under("", "head.", head_smp(5))


TIMM_DOUBT = "timm's own training assumed: keys do not tell it from its tf_ models; form=timm_tf settles it"

LAYOUTS = [
    Layout(
        title="segmentation_models_pytorch Segformer on EfficientNet",
        **SMP,
        marks=("encoder._conv_stem.weight", "decoder.mlp_stage.4.linear.weight"),
        names=tuple(f"segformer_{name}" for name in NAMES),
        table=segformer_smp,
        options=widths(decoder_dim="decoder.fuse_stage.0.weight"),
        unused=(r"encoder\._conv_head\..*", r"encoder\._bn1\..*"),
    ),
    Layout(
        title="lukemelas EfficientNet (or smp's encoder, of the same names)",
        form="lukemelas",
        marks=("_conv_stem.weight", "_blocks.0._depthwise_conv.weight"),
        **ENCODER,
        table=lukemelas,
        unused=(r"_conv_head\..*", r"_bn1\..*", r"_fc\..*"),
    ),
    *[
        Layout(
            title=title,
            form=form,
            marks=("conv_stem.weight", "blocks.1.0.conv_pwl.weight"),
            **ENCODER,
            table=TIMM,
            unused=(r"conv_head\..*", r"bn2\..*", r"classifier\..*"),
            **rest,
        )
        for title, form, rest in (
            ("timm EfficientNet from TensorFlow", "timm_tf", {"hint": r"(?<![a-z0-9])tf_efficientnet"}),
            ("timm EfficientNet", "timm", {"doubt": TIMM_DOUBT}),
        )
    ],
    Layout(
        title="torchvision EfficientNet",
        form="torchvision",
        marks=("features.0.0.weight", "features.1.0.block.1.fc1.weight"),
        **ENCODER,
        table=TORCHVISION,
        unused=(r"features\.8\..*", r"classifier\..*"),
    ),
]
