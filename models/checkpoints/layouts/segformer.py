"""SegFormer: Mix Transformer and All-MLP head, as NVlabs, smp, mmseg and Hugging Face name them (theirs, ours)."""

from __future__ import annotations

from models.checkpoints.layout import Layout, widths
from models.checkpoints.rename import CONV_TO_LINEAR, STACKED, Table, rows, under

# --- Mix Transformer: stage i, block j --------------------------------------------------------------------------------

MIT_NVLABS: Table = [  # smp keeps these names
    ("patch_embed{i+1}.proj", "stages.{i}.embed.proj"),
    ("patch_embed{i+1}.norm", "stages.{i}.embed.norm"),
    ("block{i+1}.{j}.norm1", "stages.{i}.blocks.{j}.norm1"),
    ("block{i+1}.{j}.attn.q", "stages.{i}.blocks.{j}.attn.q"),
    ("block{i+1}.{j}.attn.kv", "stages.{i}.blocks.{j}.attn.kv"),
    ("block{i+1}.{j}.attn.proj", "stages.{i}.blocks.{j}.attn.proj"),
    ("block{i+1}.{j}.attn.sr", "stages.{i}.blocks.{j}.attn.sr"),
    ("block{i+1}.{j}.attn.norm", "stages.{i}.blocks.{j}.attn.norm"),
    ("block{i+1}.{j}.norm2", "stages.{i}.blocks.{j}.norm2"),
    ("block{i+1}.{j}.mlp.fc1", "stages.{i}.blocks.{j}.mlp.fc1"),
    ("block{i+1}.{j}.mlp.dwconv.dwconv", "stages.{i}.blocks.{j}.mlp.dwconv"),
    ("block{i+1}.{j}.mlp.fc2", "stages.{i}.blocks.{j}.mlp.fc2"),
    ("norm{i+1}", "stages.{i}.norm"),
]

MIT_MMSEG: Table = [  # q, k, v in one matrix; Linear layers of the FFN as 1x1 convolutions
    ("layers.{i}.0.projection", "stages.{i}.embed.proj"),
    ("layers.{i}.0.norm", "stages.{i}.embed.norm"),
    ("layers.{i}.1.{j}.norm1", "stages.{i}.blocks.{j}.norm1"),
    ("layers.{i}.1.{j}.attn.attn.in_proj_{leaf}", "stages.{i}.blocks.{j}.attn.q", rows(0, 1, of=3)),
    ("layers.{i}.1.{j}.attn.attn.in_proj_{leaf}", "stages.{i}.blocks.{j}.attn.kv", rows(1, 3, of=3)),
    ("layers.{i}.1.{j}.attn.attn.out_proj", "stages.{i}.blocks.{j}.attn.proj"),
    ("layers.{i}.1.{j}.attn.sr", "stages.{i}.blocks.{j}.attn.sr"),
    ("layers.{i}.1.{j}.attn.norm", "stages.{i}.blocks.{j}.attn.norm"),
    ("layers.{i}.1.{j}.norm2", "stages.{i}.blocks.{j}.norm2"),
    ("layers.{i}.1.{j}.ffn.layers.0", "stages.{i}.blocks.{j}.mlp.fc1", CONV_TO_LINEAR),
    ("layers.{i}.1.{j}.ffn.layers.1", "stages.{i}.blocks.{j}.mlp.dwconv"),
    ("layers.{i}.1.{j}.ffn.layers.4", "stages.{i}.blocks.{j}.mlp.fc2", CONV_TO_LINEAR),
    ("layers.{i}.2", "stages.{i}.norm"),
]

