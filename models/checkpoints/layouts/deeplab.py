"""DeepLabV3 and V3+ on ResNets as torchvision, VainF, smp, mmseg and system D name them (theirs, ours)."""

from __future__ import annotations

from models.checkpoints.layout import Layout
from models.checkpoints.layouts.resnet import (
    AUXILIARY,
    MMSEG,
    STRIDE_8,
    STRIDE_16,
    TORCHVISION,
    mmseg_options,
    names_on,
)
from models.checkpoints.rename import Table, under

# --- ASPP -------------------------------------------------------------------------------------------------------------

ASPP: Table = [  # torchvision's names, which VainF, smp and system D took over
    ("convs.{i}.{k}", "branches.{i}.{k}"),
    ("convs.4.1", "pooling.conv"),
    ("convs.4.2", "pooling.bn"),
    ("project.{k}", "project.{k}"),
]

ASPP_MMSEG: Table = [
    ("image_pool.1.conv", "pooling.conv"),
    ("image_pool.1.bn", "pooling.bn"),
    ("aspp_modules.0.conv", "branches.0.0"),
    ("aspp_modules.0.bn", "branches.0.1"),
    ("aspp_modules.{i}.depthwise_conv.conv", "branches.{i}.0.0"),
    ("aspp_modules.{i}.depthwise_conv.bn", "branches.{i}.0.1"),
    ("aspp_modules.{i}.pointwise_conv.conv", "branches.{i}.1.0"),
    ("aspp_modules.{i}.pointwise_conv.bn", "branches.{i}.1.1"),
    ("bottleneck.conv", "project.0"),
    ("bottleneck.bn", "project.1"),
]

# --- DeepLabV3 --------------------------------------------------------------------------------------------------------


def _deeplabv3(head: str) -> Table:
    """Sequential(ASPP, conv, BatchNorm, ReLU, conv) under the name `head`."""
    return [
        *under(f"{head}.0.", "head.aspp.", ASPP),
        (f"{head}.1", "head.conv.0"),
        (f"{head}.2", "head.conv.1"),
        (f"{head}.4", "head.classifier"),
    ]


DEEPLABV3_TORCHVISION = [*under("backbone.", "encoder.", TORCHVISION), *_deeplabv3("classifier")]
DEEPLABV3_VAINF = [*under("backbone.", "encoder.", TORCHVISION), *_deeplabv3("classifier.classifier")]
DEEPLABV3_SMP = [
    *under("encoder.", "encoder.", TORCHVISION),
    *under("decoder.aspp.", "head.aspp.", ASPP),
    ("decoder.conv", "head.conv.0"),
    ("decoder.bn", "head.conv.1"),
    ("segmentation_head.0", "head.classifier"),
]

# --- DeepLabV3+ -------------------------------------------------------------------------------------------------------

DEEPLABV3PLUS_VAINF = [
    *under("backbone.", "encoder.", TORCHVISION),
    *under("classifier.aspp.", "head.aspp.", ASPP),
    ("classifier.project.{k}", "head.low_level.{k}"),
    ("classifier.classifier.{k}", "head.decoder.0.{k}"),
    ("classifier.classifier.3", "head.classifier"),
]
DEEPLABV3PLUS_SMP = [
    *under("encoder.", "encoder.", TORCHVISION),
    ("decoder.aspp.0.convs.0.{k}", "head.aspp.branches.0.{k}"),
    ("decoder.aspp.0.convs.{i}.0.0", "head.aspp.branches.{i}.0"),
    ("decoder.aspp.0.convs.{i}.0.1", "head.aspp.branches.{i}.1"),
    ("decoder.aspp.0.convs.{i}.1", "head.aspp.branches.{i}.2"),
    *under("decoder.aspp.0.", "head.aspp.", ASPP[1:]),
    ("decoder.aspp.1.0", "head.aspp_conv.0"),
    ("decoder.aspp.1.1", "head.aspp_conv.1"),
    ("decoder.aspp.2", "head.aspp_conv.2"),
    ("decoder.block1.{k}", "head.low_level.{k}"),
    ("decoder.block2.0.0", "head.decoder.0.0"),
    ("decoder.block2.0.1", "head.decoder.0.1"),
    ("decoder.block2.1", "head.decoder.0.2"),
    ("segmentation_head.0", "head.classifier"),
]
DEEPLABV3PLUS_MMSEG = [
    *under("backbone.", "encoder.", MMSEG),
    *under("decode_head.", "head.aspp.", ASPP_MMSEG),
    ("decode_head.c1_bottleneck.conv", "head.low_level.0"),
    ("decode_head.c1_bottleneck.bn", "head.low_level.1"),
    ("decode_head.sep_bottleneck.{i}.depthwise_conv.conv", "head.decoder.{i}.0.0"),
    ("decode_head.sep_bottleneck.{i}.depthwise_conv.bn", "head.decoder.{i}.0.1"),
    ("decode_head.sep_bottleneck.{i}.pointwise_conv.conv", "head.decoder.{i}.1.0"),
    ("decode_head.sep_bottleneck.{i}.pointwise_conv.bn", "head.decoder.{i}.1.1"),
    ("decode_head.conv_seg", "head.classifier"),
]


