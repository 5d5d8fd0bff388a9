"""U-Nets, as milesial, mateuszbuda, mmseg, system D and smp name them (theirs, ours)."""

from __future__ import annotations

from models.checkpoints import layout
from models.checkpoints.layout import CONV_MODULE, SMP, Layout, State, widths
from models.checkpoints.layouts.resnet import RESNET_NAMES, TORCHVISION
from models.checkpoints.rename import Table, under

# --- milesial, and system D after it: a block is Sequential(conv, BatchNorm, ReLU, conv, BatchNorm, ReLU) -------------


def _double_conv(theirs: str, ours: str) -> Table:
    return [(f"{theirs}.double_conv.{3 * j + k}", f"{ours}.{j}.{k}") for j in range(2) for k in range(2)]


MILESIAL: Table = [
    *_double_conv("inc", "stem"),
    *_double_conv("down{i+1}.maxpool_conv.1", "down.{i}.1"),
    ("up{i+1}.up", "up.{i}.up"),  # absent in the bilinear form
    *_double_conv("up{i+1}.conv", "up.{i}.conv"),
    ("outc.conv", "classifier"),
]

# --- mateuszbuda: levels and layers by name; the decoder counts from the finest level ---------------------------------


def _named(theirs: str, ours: str) -> Table:
    return [(theirs + "conv{j+1}", f"{ours}.0"), (theirs + "norm{j+1}", f"{ours}.1")]


MATEUSZBUDA: Table = [
    *_named("encoder1.enc1", "stem.{j}"),
    *_named("bottleneck.bottleneck", "down.3.1.{j}"),
    *_named("encoder{i+2}.enc{i+2}", "down.{i}.1.{j}"),
    ("upconv{4-i}", "up.{i}.up"),
    *_named("decoder{4-i}.dec{4-i}", "up.{i}.conv.{j}"),
    ("conv", "classifier"),
]

# --- mmseg: encoder.0.0 is the first level, encoder.{i}.0 a pooling; the decoder counts from the finest level ---------

MMSEG: Table = [
    *under("backbone.encoder.0.0.convs.{j}.", "stem.{j}.", CONV_MODULE),
    *under("backbone.encoder.{i+1}.1.convs.{j}.", "down.{i}.1.{j}.", CONV_MODULE),
    *under("backbone.decoder.{3-i}.upsample.interp_upsample.1.", "up.{i}.reduce.", CONV_MODULE),
    *under("backbone.decoder.{3-i}.conv_block.convs.{j}.", "up.{i}.conv.{j}.", CONV_MODULE),
    *under("decode_head.convs.0.", "last.", CONV_MODULE),
    ("decode_head.conv_seg", "classifier"),
]

# --- smp: an encoder and a decoder ------------------------------------------------------------------------------------

SMP_DECODER: Table = [
    ("decoder.blocks.{i}.conv{k+1}.{j}", "head.blocks.{i}.conv.{k}.{j}"),
    ("segmentation_head.0", "head.classifier"),
]


def _smp_widths(state: State) -> dict[str, tuple[int, ...]]:
    widths = []
    while f"decoder.blocks.{len(widths)}.conv1.0.weight" in state:
        widths.append(state[f"decoder.blocks.{len(widths)}.conv1.0.weight"].shape[0])
    return {"decoder_widths": tuple(widths)}


OLDER_MILESIAL = (
    "images normalised as in system D assumed: milesial's files from before 2020 have the same keys and take images in "
    "0..1; in commands --set model.mean=0 --set model.std=1 settles it"
)

LAYOUTS = [
    *[
        Layout(
            title=title,
            form=form,
            marks=("inc.double_conv.0.weight", *marks),
            names=("unet",),
            table=MILESIAL,
            options=widths(base_channels="inc.double_conv.0.weight"),
            doubt=OLDER_MILESIAL if form == "system_d" else None,
        )
        for title, form, *marks in (
            ("milesial U-Net, transposed convolutions", "milesial", "up1.up.weight"),
            ("system D U-Net, bilinear", "system_d", "inc.double_conv.0.bias", "outc.conv.weight"),
            ("milesial U-Net, bilinear", "milesial_bilinear", "outc.conv.weight"),
        )
    ],
    Layout(
        title="mateuszbuda U-Net (its sigmoid is left to the caller)",
        form="mateuszbuda",
        marks=("encoder1.enc1conv1.weight", "bottleneck.bottleneckconv1.weight"),
        names=("unet",),
        table=MATEUSZBUDA,
        options=widths(base_channels="encoder1.enc1conv1.weight"),
    ),
    Layout(
        title="MMSegmentation U-Net with FCN head",
        **layout.MMSEG,
        marks=("backbone.encoder.0.0.convs.0.conv.weight", "decode_head.conv_seg.weight"),
        names=("unet",),
        table=MMSEG,
        options=widths(base_channels="backbone.encoder.0.0.convs.0.conv.weight"),
        unused=(r"auxiliary_head\..*",),
    ),
    Layout(
        title="segmentation_models_pytorch Unet",
        **SMP,
        marks=("encoder.conv1.weight", "decoder.blocks.0.conv1.0.weight"),
        names=tuple(f"unet_{name}" for name in RESNET_NAMES),
        table=[*under("encoder.", "encoder.", TORCHVISION), *SMP_DECODER],
        options=_smp_widths,
    ),
]