MIT_HUGGINGFACE: Table = [  # files on the hub: names of transformers 4
    ("patch_embeddings.{i}.proj", "stages.{i}.embed.proj"),
    ("patch_embeddings.{i}.layer_norm", "stages.{i}.embed.norm"),
    ("block.{i}.{j}.layer_norm_1", "stages.{i}.blocks.{j}.norm1"),
    ("block.{i}.{j}.attention.self.query", "stages.{i}.blocks.{j}.attn.q"),
    (
        ["block.{i}.{j}.attention.self.key", "block.{i}.{j}.attention.self.value"],
        "stages.{i}.blocks.{j}.attn.kv",
        STACKED,
    ),
    ("block.{i}.{j}.attention.output.dense", "stages.{i}.blocks.{j}.attn.proj"),
    ("block.{i}.{j}.attention.self.sr", "stages.{i}.blocks.{j}.attn.sr"),
    ("block.{i}.{j}.attention.self.layer_norm", "stages.{i}.blocks.{j}.attn.norm"),
    ("block.{i}.{j}.layer_norm_2", "stages.{i}.blocks.{j}.norm2"),
    ("block.{i}.{j}.mlp.dense1", "stages.{i}.blocks.{j}.mlp.fc1"),
    ("block.{i}.{j}.mlp.dwconv.dwconv", "stages.{i}.blocks.{j}.mlp.dwconv"),
    ("block.{i}.{j}.mlp.dense2", "stages.{i}.blocks.{j}.mlp.fc2"),
    ("layer_norm.{i}", "stages.{i}.norm"),
]

MIT_HUGGINGFACE_5: Table = [  # state_dict() of a model in transformers 5; its files keep the names above
    ("stages.{i}.patch_embeddings.proj", "stages.{i}.embed.proj"),
    ("stages.{i}.patch_embeddings.layer_norm", "stages.{i}.embed.norm"),
    ("stages.{i}.blocks.{j}.layernorm_before", "stages.{i}.blocks.{j}.norm1"),
    ("stages.{i}.blocks.{j}.attention.q_proj", "stages.{i}.blocks.{j}.attn.q"),
    (
        ["stages.{i}.blocks.{j}.attention.k_proj", "stages.{i}.blocks.{j}.attention.v_proj"],
        "stages.{i}.blocks.{j}.attn.kv",
        STACKED,
    ),
    ("stages.{i}.blocks.{j}.attention.o_proj", "stages.{i}.blocks.{j}.attn.proj"),
    ("stages.{i}.blocks.{j}.attention.sequence_reduction.sequence_reduction", "stages.{i}.blocks.{j}.attn.sr"),
    ("stages.{i}.blocks.{j}.attention.sequence_reduction.layer_norm", "stages.{i}.blocks.{j}.attn.norm"),
    ("stages.{i}.blocks.{j}.layernorm_after", "stages.{i}.blocks.{j}.norm2"),
    ("stages.{i}.blocks.{j}.mlp.fc1", "stages.{i}.blocks.{j}.mlp.fc1"),
    ("stages.{i}.blocks.{j}.mlp.dwconv.dwconv", "stages.{i}.blocks.{j}.mlp.dwconv"),
    ("stages.{i}.blocks.{j}.mlp.fc2", "stages.{i}.blocks.{j}.mlp.fc2"),
    ("stages.{i}.layer_norm", "stages.{i}.norm"),
]

# --- All-MLP head -----------------------------------------------------------------------------------------------------

HEAD_NVLABS: Table = [
    ("linear_c{i+1}.proj", "project.{i}"),
    ("linear_fuse.conv", "mix"),
    ("linear_fuse.bn", "bn"),
    ("linear_pred", "classifier"),
]

HEAD_HUGGINGFACE: Table = [
    ("linear_c.{i}.proj", "project.{i}"),
    ("linear_fuse", "mix"),
    ("batch_norm", "bn"),
    ("classifier", "classifier"),
]

HEAD_HUGGINGFACE_5: Table = [("linear_projections.{i}.proj", "project.{i}"), *HEAD_HUGGINGFACE[1:]]

HEAD_MMSEG: Table = [
    ("convs.{i}.conv", "project.{i}.0"),
    ("convs.{i}.bn", "project.{i}.1"),
    ("fusion_conv.conv", "mix"),
    ("fusion_conv.bn", "bn"),
    ("conv_seg", "classifier"),
]


def head_smp(maps: int) -> Table:
    """smp counts its projections from the coarsest map: 4 of them on Mix Transformer, 5 on EfficientNet."""
    last = maps - 1
    return [
        (f"decoder.mlp_stage.{{{last}-i}}.linear", "project.{i}"),
        ("decoder.fuse_stage.0", "mix"),
        ("decoder.fuse_stage.1", "bn"),
        ("segmentation_head.0", "classifier"),
    ]


# --- whole models -----------------------------------------------------------------------------------------------------

