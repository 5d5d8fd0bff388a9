"""Networks of the installed peers with random weights: load_public recognises them, equal to 1e-9 in float64.

Weights go the way a file's would: the peer's own state dict, nothing told but the keys. In double precision nothing but
another function can make a difference; all norms are perturbed, since fresh ones hide mistakes.
"""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn

from models import load_public
from tests.model_helpers import assert_close, perturb_norms


def of_smp(kind: str, encoder: str, **options) -> nn.Module:
    return getattr(smp, kind)(encoder, encoder_weights=None, classes=5, **options)


def of_torchvision(name: str) -> nn.Module:
    make = getattr(torchvision.models.segmentation, name)

    class Peer(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = make(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)

        def forward(self, images):
            return self.model(images)["out"]

    return Peer()


PEERS = {  # what load_public must call it -> (peer, sizes: smp accepts whole multiples of its stride only)
    "deeplabv3_resnet50 smp": (lambda: of_smp("DeepLabV3", "resnet50"), [(64, 96)]),
    "deeplabv3plus_resnet18 smp": (lambda: of_smp("DeepLabV3Plus", "resnet18"), [(64, 96)]),
    "deeplabv3plus_resnet50 smp": (lambda: of_smp("DeepLabV3Plus", "resnet50"), [(64, 96)]),
    "pspnet_resnet18 smp": (lambda: of_smp("PSPNet", "resnet18"), [(64, 96), (72, 136)]),
    "pspnet_resnet50 smp": (lambda: of_smp("PSPNet", "resnet50"), [(64, 96)]),
    "unet_resnet18 smp": (lambda: of_smp("Unet", "resnet18"), [(64, 96)]),
    "segformer_b0 smp": (lambda: of_smp("Segformer", "mit_b0"), [(64, 96)]),
    "segformer_efficientnet_b0 smp": (lambda: of_smp("Segformer", "efficientnet-b0"), [(64, 96)]),
    "segformer_efficientnet_b3 smp": (lambda: of_smp("Segformer", "efficientnet-b3"), [(64, 96)]),
    "fcn_resnet50 torchvision": (lambda: of_torchvision("fcn_resnet50"), [(64, 96), (97, 161)]),
    "deeplabv3_resnet50 torchvision": (lambda: of_torchvision("deeplabv3_resnet50"), [(64, 96), (97, 161)]),
}


@pytest.mark.parametrize("name", PEERS)
def test_logits_equal_the_peers(name):
    torch.manual_seed(0)
    make, sizes = PEERS[name]
    peer = make().eval()
    perturb_norms(peer)
    ours, report = load_public(getattr(peer, "model", peer).state_dict())
    architecture, form = name.split()
    assert (report.architecture, report.options["form"], report.num_classes) == (architecture, form, 5), str(report)
    ours, peer = ours.double(), peer.double()
    for size in sizes:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            assert_close(ours(x)["out"], peer(x), 1e-9)
