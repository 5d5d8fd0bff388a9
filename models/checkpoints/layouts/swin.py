"""Swin-T as Microsoft, timm, torchvision and mmseg name it, and mmseg's All-MLP head on it (theirs, ours)."""

from __future__ import annotations

from torch import Tensor

from models.checkpoints import layout
from models.checkpoints.layout import Layout, widths
from models.checkpoints.layouts.segformer import HEAD_MMSEG
from models.checkpoints.rename import Operation, Table, under

# A merged token is four tokens: we put their channels one token after the other, (0,0), (1,0), (0,1), (1,1) as (row,
# column), as the paper's authors do. mmseg cuts 2x2 patches with nn.Unfold: channel by channel, its four tokens row by
# row, (0,0), (0,1), (1,0), (1,1). The LayerNorm over 4 C channels and the columns of the product after it follow.
OTHER_ORDER = [0, 2, 1, 3]  # exchanging rows and columns: its own inverse


def _ours(theirs: list[Tensor], shape: object) -> Tensor:
    return theirs[0].unflatten(-1, (-1, 4)).transpose(-1, -2)[..., OTHER_ORDER, :].flatten(-2)


def _theirs(ours: Tensor) -> list[tuple[int, Tensor]]:
    return [(0, ours.unflatten(-1, (4, -1))[..., OTHER_ORDER, :].transpose(-1, -2).flatten(-2))]


MERGED = Operation(_ours, _theirs)


def _block(stage: str, attn: str, fc1: str, fc2: str) -> Table:
    names = {f"attn.{part}": f"{attn}.{part}" for part in ("qkv", "proj", "relative_position_bias_table")}
    names |= {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": fc1, "mlp.fc2": fc2}
    return [(f"{stage}.{theirs}", f"stages.{{s}}.blocks.{{j}}.{ours}") for ours, theirs in names.items()]


MERGING: Table = [("norm", "norm"), ("reduction", "reduction")]


def _stages(merging: str) -> Table:
    return [
        *under("patch_embed.", "stages.0.embed.", [("proj", "proj"), ("norm", "norm")]),
        *_block("layers.{s}.blocks.{j}", "attn", "mlp.fc1", "mlp.fc2"),
        *under(f"{merging}.", "stages.{s}.embed.", MERGING),
    ]


MICROSOFT = _stages("layers.{s-1}.downsample")  # merging ends a stage there and begins the next one here
TIMM = _stages("layers.{s}.downsample")  # since 0.9; before, it named them as Microsoft does

MMSEG: Table = [
    ("patch_embed.projection", "stages.0.embed.proj"),
    ("patch_embed.norm", "stages.0.embed.norm"),
    *_block("stages.{s}.blocks.{j}", "attn.w_msa", "ffn.layers.0.0", "ffn.layers.1"),
    ("stages.{s-1}.downsample.norm", "stages.{s}.embed.norm", MERGED),
    ("stages.{s-1}.downsample.reduction", "stages.{s}.embed.reduction", MERGED),
    ("norm{i}", "out_norms.{i}"),
]


def _torchvision() -> Table:
    """Embedding or merging and blocks alternate: features.0, features.1, .."""
    table: Table = [("features.0.0", "stages.0.embed.proj"), ("features.0.2", "stages.0.embed.norm")]
    for s in range(4):
        blocks = _block(f"features.{2 * s + 1}.{{j}}", "attn", "mlp.0", "mlp.3")
        table += [(theirs, ours.replace("{s}", str(s))) for theirs, ours in blocks]
        table += under(f"features.{2 * s}.", f"stages.{s}.embed.", MERGING)
    return table


# buffers that are computed here, and a classifier with the norm before it
UNUSED = (r".*\.relative_position_index", r".*\.attn_mask", r"norm\..*", r"head\..*")
ENCODER = {"names": ("swin_t",), "encoder": True, "unused": UNUSED}

LAYOUTS = [
    Layout(
        title="MMSegmentation All-MLP on Swin",
        **layout.MMSEG,
        marks=("backbone.patch_embed.projection.weight", "decode_head.fusion_conv.conv.weight"),
        names=("segformer_swin_t",),
        table=under("backbone.", "encoder.", MMSEG) + under("decode_head.", "head.", HEAD_MMSEG),
        options=widths(decoder_dim="decode_head.fusion_conv.conv.weight"),
        unused=(r"auxiliary_head\..*", *UNUSED[:2]),
    ),
    Layout(
        title="MMSegmentation Swin",
        form="mmseg",
        marks=("patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"),
        **ENCODER,
        table=MMSEG,
        options=lambda state: {} if "norm0.weight" in state or not state else {"out_norms": False},
    ),
    Layout(
        title="Microsoft Swin",
        form="microsoft",
        marks=("patch_embed.proj.weight", "layers.0.downsample.reduction.weight"),
        **ENCODER,
        table=MICROSOFT,
        doubt="their code takes one image size; at others windows shift where the map is larger than one: shift=always"
        " (as in detection and segmentation code) or form=timm settles it",
    ),
    Layout(
        title="timm Swin",
        form="timm",
        marks=("patch_embed.proj.weight", "layers.3.downsample.reduction.weight"),
        **ENCODER,
        table=TIMM,
    ),
    Layout(
        title="torchvision Swin",
        form="torchvision",
        marks=("features.0.2.weight", "features.1.0.attn.relative_position_bias_table"),
        **ENCODER,
        table=_torchvision(),
    ),
]
