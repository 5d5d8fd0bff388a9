"""The networks of systems B and E, whose authors named every layer by hand (theirs, ours)."""

from __future__ import annotations

from models.checkpoints.layout import Layout, widths
from models.checkpoints.rename import Table

# --- system B: BetterSegNetwork; its "gn" layers are BatchNorm --------------------------------------------------------

BETTER: Table = [
    ("conv{s+1}_{i+1}", "stages.{s}.convs.{i}.0.0"),
    ("gn{s+1}_{i+1}", "stages.{s}.convs.{i}.0.1"),
    ("res_conv{s+1}", "stages.{s}.shortcut"),
    ("center_conv{i+1}", "center.{i}.0.0"),
    ("center_gn{i+1}", "center.{i}.0.1"),
    ("dec{5-u}.conv{i+1}", "up.{u}.conv.{i}.0"),
    ("dec{5-u}.gn{i+1}", "up.{u}.conv.{i}.1"),
    *[(f"segmentation_head.{at + k}", f"last.{i}.0.{k}") for i, at in enumerate((0, 3, 7, 10)) for k in range(2)],
    ("segmentation_head.14", "classifier"),
]

# --- system E: the basic network --------------------------------------------------------------------------------------

BASIC: Table = [
    ("backbone.conv{s+1}_{i+1}", "stages.{s}.{i}.0"),
    ("backbone.conv5_1", "deep.0"),
    ("backbone.conv5_2", "deep.3"),
    ("backbone.conv5_3", "classifier"),
    ("decode_head.upsample_cov{i+1}", "up.{i}"),
]

LAYOUTS = [
    Layout(
        title="system B BetterSegNetwork",
        form="system_b",
        marks=("conv1_1.weight", "gn1_1.weight", "segmentation_head.14.weight"),
        names=("better_seg_network",),
        table=BETTER,
        options=widths(base_channels="conv1_1.weight"),
    ),
    Layout(
        title="system E basic network",
        form="system_e",
        marks=("backbone.conv1_1.weight", "decode_head.upsample_cov1.weight"),
        names=("basic_seg_network",),
        table=BASIC,
        options=widths(base_channels="backbone.conv1_1.weight"),
        unused=(r"decode_head\.conv_seg\..*",),
    ),
]
