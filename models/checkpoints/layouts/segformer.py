"""SegFormer: Mix Transformer and All-MLP head, as NVlabs, smp, mmseg and Hugging Face name them (theirs, ours)."""

from __future__ import annotations

from models.checkpoints.layout import CONV_MODULE, MMSEG, SMP, Layout, State, settles, widths
from models.checkpoints.rename import CONV_TO_LINEAR, SAME, STACKED, Table, rows, under

# --- Mix Transformer: stage i, block j --------------------------------------------------------------------------------

OURS = ("norm1", "attn.q", "attn.kv", "attn.proj", "attn.sr", "attn.norm", "norm2", "mlp.fc1", "mlp.dwconv", "mlp.fc2")


def _mit(embed: str, embed_norm: str, block: str, names: list[str | list[str]], norm: str) -> Table:
    """`names`: theirs of OURS within a block; where they have two, for k and v, ours is both stacked."""
    blocks = [(name, ours, SAME if isinstance(name, str) else STACKED) for name, ours in zip(names, OURS, strict=True)]
    return [
        (embed, "stages.{i}.embed.proj"),
        (embed_norm, "stages.{i}.embed.norm"),
        *under(block, "stages.{i}.blocks.{j}.", blocks),
        (norm, "stages.{i}.norm"),
    ]


MIT_NVLABS = _mit(  # smp keeps these names
    "patch_embed{i+1}.proj", "patch_embed{i+1}.norm", "block{i+1}.{j}.",
    [*OURS[:8], "mlp.dwconv.dwconv", "mlp.fc2"],
    "norm{i+1}",
)  # fmt: skip

MIT_HUGGINGFACE = _mit(  # files on the hub: names of transformers 4
    "patch_embeddings.{i}.proj", "patch_embeddings.{i}.layer_norm", "block.{i}.{j}.",
    ["layer_norm_1", "attention.self.query", ["attention.self.key", "attention.self.value"], "attention.output.dense",
     "attention.self.sr", "attention.self.layer_norm", "layer_norm_2", "mlp.dense1", "mlp.dwconv.dwconv", "mlp.dense2"],
    "layer_norm.{i}",
)  # fmt: skip

