"""DeepLabV3 and V3+ on ResNets as torchvision, VainF, smp, mmseg and system D name them (theirs, ours)."""

from __future__ import annotations

from models.checkpoints.layout import CONV_BN, CONV_MODULE, SEPARABLE, SMP, Layout
from models.checkpoints.layouts.resnet import (
    AUXILIARY,
    MMSEG,
    MMSEG_NETWORK,
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
    *under("image_pool.1.", "pooling.", CONV_BN),
    *under("aspp_modules.0.", "branches.0.", CONV_MODULE),
    *under("aspp_modules.{i}.", "branches.{i}.", SEPARABLE),
    *under("bottleneck.", "project.", CONV_MODULE),
]

# --- DeepLabV3 --------------------------------------------------------------------------------------------------------


def _deeplabv3(head: str) -> Table:
    """Sequential(ASPP, conv, BatchNorm, ReLU, conv) under the name `head`."""
    return [
        *under(f"{head}.0.", "head.aspp.", ASPP),
        (f"{head}.{{k+1}}", "head.conv.{k}"),
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
    ("decoder.aspp.0.convs.{i}.1", "head.aspp.branches.{i}.2"),
    ("decoder.aspp.0.convs.{i}.0.{k}", "head.aspp.branches.{i}.{k}"),
    *under("decoder.aspp.0.", "head.aspp.", ASPP[1:]),
    ("decoder.aspp.2", "head.aspp_conv.2"),
    ("decoder.aspp.1.{k}", "head.aspp_conv.{k}"),
    ("decoder.block1.{k}", "head.low_level.{k}"),
    ("decoder.block2.1", "head.decoder.0.2"),
    ("decoder.block2.0.{k}", "head.decoder.0.{k}"),
    ("segmentation_head.0", "head.classifier"),
]
DEEPLABV3PLUS_MMSEG = [
    *under("backbone.", "encoder.", MMSEG),
    *under("decode_head.", "head.aspp.", ASPP_MMSEG),
    *under("decode_head.c1_bottleneck.", "head.low_level.", CONV_MODULE),
    *under("decode_head.sep_bottleneck.{i}.", "head.decoder.{i}.", SEPARABLE),
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
    *[
        Layout(
            title=f"{title} DeepLabV3",
            form=form,
            marks=("classifier.0.convs.4.1.weight", "classifier.4.weight"),
            names=(f"deeplabv3_resnet{likeliest}", f"deeplabv3_resnet{other}"),
            table=DEEPLABV3_TORCHVISION,
            unused=unused,
        )
        for title, form, likeliest, other, unused in (
            ("torchvision", "torchvision", 50, 101, AUXILIARY),
            ("system D", "system_d", 34, 18, ()),
        )
    ],
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
        **SMP,
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
        **SMP,
        marks=("decoder.aspp.0.convs.4.1.weight", "decoder.block1.0.weight"),
        names=names_on("deeplabv3plus"),
        table=DEEPLABV3PLUS_SMP,
        doubt=STRIDE_16,
    ),
    Layout(
        title="MMSegmentation DeepLabV3+",
        **MMSEG_NETWORK,
        marks=("decode_head.sep_bottleneck.0.depthwise_conv.conv.weight", "decode_head.c1_bottleneck.conv.weight"),
        names=names_on("deeplabv3plus"),
        table=DEEPLABV3PLUS_MMSEG,
        options=mmseg_options(
            aspp_channels="decode_head.bottleneck.conv.weight",
            decoder_channels="decode_head.sep_bottleneck.0.pointwise_conv.conv.weight",
            low_level_channels="decode_head.c1_bottleneck.conv.weight",
        ),
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