def _system_d_plus(second: int) -> Table:
    """Its decoder is one Sequential of two blocks; `second` is the index of the second convolution."""
    return [
        *under("backbone.", "encoder.", TORCHVISION),
        *under("aspp.", "head.aspp.", ASPP),
        ("decoder.low_level_conv.{k}", "head.low_level.{k}"),
        ("decoder.fusion_conv.{k}", "head.decoder.0.{k}"),
        (f"decoder.fusion_conv.{{k+{second}}}", "head.decoder.1.{k}"),
        ("classifier", "head.classifier"),
    ]


# --- how to tell them -------------------------------------------------------------------------------------------------

LAYOUTS = [
    Layout(
        title="torchvision DeepLabV3",
        form="torchvision",
        marks=("classifier.0.convs.4.1.weight", "classifier.4.weight"),
        names=("deeplabv3_resnet50", "deeplabv3_resnet101"),
        table=DEEPLABV3_TORCHVISION,
        unused=AUXILIARY,
    ),
    Layout(
        title="system D DeepLabV3",
        form="system_d",
        marks=("classifier.0.convs.4.1.weight", "classifier.4.weight"),
        names=("deeplabv3_resnet34", "deeplabv3_resnet18"),
        table=DEEPLABV3_TORCHVISION,
    ),
    Layout(
        title="VainF DeepLabV3",
        form="vainf",
        marks=("classifier.classifier.0.convs.4.1.weight",),
        names=names_on("deeplabv3"),
        table=DEEPLABV3_VAINF,
        doubt=STRIDE_16,
    ),
    Layout(
        title="segmentation_models_pytorch DeepLabV3",
        form="smp",
        marks=("decoder.aspp.convs.4.1.weight", "segmentation_head.0.weight"),
        names=names_on("deeplabv3"),
        table=DEEPLABV3_SMP,
        doubt=STRIDE_8,
    ),
    Layout(
        title="VainF DeepLabV3+",
        form="vainf",
        marks=("classifier.project.0.weight", "classifier.aspp.convs.4.1.weight"),
        names=names_on("deeplabv3plus"),
        table=DEEPLABV3PLUS_VAINF,
        doubt=STRIDE_16,
    ),
    Layout(
        title="segmentation_models_pytorch DeepLabV3+",
        form="smp",
        marks=("decoder.aspp.0.convs.4.1.weight", "decoder.block1.0.weight"),
        names=names_on("deeplabv3plus"),
        table=DEEPLABV3PLUS_SMP,
        doubt=STRIDE_16,
    ),
    Layout(
        title="MMSegmentation DeepLabV3+",
        form="mmseg",
        marks=("decode_head.sep_bottleneck.0.depthwise_conv.conv.weight", "decode_head.c1_bottleneck.conv.weight"),
        names=names_on("deeplabv3plus"),
        table=DEEPLABV3PLUS_MMSEG,
        options=mmseg_options(
            aspp_channels="decode_head.bottleneck.conv.weight",
            decoder_channels="decode_head.sep_bottleneck.0.pointwise_conv.conv.weight",
            low_level_channels="decode_head.c1_bottleneck.conv.weight",
        ),
        unused=AUXILIARY,
        doubt=STRIDE_8,
    ),
    *[
        Layout(
            title=f"system D DeepLabV3+{title}",
            form="system_d",
            marks=("decoder.low_level_conv.0.weight", f"decoder.fusion_conv.{second}.weight"),
            names=names_on("deeplabv3plus"),
            table=_system_d_plus(second),
        )
        for second, title in ((3, ""), (4, ", dropout between the convolutions"))
    ],
]
