"""Each loss compared with its formula as slow loops, and with other libraries that have the same loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from segmentation_models_pytorch import losses as smp
from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits

from losses import build_loss
from losses.lovasz import ascending, jaccard_growth
from losses.ssim import by_flips
from tests.losses.test_losses import batch, softmax


def loss_of(spec, logits, target, classes: int = 5) -> float:
    return build_loss(spec, classes)(logits, target).item()


def probabilities(logits: torch.Tensor) -> np.ndarray:
    z = logits.detach().numpy()
    out = np.zeros_like(z)
    for b, y, x in np.ndindex(z.shape[0], *z.shape[2:]):
        out[b, :, y, x] = softmax(z[b, :, y, x])
    return out


def groups_of(images: int, per_image: bool) -> list[list[int]]:
    return [[b] for b in range(images)] if per_image else [list(range(images))]


# --- soft IoU ---------------------------------------------------------------------------------------------------------


def slow_iou(logits, target, smooth=1e-6, per_image=True, absent="skip") -> float:
    p, t, costs = probabilities(logits), target.numpy(), []
    for images in groups_of(len(p), per_image):
        per_class = []
        for k in range(p.shape[1]):
            overlap = union = truth = 0.0
            for b in images:
                for y, x in np.ndindex(*t.shape[1:]):
                    if t[b, y, x] == 255:
                        continue
                    is_k = float(t[b, y, x] == k)
                    overlap += p[b, k, y, x] * is_k
                    union += p[b, k, y, x] + is_k - p[b, k, y, x] * is_k
                    truth += is_k
            if truth:
                per_class.append(1 - (overlap + smooth) / (union + smooth))
            elif absent == "zero":
                per_class.append(1.0)
        costs.append(np.mean(per_class))
    return float(np.mean(costs))


@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("smooth", [1e-6, 1.0])
def test_iou_equals_numpy(smooth, per_image, absent):
    logits, target = batch()
    spec = {"name": "iou", "smooth": smooth, "per_image": per_image, "absent": absent}
    assert loss_of(spec, logits, target) == pytest.approx(
        slow_iou(logits, target, smooth, per_image, absent), rel=1e-10
    )


def test_iou_by_hand():
    """Two pixels of class 0 at p = 0.5: overlap 1, union 1 + 2 - 1 = 2, IoU 1/2."""
    value = build_loss({"name": "iou", "smooth": 0.0}, 2)(torch.zeros(1, 2, 1, 2), torch.zeros(1, 1, 2).long())
    assert value.item() == pytest.approx(0.5)


def test_iou_of_the_batch_equals_smp_with_every_class_present():
    logits, target = batch(h=9, w=9)
    target[0, 0, :5] = target[1, 0, :5] = torch.arange(5)
    target[target == 255] = 1  # smp's Jaccard does not support ignored pixels
    spec = {"name": "iou", "smooth": 0.0, "per_image": False}
    assert loss_of(spec, logits, target) == pytest.approx(
        smp.JaccardLoss("multiclass")(logits, target).item(), rel=1e-9
    )


# --- Lovasz-softmax ---------------------------------------------------------------------------------------------------


def slow_lovasz(logits, target, per_image=False, divide_by="present") -> float:
    p, t, costs = probabilities(logits), target.numpy(), []
    for images in groups_of(len(p), per_image):
        per_class = []
        for k in range(p.shape[1]):
            pairs = []  # (error, is of class k)
            for b in images:
                for y, x in np.ndindex(*t.shape[1:]):
                    if t[b, y, x] != 255:
                        is_k = t[b, y, x] == k
                        pairs.append((1 - p[b, k, y, x] if is_k else p[b, k, y, x], is_k))
            total = sum(is_k for _, is_k in pairs)
            if not total:
                continue
            cost = before = 0.0
            intersection, union = total, total  # when no pixel is wrong
            for error, is_k in sorted(pairs, key=lambda pair: -pair[0]):
                intersection, union = intersection - is_k, union + (not is_k)
                jaccard_loss = 1 - intersection / union
                cost, before = cost + error * (jaccard_loss - before), jaccard_loss
            per_class.append(cost)
        costs.append(sum(per_class) / (len(per_class) if divide_by == "present" else p.shape[1]))
    return float(np.mean(costs))


@pytest.mark.parametrize("divide_by", ["present", "all"])
@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_equals_numpy(per_image, divide_by):
    logits, target = batch()
    spec = {"name": "lovasz", "per_image": per_image, "divide_by": divide_by}
    assert loss_of(spec, logits, target) == pytest.approx(slow_lovasz(logits, target, per_image, divide_by), rel=1e-10)


@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_and_its_gradient_equal_smp(per_image):
    logits, target = batch(h=40, w=50, dtype=torch.float32)  # smp's does not support float64
    value = build_loss({"name": "lovasz", "per_image": per_image}, 5)(logits, target)
    peer = smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=255)(logits, target)
    assert value.item() == pytest.approx(peer.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (value, peer))
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_lovasz_of_decisions_is_one_minus_iou():
    _, target = batch(h=20, w=20)
    pred = target.masked_fill(target == 255, 0).clone()
    pred[:, :5] = (pred[:, :5] + 1) % 5
    logits = 200 * torch.nn.functional.one_hot(pred, 5).permute(0, 3, 1, 2).double()
    ious = []
    for k in range(5):
        truth, guess = (target == k), (pred == k) & (target != 255)
        if truth.any():
            ious.append(((truth & guess).sum() / (truth | guess).sum()).item())
    assert len(ious) == 4 and loss_of("lovasz", logits, target) == pytest.approx(1 - np.mean(ious), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_errors_sort_like_the_errors(dtype):
    """At a size where torch uses radix sort, with ties, zeros and the smallest possible numbers."""
    errors = torch.rand(3, 40_000, dtype=dtype)
    errors[:, :100], errors[:, 100:200] = 0.0, torch.finfo(dtype).tiny / 4
    errors[:, 200:5000] = errors[:, 5000:9800]
    for order, row in zip(ascending(errors), errors):
        assert torch.equal(row[order], row.sort().values)
        assert torch.equal(order.sort().values, torch.arange(len(row)))


def test_jaccard_growth_sums_to_the_loss_of_everything_wrong():
    """If all pixels are wrong, the intersection is 0 and the Jaccard loss 1. In float32, over half a million pixels."""
    g = torch.Generator().manual_seed(0)
    errors, truth = torch.rand(2, 500_000, generator=g), torch.rand(2, 500_000, generator=g) < 0.3
    growth = jaccard_growth(errors, truth)
    assert ((growth < 0) == truth).all()
    assert growth.abs().double().sum(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


# --- SSIM -------------------------------------------------------------------------------------------------------------


def slow_ssim(logits, target, window=11, sigma=1.5) -> float:
    """The definition, pixel by pixel: weighted mean, variance and covariance over the labelled part of the window."""
    p, t = probabilities(logits), target.numpy()
    r, (h, w), values = window // 2, t.shape[1:], []

    def reflect(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    for b, k, y, x in np.ndindex(*p.shape):
        if t[b, y, x] == 255:
            continue
        weights, guesses, truths = [], [], []
        for dy in range(-r, r + 1):
            for dx in range(-r, r + 1):
                yy, xx = reflect(y + dy, h), reflect(x + dx, w)
                if t[b, yy, xx] != 255:
                    weights.append(math.exp(-(dy * dy + dx * dx) / (2 * sigma**2)))
                    guesses.append(p[b, k, yy, xx])
                    truths.append(float(t[b, yy, xx] == k))
        g, q, n = np.array(guesses), np.array(truths), np.array(weights) / sum(weights)
        mg, mq = (n * g).sum(), (n * q).sum()
        vg, vq, cov = (n * (g - mg) ** 2).sum(), (n * (q - mq) ** 2).sum(), (n * (g - mg) * (q - mq)).sum()
        c1, c2 = 0.01**2, 0.03**2
        values.append((2 * mg * mq + c1) * (2 * cov + c2) / ((mg**2 + mq**2 + c1) * (vg + vq + c2)))
    return 1 - float(np.mean(values))


@pytest.mark.parametrize("window, sigma", [(11, 1.5), (5, 1.0)])
def test_ssim_equals_numpy(window, sigma):
    logits, target = batch(h=8, w=9)
    spec = {"name": "ssim", "window": window, "sigma": sigma}
    assert loss_of(spec, logits, target) == pytest.approx(slow_ssim(logits, target, window, sigma), rel=1e-5)


def five_map_ssim(logits, target, classes: int) -> torch.Tensor:
    """The usual form, which blurs each map and each product and does not support ignored pixels."""
    p, q = logits.softmax(1), torch.nn.functional.one_hot(target, classes).permute(0, 3, 1, 2).to(logits.dtype)
    line = torch.exp(-((torch.arange(11, dtype=logits.dtype) - 5) ** 2) / 4.5)
    window = (line[:, None] * line / line.sum() ** 2).expand(classes, 1, 11, 11)

    def blur(x):
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, [5] * 4, mode="reflect"), window, groups=classes)

    mp, mq = blur(p), blur(q)
    vp, vq = (blur(p * p) - mp**2).clamp(min=0), (blur(q * q) - mq**2).clamp(min=0)
    alike = (2 * mp * mq + 1e-4) * (2 * (blur(p * q) - mp * mq) + 9e-4)
    return 1 - (alike / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))).mean()


def test_ssim_and_its_gradient_equal_the_five_map_form():
    logits, target = batch(h=30, w=24)
    target[target == 255] = 3
    value, plain = build_loss("ssim", 5)(logits, target), five_map_ssim(logits, target, 5)
    assert value.item() == pytest.approx(plain.item(), rel=1e-6)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (value, plain))
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("size", [(6, 9), (7, 6)])
def test_reflection_by_flips_equals_torch(size):
    maps = torch.randn(2, 3, *size)
    assert torch.equal(by_flips(maps, 5), torch.nn.functional.pad(maps, [5] * 4, mode="reflect"))


def test_ssim_refuses_images_smaller_than_half_its_window():
    with pytest.raises(ValueError, match="more than 5 px a side, got 5x8"):
        build_loss("ssim", 3)(torch.zeros(1, 3, 5, 8), torch.zeros(1, 5, 8).long())


# --- focal ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 0.7, 3.0]])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_numpy(gamma, weights):
    logits, target = batch()
    p, t, total, norm = probabilities(logits), target.numpy(), 0.0, 0.0
    for b, y, x in np.ndindex(*t.shape):
        if t[b, y, x] != 255:
            w, p_t = (weights or [1.0] * 5)[t[b, y, x]], p[b, t[b, y, x], y, x]
            total, norm = total - w * (1 - p_t) ** gamma * math.log(p_t), norm + w
    spec = {"name": "focal", "gamma": gamma, "class_weights": weights}
    assert loss_of(spec, logits, target) == pytest.approx(total / norm, rel=1e-6)


def test_focal_equals_smp_and_without_gamma_cross_entropy():
    logits, target = batch()
    target[target == 255] = 3  # smp's softmax form does not support ignored pixels
    peer = softmax_focal_loss_with_logits(logits, target, gamma=2.0)
    assert loss_of({"name": "focal", "gamma": 2.0}, logits, target) == pytest.approx(peer.item(), rel=1e-9)
    plain = loss_of({"name": "focal", "gamma": 0.0}, logits, target)
    assert plain == pytest.approx(loss_of("cross_entropy", logits, target), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
def test_focal_has_a_finite_gradient_at_an_exactly_right_pixel(gamma):
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    build_loss({"name": "focal", "gamma": gamma}, 2)(logits, torch.zeros(1, 1, 1).long()).backward()
    assert torch.isfinite(logits.grad).all()


# --- cross-entropy: divisor, soft labels, hard pixels -----------------------------------------------------------------

WEIGHTS = [0.5, 2.0, 1.0, 0.7, 3.0]


def pixels_of(logits, target, weights=None):
    """(cost -w log p, p of the true class, w) of each labelled pixel, in order; a list for each image."""
    p, t = probabilities(logits), target.numpy()
    out = [[] for _ in t]
    for b, y, x in np.ndindex(*t.shape):
        if t[b, y, x] != 255:
            p_true, w = p[b, t[b, y, x], y, x], (weights or [1.0] * 5)[t[b, y, x]]
            out[b].append((-w * math.log(p_true), p_true, w))
    return out


def test_class_weights_divided_by_pixels():
    logits, target = batch()
    pixels = sum(pixels_of(logits, target, WEIGHTS), [])
    spec = {"name": "cross_entropy", "class_weights": WEIGHTS, "divide_by": "pixels"}
    assert loss_of(spec, logits, target) == pytest.approx(np.mean([cost for cost, *_ in pixels]), rel=1e-10)


@pytest.mark.parametrize("divide_by", ["kept", "labelled"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("threshold, min_kept", [(0.5, 1), (0.01, 20), (None, 7), (None, 10**6)])
def test_ohem_equals_a_loop(threshold, min_kept, weights, divide_by):
    logits, target = batch()
    pixels = sum(pixels_of(logits, target, weights), [])
    if threshold is None:
        kept = sorted(pixels, key=lambda pixel: -pixel[0])[: 2 * min_kept]  # two images
    else:
        kept = sorted(pixels, key=lambda pixel: pixel[1])
        kept = [pixel for i, pixel in enumerate(kept) if pixel[1] < threshold or i < 2 * min_kept]
    assert 0 < len(kept) < len(pixels) or min_kept == 10**6
    expected = sum(cost for cost, *_ in kept) / sum(w for *_, w in (kept if divide_by == "kept" else pixels))
    ohem = {"threshold": threshold, "min_kept": min_kept, "divide_by": divide_by}
    spec = {"name": "cross_entropy", "class_weights": weights, "ohem": ohem}
    assert loss_of(spec, logits, target) == pytest.approx(expected, rel=1e-10)


def test_ohem_gives_no_gradient_to_easy_pixels():
    logits, target = batch()
    build_loss({"name": "cross_entropy", "ohem": {"min_kept": 5}}, 5)(logits, target).backward()
    assert ((logits.grad != 0).any(1)).sum() == 10 and not (logits.grad != 0).any(1)[target == 255].any()


def soft(target: torch.Tensor) -> torch.Tensor:
    """One-hot, ignored pixels all zeros: (B, 5, H, W)."""
    known = (target != 255).unsqueeze(1)
    return torch.nn.functional.one_hot(target.masked_fill(target == 255, 0), 5).permute(0, 3, 1, 2).double() * known


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ohem": {"threshold": 0.3, "min_kept": 2}}])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_soft_labels_of_one_class_are_hard_labels(weights, options):
    logits, target = batch()
    loss = build_loss({"name": "cross_entropy", "class_weights": weights, **options}, 5)
    hard, of_soft = loss(logits, target), loss(logits, soft(target))
    assert of_soft.item() == pytest.approx(hard.item(), rel=1e-10)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (hard, of_soft)]
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-14)


def test_soft_labels_equal_torch():
    logits, _ = batch()
    q = torch.rand(2, 5, 6, 7, generator=torch.Generator().manual_seed(3)).double().softmax(1)
    peer = torch.nn.functional.cross_entropy(logits, q, label_smoothing=0.1)
    assert loss_of({"name": "cross_entropy", "label_smoothing": 0.1}, logits, q) == pytest.approx(
        peer.item(), rel=1e-12
    )


def test_soft_labels_all_ignored():
    logits, _ = batch()
    value = build_loss({"name": "cross_entropy", "label_smoothing": 0.1}, 5)(logits, torch.zeros_like(logits))
    assert value.item() == 0 and torch.autograd.grad(value, logits)[0].abs().max() == 0


# --- Dice as an F score and its reductions ----------------------------------------------------------------------------


def slow_f_costs(logits, target, beta, smooth, absent, per_image) -> list[list[float]]:
    p, t, rows = probabilities(logits), target.numpy(), []
    for images in groups_of(len(p), per_image):
        row = []
        for k in range(p.shape[1]):
            tp = fp = fn = 0.0
            for b in images:
                for y, x in np.ndindex(*t.shape[1:]):
                    if t[b, y, x] == k:
                        tp, fn = tp + p[b, k, y, x], fn + 1 - p[b, k, y, x]
                    elif t[b, y, x] != 255:
                        fp += p[b, k, y, x]
            f = ((1 + beta**2) * tp + smooth) / ((1 + beta**2) * tp + beta**2 * fn + fp + smooth)
            if tp + fn:
                row.append(1 - f)
            else:
                row.append(1.0 if absent == "zero" else 0.0)
        rows.append(row)
    return rows


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("absent", ["skip", "zero"])
@pytest.mark.parametrize("beta, smooth", [(1.0, 1e-7), (2.0, 1.0)])
def test_dice_as_f_score_equals_numpy(beta, smooth, absent, per_image):
    logits, target = batch()
    rows = slow_f_costs(logits, target, beta, smooth, absent, per_image)
    spec = {"name": "dice", "beta": beta, "smooth": smooth, "absent": absent, "per_image": per_image}
    present = [sum(c > 0 for c in row) for row in rows]
    expected = {
        "mean": np.mean([sum(row) / n for row, n in zip(rows, present)]),
        "sum": np.sum(rows),
        "batchwise_mean": np.sum(rows) / len(rows),
        "none": np.array(rows if per_image else rows[0]),
    }
    for reduction, value in expected.items():
        ours = build_loss({**spec, "reduction": reduction}, 5)(logits, target)
        assert ours.detach().numpy() == pytest.approx(value, rel=1e-9)
        assert ours.shape == value.shape


def test_dice_equals_smp_with_every_class_present():
    logits, target = batch(h=9, w=9)
    target[0, 0, :5] = torch.arange(5)
    peer = smp.DiceLoss("multiclass", smooth=0.5, ignore_index=255)(logits, target)  # their s is half of ours
    assert loss_of({"name": "dice", "smooth": 1.0}, logits, target) == pytest.approx(peer.item(), rel=1e-6)
