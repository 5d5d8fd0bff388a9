"""FCN and PSPNet on ResNets as torchvision, mmseg, hszhao and smp name them (theirs, ours)."""

from __future__ import annotations

from models.checkpoints.layout import CONV_BN, CONV_MODULE, SMP, Layout, widths
from models.checkpoints.layouts.resnet import (
    AUXILIARY,
    DEEP_STEM_HSZHAO,
    MMSEG,
    MMSEG_NETWORK,
    TORCHVISION,
    mmseg_options,
    names_on,
)
from models.checkpoints.rename import under

# --- FCN --------------------------------------------------------------------------------------------------------------

FCN_TORCHVISION = [
    *under("backbone.", "encoder.", TORCHVISION),
    ("classifier.{k}", "head.convs.0.{k}"),
    ("classifier.4", "head.classifier"),
]
FCN_MMSEG = [
    *under("backbone.", "encoder.", MMSEG),
    *under("decode_head.convs.{i}.", "head.convs.{i}.", CONV_MODULE),
    *under("decode_head.conv_cat.", "head.mix.", CONV_MODULE),
    ("decode_head.conv_seg", "head.classifier"),
]

# --- PSPNet: our level of 1x1 cells has other names than the other levels ---------------------------------------------

PSPNET_MMSEG = [
    *under("backbone.", "encoder.", MMSEG),
    *under("decode_head.psp_modules.0.1.", "head.levels.0.", CONV_BN),
    *under("decode_head.psp_modules.{i}.1.", "head.levels.{i}.", CONV_MODULE),
    *under("decode_head.bottleneck.", "head.mix.", CONV_MODULE),
    ("decode_head.conv_seg", "head.classifier"),
]
PSPNET_HSZHAO = [
    *under("", "encoder.", DEEP_STEM_HSZHAO),
    ("ppm.features.0.1", "head.levels.0.conv"),
    ("ppm.features.0.2", "head.levels.0.bn"),
    ("ppm.features.{i}.{k+1}", "head.levels.{i}.{k}"),
    ("cls.{k}", "head.mix.{k}"),
    ("cls.4", "head.classifier"),
]
PSPNET_SMP = [
    *under("encoder.", "encoder.", TORCHVISION),
    ("decoder.psp.blocks.0.pool.1.0", "head.levels.0.conv"),
    ("decoder.psp.blocks.{i}.pool.1.{k}", "head.levels.{i}.{k}"),
    ("decoder.conv.{k}", "head.mix.{k}"),
    ("segmentation_head.0", "head.classifier"),
]

# --- how to tell them -------------------------------------------------------------------------------------------------

LAYOUTS = [
    Layout(
        title="torchvision FCN",
        form="torchvision",
        marks=("backbone.conv1.weight", "classifier.0.weight", "classifier.4.weight"),
        names=names_on("fcn"),
        table=FCN_TORCHVISION,
        unused=AUXILIARY,
    ),
    Layout(
        title="MMSegmentation FCN",
        **MMSEG_NETWORK,
        marks=("decode_head.conv_cat.conv.weight", "backbone.layer4.0.conv2.weight"),
        names=names_on("fcn"),
        table=FCN_MMSEG,
        options=mmseg_options(fcn_channels="decode_head.conv_cat.conv.weight"),
    ),
    Layout(
        title="MMSegmentation PSPNet",
        **MMSEG_NETWORK,
        marks=("decode_head.psp_modules.0.1.conv.weight", "decode_head.bottleneck.conv.weight"),
        names=names_on("pspnet"),
        table=PSPNET_MMSEG,
        options=mmseg_options(psp_channels="decode_head.bottleneck.conv.weight"),
    ),
    Layout(
        title="hszhao PSPNet",
        form="hszhao",
        marks=("ppm.features.0.1.weight", "cls.0.weight"),
        names=names_on("pspnet"),
        table=PSPNET_HSZHAO,
        options=widths(psp_channels="cls.0.weight"),
        unused=AUXILIARY,
    ),
    Layout(
        title="segmentation_models_pytorch PSPNet",
        **SMP,
        marks=("decoder.psp.blocks.0.pool.1.0.weight",),
        names=names_on("pspnet"),
        table=PSPNET_SMP,
        options=widths(psp_channels="decoder.conv.0.weight"),
        unused=(r"encoder\.layer[34]\..*",),
    ),
]
