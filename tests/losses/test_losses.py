"""Losses compared with slow NumPy and torch code, gradient checks, and every empty case."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from losses import LOSSES, build_loss, loss_options

WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.0]  # five classes, one with weight 0
SPECS = {
    "cross_entropy": "cross_entropy",
    "weighted": {"name": "cross_entropy", "class_weights": [0.5, 2.0, 1.0, 0.7, 3.0]},
    "smoothed": {"name": "cross_entropy", "label_smoothing": 0.1},
    "ohem": {"name": "cross_entropy", "ohem": {"threshold": 1.0, "min_kept": 1}},
    "ohem_by_loss": {"name": "cross_entropy", "class_weights": [0.5, 2, 1, 0.7, 3], "ohem": {"min_kept": 10**6}},
    "dice": "dice",
    "dice_per_image": {"name": "dice", "per_image": True, "smooth": 0.0},
    "dice_beta": {"name": "dice", "beta": 2.0, "smooth": 1e-7, "reduction": "sum"},
    "iou": "iou",
    "iou_of_the_batch": {"name": "iou", "per_image": False, "smooth": 1.0},
    "lovasz": "lovasz",
    "lovasz_per_image": {"name": "lovasz", "per_image": True},
    "ssim": "ssim",
    "focal": "focal",
    "focal_weighted": {"name": "focal", "gamma": 0.5, "class_weights": [0.5, 2.0, 1.0, 0.7, 3.0]},
    "sum": {"terms": [{"name": "cross_entropy", "weight": 0.6}, {"name": "dice", "weight": 0.4}]},
}
BY_LABEL = [name for name in LOSSES if name not in ("cwd", "kd")]  # the others need a teacher
specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def batch(seed: int = 0, b: int = 2, c: int = 5, h: int = 6, w: int = 7, dtype=torch.float64):
    """Random logits and a target with ignored pixels. Class 3 is absent, and class 4 is absent in image 1."""
    g = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(b, c, h, w, generator=g)).to(dtype).requires_grad_()
    target = torch.randint(0, c, (b, h, w), generator=g)
    target[target == 3] = 255
    target[1][target[1] == 4] = 0
    return logits, target


def perfect(target: torch.Tensor, classes: int, scale: float = 50.0) -> torch.Tensor:
    """Logits that predict the target with high confidence."""
    index = target.masked_fill(target == 255, 0)
    return scale * F.one_hot(index, classes).permute(0, 3, 1, 2).float()


# --- values -----------------------------------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def slow_cross_entropy(logits, target, weights=None, smoothing=0.0) -> float:
    c = logits.shape[1]
    weights = weights or [1.0] * c
    total = norm = 0.0
    for b, y, x in np.ndindex(*target.shape):
        t = target[b, y, x]
        if t == 255:
            continue
        log_p = np.log(softmax(logits[b, :, y, x]))
        total -= (1 - smoothing) * weights[t] * log_p[t]
        total -= smoothing / c * sum(weights[k] * log_p[k] for k in range(c))
        norm += weights[t]
    return total / norm


def slow_dice(logits, target, smooth=1.0, per_image=False) -> float:
    groups = [[b] for b in range(len(logits))] if per_image else [list(range(len(logits)))]
    costs = []
    for images in groups:
        per_class = []
        for k in range(logits.shape[1]):
            overlap = guess = truth = 0.0
            for b in images:
                for y, x in np.ndindex(*target.shape[1:]):
                    if target[b, y, x] == 255:
                        continue
                    p = softmax(logits[b, :, y, x])[k]
                    guess += p
                    if target[b, y, x] == k:
                        overlap, truth = overlap + p, truth + 1
            if truth:
                per_class.append(1 - (2 * overlap + smooth) / (guess + truth + smooth))
        if per_class:
            costs.append(np.mean(per_class))
    return float(np.mean(costs))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_numpy_and_torch(weights, smoothing):
    logits, target = batch()
    loss = build_loss({"name": "cross_entropy", "class_weights": weights, "label_smoothing": smoothing}, 5)
    value = loss(logits, target)
    assert value.item() == pytest.approx(
        slow_cross_entropy(logits.detach().numpy(), target.numpy(), weights, smoothing), rel=1e-10
    )
    w = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    peer = F.cross_entropy(logits, target, weight=w, ignore_index=255, label_smoothing=smoothing)
    assert value.item() == pytest.approx(peer.item(), rel=1e-12)
    (ours,) = torch.autograd.grad(value, logits)
    (theirs,) = torch.autograd.grad(peer, logits)
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("per_image", [False, True])
def test_dice_equals_numpy(smooth, per_image):
    logits, target = batch()
    value = build_loss({"name": "dice", "smooth": smooth, "per_image": per_image}, 5)(logits, target)
    expected = slow_dice(logits.detach().numpy(), target.numpy(), smooth, per_image)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_dice_of_images_differs_from_dice_of_the_batch():
    logits, target = batch()
    values = [build_loss({"name": "dice", "per_image": p}, 5)(logits, target).item() for p in (False, True)]
    assert abs(values[0] - values[1]) > 1e-3


def test_dice_by_hand():
    """Two pixels, two classes, p = 0.5 everywhere, both pixels class 0: dice = (2 * 1 + 1) / (1 + 2 + 1) = 3/4."""
    loss = build_loss("dice", 2)(torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2, dtype=torch.long))
    assert loss.item() == pytest.approx(0.25)


def test_dice_of_an_image_without_labels_is_left_out():
    logits, target = batch()
    target[0] = 255
    loss = build_loss({"name": "dice", "per_image": True}, 5)
    assert loss(logits, target).item() == pytest.approx(loss(logits[1:], target[1:]).item(), rel=1e-12)


@specs
@pytest.mark.parametrize("ignore_index", [255, 4, -1])
def test_another_ignore_index(spec, ignore_index):
    logits, target = batch()
    target[target == 4] = 255
    other = target.masked_fill(target == 255, ignore_index)
    expected = build_loss(spec, 5)(logits, target).item()
    assert build_loss(spec, 5, ignore_index)(logits, other).item() == pytest.approx(expected, rel=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


@specs
def test_gradcheck(spec):
    logits, target = batch(h=6, w=6)
    loss = build_loss(spec, 5).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


@specs
def test_ignored_pixels_get_exactly_no_gradient_and_the_others_some(spec):
    logits, target = batch()
    build_loss(spec, 5)(logits, target).backward()
    size = logits.grad.abs().sum(1)  # (B, H, W)
    assert (size[target == 255] == 0).all()
    assert (size[target != 255] > 0).all()


@specs
def test_logits_of_ignored_pixels_do_not_matter(spec):
    """The value does not depend on them either."""
    logits, target = batch()
    loss = build_loss(spec, 5)
    other = logits.detach().clone()
    other.permute(0, 2, 3, 1)[target == 255] = 100.0
    assert loss(other, target).item() == pytest.approx(loss(logits, target).item(), rel=1e-12)


@specs
def test_no_labelled_pixel_costs_exactly_0(spec):
    logits, _ = batch(dtype=torch.float32)
    loss = build_loss(spec, 5)
    value = loss(logits, torch.full((2, 6, 7), 255))
    assert value.item() == 0.0 and value.requires_grad
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert all(v == 0 for v in loss.parts.values())


def test_only_classes_with_weight_0_are_labelled():
    logits, _ = batch()
    for smoothing in (0.0, 0.1):
        spec = {"name": "cross_entropy", "class_weights": WEIGHTS, "label_smoothing": smoothing}
        value = build_loss(spec, 5)(logits, torch.full((2, 6, 7), 3))
        assert value.item() == 0.0
        assert torch.equal(torch.autograd.grad(value, logits)[0], torch.zeros_like(logits))


@pytest.mark.parametrize("name", BY_LABEL)
def test_each_term_of_a_sum_reaches_the_logits(name):
    """Changing a term's weight changes the gradient of the sum by that term's gradient."""
    logits, target = batch()

    def gradient(spec):
        return torch.autograd.grad(build_loss(spec, 5)(logits, target), logits)[0]

    terms = [{"name": n, "weight": 1.0} for n in BY_LABEL]
    plain, alone = gradient({"terms": terms}), gradient(name)
    assert alone.abs().max() > 0
    heavier = gradient({"terms": [dict(t, weight=1.5 if t["name"] == name else 1.0) for t in terms]})
    assert torch.allclose(heavier - plain, 0.5 * alone, rtol=1e-9, atol=1e-14)


# --- good and bad predictions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SPECS if name != "smoothed"])
def test_a_perfect_prediction_costs_nothing_whichever_classes_are_absent(name):
    target = torch.full((2, 8, 8), 2)
    target[:, :3], target[0, 4, 4], target[1, 5] = 0, 1, 255  # class 1: one pixel of one image; 3, 4 nowhere
    assert build_loss(SPECS[name], 5)(perfect(target, 5), target).item() == pytest.approx(0.0, abs=1e-5)


@specs
def test_better_costs_less(spec):
    _, target = batch()
    loss = build_loss(spec, 5)
    wrong = perfect((target + 1) % 5, 5, 4.0)
    values = [loss(scale * perfect(target, 5, 1.0) + (4 - scale) / 4 * wrong, target).item() for scale in (0, 1, 2, 3)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.1


def test_predicting_an_absent_class_costs():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    wrong = target.clone()
    wrong[0, :2] = 4
    assert build_loss("dice", 5)(perfect(wrong, 5), target) > 0.2


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_a_whole_photograph(dtype):
    """A sum over 1024 x 2048 pixels exceeds float16 (65504), so it has to run in float32."""
    logits = torch.zeros(1, 2, 1024, 2048, dtype=dtype, requires_grad=True)
    target = torch.zeros(1, 1024, 2048, dtype=torch.long)
    target[:, :512] = 1
    loss = build_loss(SPECS["sum"], 2)
    value = loss(logits, target)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(0.6 * math.log(2) + 0.4 * 0.5, rel=1e-4)
    value.backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_loss_of_a_whole_photograph_is_finite_in_half_precision(dtype):
    logits = (4 * torch.randn(1, 2, 1024, 2048, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()
    target = torch.zeros(1, 1024, 2048, dtype=torch.long)
    target[:, :512], target[:, :, :9] = 1, 255
    loss = build_loss({"terms": [{"name": name} for name in LOSSES]}, 2)
    value = loss(logits, target, logits.detach().flip(3))
    assert value.dtype == torch.float32 and torch.isfinite(value)
    assert len(loss.parts) == len(LOSSES) and all(0 < v < 100 for v in loss.parts.values())
    value.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


@specs
def test_float32_under_autocast(spec):
    logits, target = batch(dtype=torch.float32)
    loss = build_loss(spec, 5)
    outside = loss(logits, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, target)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)
    assert all(v.dtype == torch.float32 for v in loss.parts.values())


@pytest.mark.cuda
@specs
def test_cuda_equals_the_cpu_and_repeats_itself(spec):
    logits, target = batch(h=40, w=50, dtype=torch.float32)
    loss = build_loss(spec, 5)
    expected = torch.autograd.grad(loss(logits, target), logits)[0]
    there, gradients = logits.detach().cuda().requires_grad_(), []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            value = loss.cuda()(there, target.cuda())
            gradients.append(torch.autograd.grad(value, there)[0])
    finally:
        torch.use_deterministic_algorithms(False)
    assert value.item() == pytest.approx(loss.cpu()(logits, target).item(), rel=1e-4)
    assert torch.equal(*gradients)
    assert torch.allclose(gradients[0].cpu(), expected, rtol=1e-2, atol=1e-4 * expected.abs().max().item())


def test_class_weights_move_with_the_module():
    loss = build_loss(SPECS["weighted"], 5)
    assert "weight" in dict(loss.named_buffers())
    assert loss.to("meta").weight.device.type == "meta"


@specs
def test_layout_does_not_matter(spec):
    logits, target = batch()
    other = logits.detach().contiguous(memory_format=torch.channels_last)
    loss = build_loss(spec, 5)
    assert loss(other, target).item() == pytest.approx(loss(logits, target).item(), rel=1e-12)


# --- sums and their parts ---------------------------------------------------------------------------------------------


def test_parts_hold_each_terms_own_value():
    logits, target = batch()
    terms = [{"name": "cross_entropy", "weight": 0.6}, {"name": "dice", "weight": 0.4}]
    terms += [{"name": "dice", "weight": 2.0, "smooth": 0.0}, {"name": "dice", "per_image": True}]
    loss = build_loss({"terms": terms}, 5)
    total = loss(logits, target)
    assert list(loss.parts) == ["cross_entropy", "dice", "dice_2", "dice_3"]
    ce, *dice = (v.item() for v in loss.parts.values())
    assert total.item() == pytest.approx(0.6 * ce + 0.4 * dice[0] + 2 * dice[1] + dice[2], rel=1e-12)
    assert ce == pytest.approx(build_loss("cross_entropy", 5)(logits, target).item(), rel=1e-12)
    assert not any(v.requires_grad for v in loss.parts.values())
    loss(logits, target)
    assert len(loss.parts) == 4  # of the last call only


@pytest.mark.parametrize("name", LOSSES)
def test_a_single_loss_has_parts_too(name):
    logits, target = batch()
    loss = build_loss(name, 5)
    value = loss(logits, target)
    assert list(loss.parts) == [name] and loss.parts[name].item() == value.item()
    assert not loss.parts[name].requires_grad


def test_weights_override_the_terms_in_order():
    logits, target = batch()
    terms = SPECS["sum"]["terms"]
    loss = build_loss({"terms": terms, "weights": [0.0, 3.0]}, 5)
    value = loss(logits, target)
    assert value.item() == pytest.approx(3 * build_loss("dice", 5)(logits, target).item(), rel=1e-12)
    assert terms[0]["weight"] == 0.6  # the caller's dict is not changed


def test_a_term_of_weight_0_is_not_computed():
    logits, target = batch()
    loss = build_loss({"terms": SPECS["sum"]["terms"], "weights": [0.0, 1.0]}, 5)
    loss.terms[0].forward = lambda *a: pytest.fail("computed")
    loss(logits, target)
    assert list(loss.parts) == ["dice"]


# --- names and options ------------------------------------------------------------------------------------------------


def test_options_come_from_the_signatures():
    assert loss_options("cross_entropy")["class_weights"].annotation == (list[float] | None)
    assert {n: p.default for n, p in loss_options("lovasz").items()} == {"per_image": False, "divide_by": "present"}


@pytest.mark.parametrize(
    "spec, words",
    [
        ("dise", ["unknown loss", "did you mean 'dice'"]),
        ({"name": "dice", "smoth": 1}, ["smoth", "did you mean 'smooth'"]),
        ({"name": "dice", "smooth": -1.0}, ["smooth", "-1"]),
        ({"name": "cross_entropy", "class_weights": [1.0, 2.0]}, ["class_weights", "5", "2"]),
        ({"name": "cross_entropy", "class_weights": [1.0, 1.0, 1.0, 1.0, -1.0]}, ["class_weights", "-1"]),
        ({"name": "cross_entropy", "class_weights": [0.0] * 5}, ["class_weights", "not all 0"]),
        ({"name": "cross_entropy", "class_weights": [math.nan] * 5}, ["class_weights", "nan"]),
        ({"name": "cross_entropy", "label_smoothing": 1.0}, ["label_smoothing", "1.0"]),
        ({"name": "cross_entropy", "ohem": {"treshold": 0.5}}, ["treshold", "did you mean 'threshold'"]),
        ({"name": "cross_entropy", "ohem": {"threshold": 7.0}}, ["threshold", "7.0"]),
        ({"name": "cross_entropy", "ohem": {"min_kept": 0}}, ["min_kept", "at least 1", "0"]),
        ({"name": "cross_entropy", "ohem": {"divide_by": "keptt"}}, ["keptt", "did you mean 'kept'"]),
        ({"name": "cross_entropy", "ohem": 0.5}, ["ohem", "0.5"]),
        ({"name": "dice", "beta": 0.0}, ["beta", "0.0"]),
        ({"name": "focal", "gamma": -1.0}, ["gamma", "-1.0"]),
        ({"name": "ssim", "window": 8}, ["window", "8"]),
        ({"terms": []}, ["terms"]),
        ({"terms": [{"name": "dice"}], "weights": [1.0, 2.0]}, ["1 terms", "[1.0, 2.0]"]),
        ({"terms": [{"name": "dice", "weight": 0.0}]}, ["not all 0"]),
        ({"terms": [{"name": "dice", "weight": -1.0}]}, ["-1.0"]),
        ({"terms": [{"name": "dice"}], "wieghts": [1.0]}, ["wieghts", "did you mean 'weights'"]),
        ({"terms": [{"weight": 1.0}]}, ["name"]),
        ({"smooth": 1.0}, ["name"]),
        (None, ["loss: expected a name"]),
    ],
)
def test_mistakes_are_one_line(spec, words):
    with pytest.raises(UserError) as e:
        build_loss(spec, 5)
    assert "\n" not in str(e.value)
    assert all(word in str(e.value) for word in words), str(e.value)
