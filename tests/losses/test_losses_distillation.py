"""Distillation losses compared with loops, empty cases, and which terms get the teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from losses import build_loss
from tests.losses.test_losses import batch, softmax

NAMES = ["kd", "cwd"]
both = pytest.mark.parametrize("name", NAMES)


def teacher_of(logits: torch.Tensor) -> torch.Tensor:
    return torch.randn(logits.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def divergence(t: np.ndarray, s: np.ndarray) -> float:
    p, q = softmax(t), softmax(s)
    return float(sum(a * math.log(a / b) for a, b in zip(p, q)))


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_equals_a_loop(temperature, everywhere):
    logits, target = batch()
    z, t, values = logits.detach().numpy(), teacher_of(logits).numpy(), []
    for b, y, x in np.ndindex(*target.shape):
        if everywhere or target[b, y, x] != 255:
            values.append(temperature**2 * divergence(t[b, :, y, x] / temperature, z[b, :, y, x] / temperature))
    loss = build_loss({"name": "kd", "temperature": temperature, "everywhere": everywhere}, 5)
    assert loss(logits, target, teacher_of(logits)).item() == pytest.approx(np.mean(values), rel=1e-10)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_equals_a_loop(temperature, everywhere):
    logits, target = batch()
    z, t, values = logits.detach().numpy(), teacher_of(logits).numpy(), []
    for b in range(2):
        where = np.ones(target.shape[1:], bool) if everywhere else target[b].numpy() != 255
        for c in range(5):
            values.append(temperature**2 * divergence(t[b, c][where] / temperature, z[b, c][where] / temperature))
    loss = build_loss({"name": "cwd", "temperature": temperature, "everywhere": everywhere}, 5)
    assert loss(logits, target, teacher_of(logits)).item() == pytest.approx(np.mean(values), rel=1e-10)


def test_cwd_ignores_a_constant_per_channel_and_kd_one_per_pixel():
    logits, target = batch()
    per_channel = torch.arange(5.0).view(1, 5, 1, 1)
    per_pixel = torch.arange(7.0)
    teacher = logits.detach()
    cwd, kd = (build_loss(name, 5) for name in ("cwd", "kd"))
    assert cwd(logits, target, teacher + per_channel).item() == pytest.approx(0, abs=1e-12)
    assert kd(logits, target, teacher + per_pixel).item() == pytest.approx(0, abs=1e-12)
    assert cwd(logits, target, teacher + per_pixel) > 0.1 < kd(logits, target, teacher + per_channel)


@both
def test_gradients(name):
    logits, target = batch(h=4, w=4)
    loss, teacher = build_loss(name, 5), teacher_of(logits).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, target, teacher), logits)
    loss(logits, target, teacher).backward()
    assert teacher.grad is None  # the teacher gets no gradient
    size = logits.grad.abs().sum(1)
    assert (size[target == 255] == 0).all() and (size[target != 255] > 0).all()


@both
def test_equal_logits_no_labelled_pixel_or_no_teacher_cost_0(name):
    logits, target = batch(dtype=torch.float32)
    loss = build_loss(name, 5)
    assert loss(logits, target, logits.detach()).item() == pytest.approx(0, abs=1e-6)
    for value in (loss(logits, torch.full_like(target, 255), teacher_of(logits)), loss(logits, target)):
        assert value.item() == 0 and torch.autograd.grad(value, logits)[0].abs().max() == 0


@both
def test_one_of_two_images_has_no_label(name):
    logits, target = batch()
    target[0] = 255
    loss, teacher = build_loss(name, 5), teacher_of(logits)
    assert loss(logits, target, teacher).item() == pytest.approx(
        loss(logits[1:], target[1:], teacher[1:]).item(), rel=1e-12
    )


def test_only_terms_that_distil_get_the_teacher():
    logits, target = batch()
    loss = build_loss({"terms": [{"name": "cross_entropy"}, {"name": "cwd", "weight": 3.0}]}, 5)
    assert loss.distils and not build_loss({"terms": [{"name": "dice"}]}, 5).distils
    value = loss(logits, target, teacher_of(logits))
    ce = build_loss("cross_entropy", 5)(logits, target)
    cwd = build_loss("cwd", 5)(logits, target, teacher_of(logits))
    assert value.item() == pytest.approx(ce.item() + 3 * cwd.item(), rel=1e-12)
    assert loss(logits, target).item() == pytest.approx(ce.item(), rel=1e-12)  # validation


def test_shapes_must_agree():
    logits, target = batch()
    with pytest.raises(ValueError, match="teacher"):
        build_loss("kd", 5)(logits, target, teacher_of(logits)[:, :4])
