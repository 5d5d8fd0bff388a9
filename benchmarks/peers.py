"""The peers of our models: the same networks in other libraries, with the same random weights.

A Peer is built from scratch without a download; load_public recognises its weights and builds our model. `logits` gives
logits of the input size: those of stride 4 are resized as the library's documentation says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models import load_public
from models.encoders.mix_transformer import MIT, NUM_HEADS

CLASSES = 19


@dataclass(frozen=True)
class Peer:
    library: str  # the package's import name
    make: Callable[[], nn.Module]
    logits: Callable[[nn.Module, Tensor], Tensor]  # (model, images) -> (B, classes, H, W)


def ours_like(name: str, theirs: nn.Module) -> nn.Module:
    """Our model with the weights of this peer's instance."""
    ours, report = load_public(theirs.state_dict())
    if report.architecture != name:
        raise SystemExit(f"{name}: its peer was recognised as {report.architecture}")
    return ours


def _smp(name: str, encoder: str, **options) -> Peer:
    def make() -> nn.Module:
        import segmentation_models_pytorch as smp

        return getattr(smp, name)(encoder, encoder_weights=None, classes=CLASSES, **options)

    return Peer("segmentation_models_pytorch", make, lambda model, images: model(images))


def _hf_segformer(encoder: str, width: int) -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    embed_dims, depths = MIT[encoder]
    sizes = {"hidden_sizes": list(embed_dims), "depths": list(depths), "num_attention_heads": list(NUM_HEADS)}
    config = SegformerConfig(**sizes, decoder_hidden_size=width, num_labels=CLASSES)
    return SegformerForSemanticSegmentation(config)


def _hf_logits(model: nn.Module, images: Tensor) -> Tensor:
    return F.interpolate(model(images).logits, images.shape[-2:], mode="bilinear", align_corners=False)


def _segformer_peers(encoder: str, width: int) -> list[Peer]:
    return [
        _smp("Segformer", encoder, decoder_segmentation_channels=width),
        Peer("transformers", lambda: _hf_segformer(encoder, width), _hf_logits),
    ]


def _torchvision_peer(name: str) -> Peer:
    def make() -> nn.Module:
        import torchvision

        options = {"weights": None, "weights_backbone": None, "num_classes": CLASSES, "aux_loss": False}
        return getattr(torchvision.models.segmentation, name)(**options)

    return Peer("torchvision", make, lambda model, images: model(images)["out"])


def smp_lovasz() -> nn.Module:
    """(logits, target) -> scalar: the peer of benchmarks/losses."""
    from segmentation_models_pytorch.losses import LovaszLoss

    return LovaszLoss("multiclass", ignore_index=255)


PEERS: dict[str, list[Peer]] = {
    "segformer_b0": _segformer_peers("mit_b0", 256),
    "segformer_b2": _segformer_peers("mit_b2", 768),
    "deeplabv3plus_resnet50": [_smp("DeepLabV3Plus", "resnet50")],
    "deeplabv3_resnet50": [_torchvision_peer("deeplabv3_resnet50")],
    "fcn_resnet50": [_torchvision_peer("fcn_resnet50")],
}

# images of a training step: the pooled branch of the peers' ASPP cannot train on a single one (ours can)
TRAIN_BATCH = {"deeplabv3plus_resnet50": 2, "deeplabv3_resnet50": 2}
