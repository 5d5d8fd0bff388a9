"""Losses against slow, obvious NumPy; what ignored pixels, absent classes and empty batches may do: nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from losses import LOSSES, build_loss, loss_options

C, IGNORE = 4, 255
SPECS = [
    "cross_entropy",
    {"name": "cross_entropy", "label_smoothing": 0.1},
    {"name": "cross_entropy", "class_weights": [0.5, 1.0, 2.0, 3.0], "label_smoothing": 0.05},
    "dice",
    {"name": "dice", "per_image": True, "smooth": 0.0},
    {"terms": [{"name": "cross_entropy", "weight": 0.6}, {"name": "dice", "weight": 0.4}]},
]
ids = [str(s) for s in SPECS]


def batch(seed: int = 0, size=(2, 5, 6), ignored: float = 0.2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], C, *size[1:], generator=generator, dtype=dtype) * 2
    target = torch.randint(C, size, generator=generator)
    target[torch.rand(size, generator=generator) < ignored] = IGNORE
    return logits, target


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def slow_cross_entropy(logits, target, class_weights=None, label_smoothing=0.0) -> float:
    weights = class_weights or [1.0] * C
    total = norm = 0.0
    for b, h, w in np.ndindex(*target.shape):
        t = int(target[b, h, w])
        if t == IGNORE:
            continue
        log_p = np.log(softmax(logits[b, :, h, w].numpy()))
        total -= (1 - label_smoothing) * weights[t] * log_p[t]
        total -= label_smoothing / C * sum(weights[c] * log_p[c] for c in range(C))
        norm += weights[t]
    return total / norm


def slow_dice(logits, target, smooth=1.0, per_image=False) -> float:
    def of(images) -> float | None:
        p_sum, q_sum, both = np.zeros(C), np.zeros(C), np.zeros(C)
        for b in images:
            for h, w in np.ndindex(*target.shape[1:]):
                t = int(target[b, h, w])
                if t != IGNORE:
                    p = softmax(logits[b, :, h, w].numpy())
                    p_sum += p
                    q_sum[t] += 1
                    both[t] += p[t]
        present = q_sum > 0
        return np.mean(1 - (2 * both[present] + smooth) / (p_sum + q_sum + smooth)[present]) if present.any() else None

    values = [of([b]) for b in range(len(target))] if per_image else [of(range(len(target)))]
    return float(np.mean([v for v in values if v is not None]))


SLOW = {"cross_entropy": slow_cross_entropy, "dice": slow_dice}


def slow(spec, logits, target) -> float:
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "terms" in spec:
        return sum(
            t["weight"] * slow({k: v for k, v in t.items() if k != "weight"}, logits, target) for t in spec["terms"]
        )
    return SLOW[spec.pop("name")](logits, target, **spec)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_value_equals_the_slow_one(spec):
    for seed in range(3):
        logits, target = batch(seed)
        assert build_loss(spec, C)(logits, target).item() == pytest.approx(slow(spec, logits, target), rel=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_gradient_is_the_derivative(spec):
    logits, target = batch(size=(2, 3, 3))
    loss = build_loss(spec, C)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), [logits.requires_grad_()])


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_ignored_pixels_have_no_part(spec):
    logits, target = batch()
    ignored = target == IGNORE
    loss = build_loss(spec, C)
    x = logits.clone().requires_grad_()
    value = loss(x, target)
    (gradient,) = torch.autograd.grad(value, x)
    per_pixel = gradient.abs().sum(1)
    assert (per_pixel[ignored] == 0).all() and (per_pixel[~ignored] > 0).all()
    changed = torch.where(ignored.unsqueeze(1), logits + 50 * torch.randn_like(logits), logits)
    assert loss(changed, target).item() == pytest.approx(value.item(), rel=1e-9)


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_nothing_labelled_costs_exactly_nothing_and_keeps_the_gradient_path(spec):
    logits, target = batch(ignored=1.1)
    x = logits.requires_grad_()
    value = build_loss(spec, C)(x, target)
    value.backward()
    assert value.item() == 0.0 and torch.count_nonzero(x.grad) == 0


@pytest.mark.parametrize("spec", [s for s in SPECS if "label_smoothing" not in str(s)], ids=str)
def test_a_perfect_prediction_costs_about_nothing_whichever_classes_are_absent(spec):
    loss = build_loss(spec, C)
    for classes in ([0], [1, 3], [0, 1, 2, 3]):
        target = torch.tensor(classes).repeat(20)[:16].view(1, 4, 4)
        logits = F.one_hot(target, C).permute(0, 3, 1, 2).float() * 40 - 20
        assert loss(logits, target).item() < 1e-5
        worse = logits.clone()
        worse[..., 0, 0] = -worse[..., 0, 0]
        assert loss(worse, target).item() > loss(logits, target).item() + 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 3.0]])
def test_cross_entropy_equals_torch(smoothing, weights):
    logits, target = batch(dtype=torch.float32)
    peer = F.cross_entropy(
        logits, target, torch.tensor(weights) if weights else None, ignore_index=IGNORE, label_smoothing=smoothing
    )
    ours = build_loss({"name": "cross_entropy", "label_smoothing": smoothing, "class_weights": weights}, C)(
        logits, target
    )
    torch.testing.assert_close(ours, peer)


def test_smoothed_cross_entropy_trains():
    """The original computed it under no_grad: 0.6 CE + 0.4 Dice trained Dice alone."""
    logits, target = batch()
    both = build_loss(
        {"terms": [{"name": "cross_entropy", "weight": 0.6, "label_smoothing": 0.1}, {"name": "dice", "weight": 0.4}]},
        C,
    )
    dice = build_loss({"terms": [{"name": "dice", "weight": 0.4}]}, C)
    gradients = []
    for loss in (both, dice):
        x = logits.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(x, target), x)[0])
    assert (gradients[0] - gradients[1]).abs().max() > 0.1 * gradients[1].abs().max()


def test_each_term_reaches_the_logits_and_is_logged():
    logits, target = batch()
    terms = [{"name": "cross_entropy"}, {"name": "dice", "weight": 2.0}, {"name": "dice", "smooth": 0.0}]
    loss = build_loss({"terms": terms}, C)
    value = loss(logits.requires_grad_(), target)
    assert list(loss.parts) == ["cross_entropy", "dice", "dice_2"]
    assert all(not p.requires_grad for p in loss.parts.values())
    parts = [loss.parts[k].item() for k in loss.parts]
    assert value.item() == pytest.approx(parts[0] + 2 * parts[1] + parts[2])
    assert parts[0] == pytest.approx(build_loss("cross_entropy", C)(logits, target).item())
    for i in range(3):
        alone = build_loss({"terms": terms, "weights": [float(i == j) for j in range(3)]}, C)
        x = logits.detach().clone().requires_grad_()
        alone(x, target).backward()
        assert x.grad.abs().sum() > 0 and len(alone.parts) == 1  # a term of weight 0 is not computed
    single = build_loss("dice", C)
    single(logits, target)
    assert list(single.parts) == ["dice"]


@pytest.mark.parametrize("spec", SPECS, ids=ids)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_stay_finite_on_a_large_map(spec, dtype):
    logits = torch.full((1, C, 1024, 1024), -8.0, dtype=dtype)
    logits[:, 1] = 8.0
    target = torch.zeros(1, 1024, 1024, dtype=torch.long)
    target[:, 512:] = 1
    loss = build_loss(spec, C)
    value = loss(logits, target)
    assert value.dtype == torch.float32 and torch.isfinite(value)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(logits, target).item() == pytest.approx(value.item(), rel=1e-6)


def test_refusals():
    for spec, word in [
        ("dyce", "dice"),
        ({"name": "dice", "smoth": 1}, "smooth"),
        ({"terms": []}, "terms"),
        ({"terms": [{"name": "dice", "weight": 0}]}, "not all 0"),
        ({"terms": [{"name": "dice", "weight": -1}]}, ">= 0"),
        ({"terms": [{"name": "dice"}], "weights": [1, 2]}, "weights"),
        ({"name": "cross_entropy", "class_weights": [1, 2]}, "4 numbers"),
        ({"name": "cross_entropy", "label_smoothing": 1.5}, "label_smoothing"),
        ({"name": "dice", "smooth": -1}, "smooth"),
    ]:
        with pytest.raises(ValueError, match=word):
            build_loss(spec, C)


def test_what_a_loss_owns_moves_with_it():
    loss = build_loss({"terms": [{"name": "cross_entropy", "class_weights": [1, 2, 3, 4]}]}, C)
    assert [b.tolist() for b in loss.to(torch.float64).buffers()] == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_option_has_a_type_and_a_default(name):
    for option in loss_options(name).values():
        assert not isinstance(option.annotation, str) and option.default is not option.empty