MIT_HUGGINGFACE_5 = _mit(  # state_dict() of a model in transformers 5; its files keep the names above
    "stages.{i}.patch_embeddings.proj", "stages.{i}.patch_embeddings.layer_norm", "stages.{i}.blocks.{j}.",
    ["layernorm_before", "attention.q_proj", ["attention.k_proj", "attention.v_proj"], "attention.o_proj",
     "attention.sequence_reduction.sequence_reduction", "attention.sequence_reduction.layer_norm",
     "layernorm_after", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2"],
    "stages.{i}.layer_norm",
)  # fmt: skip

MIT_MMSEG: Table = [  # q, k, v in one matrix; Linear layers of the FFN as 1x1 convolutions
    ("layers.{i}.0.projection", "stages.{i}.embed.proj"),
    ("layers.{i}.0.norm", "stages.{i}.embed.norm"),
    *under("layers.{i}.1.{j}.", "stages.{i}.blocks.{j}.", [
        ("attn.attn.in_proj_{leaf}", "attn.q", rows(0, 1, of=3)),
        ("attn.attn.in_proj_{leaf}", "attn.kv", rows(1, 3, of=3)),
        ("attn.attn.out_proj", "attn.proj"),
        *[(name, name) for name in ("norm1", "attn.sr", "attn.norm", "norm2")],
        ("ffn.layers.0", "mlp.fc1", CONV_TO_LINEAR),
        ("ffn.layers.1", "mlp.dwconv"),
        ("ffn.layers.4", "mlp.fc2", CONV_TO_LINEAR),
    ]),
    ("layers.{i}.2", "stages.{i}.norm"),
]  # fmt: skip

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
    *under("convs.{i}.", "project.{i}.", CONV_MODULE),
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


def _both(encoder: str, mit: Table, head: str, table: Table) -> Table:
    """Mix Transformer and head, each with the prefix that the publisher gives it."""
    return under(encoder, "encoder.", mit) + under(head, "head.", table)


SEGFORMER_NVLABS = _both("backbone.", MIT_NVLABS, "decode_head.", HEAD_NVLABS)
SEGFORMER_MMSEG = _both("backbone.", MIT_MMSEG, "decode_head.", HEAD_MMSEG)
SEGFORMER_SMP = _both("encoder.", MIT_NVLABS, "", head_smp(4))
SEGFORMER_HUGGINGFACE = _both("segformer.encoder.", MIT_HUGGINGFACE, "decode_head.", HEAD_HUGGINGFACE)
SEGFORMER_HUGGINGFACE_5 = _both("segformer.", MIT_HUGGINGFACE_5, "decode_head.", HEAD_HUGGINGFACE_5)

# --- how to tell them -------------------------------------------------------------------------------------------------

SIZES = tuple(f"segformer_b{i}" for i in range(6))
ENCODER_SIZES = tuple(f"mit_b{i}" for i in range(6))


HUGGINGFACE = [  # end of the title, first and last mark, table of the model, table of the encoder
    ("", "segformer.encoder.patch_embeddings.0.proj.weight", "segformer.encoder.layer_norm.3.weight",
     SEGFORMER_HUGGINGFACE, under("segformer.encoder.", "", MIT_HUGGINGFACE)),
    (", names of transformers 5 in memory", "segformer.stages.0.patch_embeddings.proj.weight",
     "segformer.stages.3.layer_norm.weight", SEGFORMER_HUGGINGFACE_5, under("segformer.", "", MIT_HUGGINGFACE_5)),
]  # fmt: skip


def _no_conv_seg(state: State) -> str | None:
    """All files of NVlabs' code have an unused conv_seg; other projects took over the names of the rest only."""
    if "decode_head.conv_seg.weight" in state:
        return None
    return settles(
        "NVlabs' network assumed, but decode_head.conv_seg, which its files have, is absent: "
        f"{' and '.join(f'{who} ({what})' for who, (what, _) in TOOK_OVER.items())} have the same names",
        *[f"form={publisher}" for publisher in (*TOOK_OVER, "nvlabs")],
    )


TOOK_OVER = {  # who took over NVlabs' names -> what is different there, regular expression on the names of its files
    "bubbliiiing": ("head_bn_eps=0.001, final_align_corners=true", r"bubbliiiing|segformer_b\d_weights"),
    "sithu31296": ("norm_eps=1e-05, patch_norm_eps=1e-05", r"sithu31296|(^|/)segformer\.b\d\.(ade|cityscapes)\.pth"),
}

LAYOUTS = [
    *[
        Layout(
            title=f"{publisher} SegFormer",
            form=publisher,
            marks=("backbone.patch_embed1.proj.weight", "decode_head.linear_pred.weight"),
            names=SIZES,
            table=SEGFORMER_NVLABS,
            options=widths(decoder_dim="decode_head.linear_fuse.conv.weight"),
            doubt=settles(
                f"{publisher}'s by the file's name only ({what}): NVlabs' networks have the same names", "form=nvlabs"
            ),
            hint=hint,
        )
        for publisher, (what, hint) in TOOK_OVER.items()
    ],
    Layout(
        title="NVlabs SegFormer",
        form="nvlabs",
        marks=("backbone.patch_embed1.proj.weight", "decode_head.linear_pred.weight"),
        names=SIZES,
        table=SEGFORMER_NVLABS,
        options=widths(decoder_dim="decode_head.linear_fuse.conv.weight"),
        unused=(r"decode_head\.conv_seg\..*",),  # made by the base class of their heads, never called
        doubt=_no_conv_seg,
    ),
    Layout(
        title="MMSegmentation SegFormer",
        **MMSEG,
        marks=("backbone.layers.0.0.projection.weight", "decode_head.fusion_conv.conv.weight"),
        names=SIZES,
        table=SEGFORMER_MMSEG,
        options=widths(decoder_dim="decode_head.fusion_conv.conv.weight"),
        unused=(r"auxiliary_head\..*",),
    ),
    Layout(
        title="segmentation_models_pytorch Segformer",
        **SMP,
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