SEGFORMER_NVLABS = under("backbone.", "encoder.", MIT_NVLABS) + under("decode_head.", "head.", HEAD_NVLABS)
SEGFORMER_MMSEG = under("backbone.", "encoder.", MIT_MMSEG) + under("decode_head.", "head.", HEAD_MMSEG)
SEGFORMER_SMP = under("encoder.", "encoder.", MIT_NVLABS) + under("", "head.", head_smp(4))
SEGFORMER_HUGGINGFACE = (
    under("segformer.encoder.", "encoder.", MIT_HUGGINGFACE) + under("decode_head.", "head.", HEAD_HUGGINGFACE)
)  # fmt: skip
SEGFORMER_HUGGINGFACE_5 = (
    under("segformer.", "encoder.", MIT_HUGGINGFACE_5) + under("decode_head.", "head.", HEAD_HUGGINGFACE_5)
)  # fmt: skip


# --- how to tell them -------------------------------------------------------------------------------------------------

SIZES = tuple(f"segformer_b{i}" for i in range(6))
ENCODER_SIZES = tuple(f"mit_b{i}" for i in range(6))


HUGGINGFACE = [  # end of the title, first and last mark, table of the model, table of the encoder
    ("", "segformer.encoder.patch_embeddings.0.proj.weight", "segformer.encoder.layer_norm.3.weight",
     SEGFORMER_HUGGINGFACE, under("segformer.encoder.", "", MIT_HUGGINGFACE)),
    (", names of transformers 5 in memory", "segformer.stages.0.patch_embeddings.proj.weight",
     "segformer.stages.3.layer_norm.weight", SEGFORMER_HUGGINGFACE_5, under("segformer.", "", MIT_HUGGINGFACE_5)),
]  # fmt: skip

LAYOUTS = [
    Layout(
        title="NVlabs SegFormer",
        form="nvlabs",
        marks=("backbone.patch_embed1.proj.weight", "decode_head.linear_pred.weight"),
        names=SIZES,
        table=SEGFORMER_NVLABS,
        options=widths(decoder_dim="decode_head.linear_fuse.conv.weight"),
        unused=(r"decode_head\.conv_seg\..*",),  # made by the base class of their heads, never called
    ),
    Layout(
        title="MMSegmentation SegFormer",
        form="mmseg",
        marks=("backbone.layers.0.0.projection.weight", "decode_head.fusion_conv.conv.weight"),
        names=SIZES,
        table=SEGFORMER_MMSEG,
        options=widths(decoder_dim="decode_head.fusion_conv.conv.weight"),
        unused=(r"auxiliary_head\..*",),
    ),
    Layout(
        title="segmentation_models_pytorch Segformer",
        form="smp",
        marks=("encoder.patch_embed1.proj.weight", "decoder.mlp_stage.0.linear.weight"),
        names=SIZES,
        table=SEGFORMER_SMP,
        options=widths(decoder_dim="decoder.fuse_stage.0.weight"),
    ),
    *[
        Layout(
            title=f"Hugging Face SegFormer{title}",
            form="huggingface",
            marks=(first, "decode_head.linear_fuse.weight"),
            names=SIZES,
            table=table,
            options=widths(decoder_dim="decode_head.linear_fuse.weight"),
        )
        for title, first, _, table, _ in HUGGINGFACE
    ],
    *[
        Layout(
            title=f"Hugging Face Mix Transformer{title}",
            form="huggingface",
            marks=(first, last),
            names=ENCODER_SIZES,
            table=table,
            encoder=True,
            unused=(r"classifier\..*",),
        )
        for title, first, last, _, table in HUGGINGFACE
    ],
    Layout(
        title="NVlabs Mix Transformer (or smp's, of the same names)",
        form="nvlabs",
        marks=("patch_embed1.proj.weight", "block1.0.attn.q.weight"),
        names=ENCODER_SIZES,
        table=MIT_NVLABS,
        encoder=True,
        unused=(r"head\..*",),
    ),
    Layout(
        title="MMSegmentation Mix Transformer",
        form="mmseg",
        marks=("layers.0.0.projection.weight", "layers.0.1.0.attn.attn.in_proj_weight"),
        names=ENCODER_SIZES,
        table=MIT_MMSEG,
        encoder=True,
    ),
]
