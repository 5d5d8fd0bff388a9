"""The peers of our models: the same network by another library, with the same random weights.

A Peer is built from scratch (nothing is downloaded); `table` translates its weights into ours. `logits` runs it to the
input size: libraries that stop at stride 4 are finished as their own documentation says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models import build_model
from models.checkpoints.layouts.segformer import SEGFORMER_HUGGINGFACE_5, SEGFORMER_SMP
from models.checkpoints.translate import Table, to_ours
from models.encoders.mix_transformer import MIT, NUM_HEADS

CLASSES = 19


@dataclass(frozen=True)
class Peer:
    library: str  # the package's import name
    form: str  # our form of the same network
    table: Table
    make: Callable[[], nn.Module]
    logits: Callable[[nn.Module, Tensor], Tensor]  # (model, images) -> (B, classes, H, W)


def ours_like(name: str, peer: Peer, theirs: nn.Module) -> nn.Module:
    """Our model with the weights of this peer's instance."""
    ours = build_model(name, CLASSES, form=peer.form)
    state, _ = to_ours(theirs.state_dict(), peer.table, ours.state_dict())
    ours.load_state_dict(state)
    return ours


def _smp_segformer(encoder: str, width: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    return smp.Segformer(encoder, encoder_weights=None, decoder_segmentation_channels=width, classes=CLASSES)


def _hf_segformer(encoder: str, width: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    embed_dims, depths = MIT[encoder]
    config = SegformerConfig(
        hidden_sizes=list(embed_dims),
        depths=list(depths),
        num_attention_heads=list(NUM_HEADS),
        decoder_hidden_size=width,
        num_labels=CLASSES,
    )
    return SegformerForSemanticSegmentation(config)


def _hf_logits(model: nn.Module, images: Tensor) -> Tensor:
    return F.interpolate(model(images).logits, images.shape[-2:], mode="bilinear", align_corners=False)


def _plain(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _segformer_peers(encoder: str, width: int) -> list[Peer]:
    smp, hf = "segmentation_models_pytorch", "transformers"
    return [
        Peer(smp, "smp", SEGFORMER_SMP, lambda: _smp_segformer(encoder, width), _plain),
        Peer(hf, "huggingface", SEGFORMER_HUGGINGFACE_5, lambda: _hf_segformer(encoder, width), _hf_logits),
    ]


PEERS: dict[str, list[Peer]] = {
    "segformer_b0": _segformer_peers("mit_b0", 256),
    "segformer_b2": _segformer_peers("mit_b2", 768),
}
