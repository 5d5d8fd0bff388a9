"""PSPNet: mixing before enlarging equals the textbook, cells equal adaptive pooling, one image can train."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from models.heads.pspnet import PSPHead, _averaging
from tests.model_helpers import assert_close, perturb_norms


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("concat", ["map_first", "map_last"])
def test_mix_below_equals_the_textbook_with_all_gradients(concat, training):
    torch.manual_seed(0)
    head = PSPHead([8], [8], 3, psp_channels=6, concat=concat, mix_kernel=1, dropout=0.0, align_corners=True).double()
    perturb_norms(head)
    x, results = torch.randn(2, 8, 9, 13, dtype=torch.float64), []
    for textbook in (False, True):
        run = copy.deepcopy(head).train(training)
        run.textbook = textbook
        leaf = x.clone().requires_grad_()
        y = run([leaf])
        y.square().sum().backward()
        results.append([y, leaf.grad, *[p.grad for p in run.parameters()], *[b.double() for b in run.buffers()]])
    for ours, expected in zip(*results):
        assert (ours - expected).abs().max() <= 1e-12 * max(1.0, float(expected.detach().abs().max()))


def test_under_a_padded_3x3_the_plain_form_is_kept():
    """A constant level is not a bias there: at the border the padding counts too."""
    torch.manual_seed(0)
    head = PSPHead([8], [8], 3, bins=(1,), psp_channels=6, dropout=0.0).double().eval()
    x = torch.randn(1, 8, 7, 7, dtype=torch.float64)
    constant = head.levels[0](x).expand(-1, -1, 7, 7)
    assert_close(head([x]), head.classifier(head.mix(torch.cat([x, constant], 1))), 1e-12)


@pytest.mark.parametrize("side, bins", [(8, 3), (12, 6), (13, 6), (5, 6), (7, 1)])
def test_averaging_matrices_are_adaptive_pooling(side, bins):
    x = torch.randn(2, 3, side, 9, dtype=torch.float64)
    ours = _averaging(side, bins) @ x @ _averaging(9, bins).T
    assert_close(ours, F.adaptive_avg_pool2d(x, bins), 1e-12)


def test_one_image_trains_at_every_level():
    head = PSPHead([16], [8], 3, psp_channels=8).train()
    head([torch.randn(1, 16, 8, 8)]).sum().backward()
    assert all(p.grad is not None for p in head.parameters())
