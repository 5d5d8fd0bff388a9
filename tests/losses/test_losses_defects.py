"""The mistakes in the originals' losses (docs/differences.md).

Every test computes a loss as the original does (`..._of_a` is system A's, and so on), shows what is wrong with it, and
checks that ours does not have the mistake.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from losses import build_loss
from tests.losses.test_losses import perfect
from tests.losses.test_losses_formulas import five_map_ssim, slow_lovasz


def few_classes(classes: int = 19, present: int = 5, size: int = 20) -> torch.Tensor:
    """A target of `present` vertical stripes, so that most of the classes are absent."""
    return (torch.arange(size) * present // size).expand(2, size, size).clone()


def one_hot(target: torch.Tensor, classes: int) -> torch.Tensor:
    return F.one_hot(target, classes).permute(0, 3, 1, 2).double()


# --- A ----------------------------------------------------------------------------------------------------------------


def test_a_lovasz_divides_present_classes_by_all():
    """An all-wrong prediction must cost 1 whichever classes are present. The original, and our option, give 2 / 7."""
    target = few_classes(7, 2)
    wrong = perfect((target + 1) % 2, 7, 200.0)
    original = slow_lovasz(wrong.double(), target, divide_by="all")
    assert original == pytest.approx(2 / 7, rel=1e-5)
    assert build_loss("lovasz", 7)(wrong, target).item() == pytest.approx(1.0, rel=1e-5)
    named = build_loss({"name": "lovasz", "divide_by": "all"}, 7)(wrong, target)
    assert named.item() == pytest.approx(original, rel=1e-5)


def test_a_ssim_counts_ignored_pixels_as_perfect():
    """The original sets prediction and target to 0 at ignored pixels, which scores 1 there. The more pixels are
    ignored, the less the same mistakes cost."""

    def ssim_of_a(logits, target):
        known = (target != 255).unsqueeze(1)
        p, q = logits.softmax(1) * known, one_hot(target.masked_fill(target == 255, 0), 4) * known
        line = torch.exp(-((torch.arange(11).double() - 5) ** 2) / 4.5)
        window = (line[:, None] * line / line.sum() ** 2).expand(4, 1, 11, 11)
        blur = lambda x: F.conv2d(F.pad(x, [5] * 4, mode="reflect"), window, groups=4)  # noqa: E731
        mp, mq = blur(p), blur(q)
        alike = (2 * mp * mq + 1e-4) * (2 * (blur(p * q) - mp * mq) + 9e-4)
        return 1 - (alike / ((mp**2 + mq**2 + 1e-4) * (blur(p * p) - mp**2 + blur(q * q) - mq**2 + 9e-4))).mean()

    g = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (1, 32, 32), generator=g)
    logits = torch.randn(1, 4, 32, 32, generator=g).double()
    half = target.clone()
    half[:, :, 16:] = 255
    ours = build_loss("ssim", 4)
    assert five_map_ssim(logits, target, 4).item() == pytest.approx(ssim_of_a(logits, target).item(), rel=1e-6)
    assert ssim_of_a(logits, half) < 0.7 * ssim_of_a(logits, target)  # ignoring half of the mistakes is rewarded
    assert ours(logits, half).item() == pytest.approx(ours(logits, target).item(), rel=0.1)  # other pixels, same kind
    left = build_loss("ssim", 4)(logits[..., :16], target[..., :16]).item()
    assert ours(logits, half).item() == pytest.approx(left, rel=0.05)  # apart from the reflection


def test_a_soft_iou_charges_absent_classes():
    def iou_of_a(logits, target):
        p, q = logits.double().softmax(1), one_hot(target, 19)
        overlap, union = (p * q).sum((2, 3)), (p + q - p * q).sum((2, 3))
        return 1 - ((overlap + 1e-6) / (union + 1e-6)).mean()

    target = few_classes()
    sure = perfect(target, 19, 16.0)  # 1 - p is about 2e-6: as good as a network gets
    assert iou_of_a(sure, target) > 0.7
    assert build_loss("iou", 19)(sure, target) < 1e-4
    named = build_loss({"name": "iou", "absent": "zero"}, 19)(sure, target)
    assert named.item() == pytest.approx(14 / 19, abs=1e-4)


@pytest.mark.parametrize("spec", ["ssim", {"name": "focal", "class_weights": [1.0, 2.0]}])
def test_a_moves_tensors_to_cuda_in_the_constructor(spec):
    """The original calls .cuda() in its constructor, so a CPU cannot build it. Our buffers follow .to()."""
    with pytest.raises((RuntimeError, AssertionError)):  # the original's line, where there is no such device
        torch.zeros(1).to("cuda:99")
    loss = build_loss(spec, 2)
    assert {b.device.type for b in loss.buffers()} == {"cpu"}
    assert {b.device.type for b in loss.to("meta").buffers()} == {"meta"}


def test_a_ssim_window_is_resized_in_forward():
    """The original's window grows to (C, 1, 11, 11) in its first forward; a state saved after that does not load."""

    class WindowOfA(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("window", torch.ones(1, 1, 11, 11))

        def forward(self, p):
            if self.window.shape[0] != p.shape[1]:
                self.window = self.window.expand(p.shape[1], 1, 11, 11).contiguous()

    original = WindowOfA()
    original(torch.zeros(1, 4, 8, 8))
    with pytest.raises(RuntimeError, match="size mismatch"):
        WindowOfA().load_state_dict(original.state_dict())
    ours = build_loss("ssim", 4)
    before = {k: v.shape for k, v in ours.named_buffers()}
    ours(torch.zeros(1, 4, 8, 8), torch.zeros(1, 8, 8).long())
    assert before and before == {k: v.shape for k, v in ours.named_buffers()}
    build_loss("ssim", 4).load_state_dict(ours.state_dict())


# --- B ----------------------------------------------------------------------------------------------------------------


def dice_of_b(logits, target, classes: int, reduction="sum") -> torch.Tensor:
    """F1 over the batch. One-hot rows of ignored pixels are 0, but their softmax counts; absent classes cost 1."""
    p, known = logits.double().softmax(1), (target != 255).unsqueeze(1)
    q = one_hot(target.masked_fill(target == 255, 0), classes) * known
    tp, fp, fn = (p * q).sum((0, 2, 3)), (p * (1 - q)).sum((0, 2, 3)), ((1 - p) * q).sum((0, 2, 3))
    cost = 1 - (2 * tp + 1e-7) / (2 * tp + fn + fp + 1e-7)
    return cost.sum() if reduction == "sum" else cost.mean()


def test_b_dice_counts_ignored_pixels_as_false():
    target = few_classes(5)
    target[:, :10] = 255
    sure = perfect(target, 5, 50.0)  # right wherever there is a label; elsewhere it says class 0
    assert dice_of_b(sure, target, 5) > 0.2
    assert build_loss({"name": "dice", "smooth": 1e-7, "reduction": "sum"}, 5)(sure, target).item() < 1e-5


def test_b_dice_charges_an_absent_class_with_1():
    target = few_classes()
    sure = perfect(target, 19, 16.0)
    original = dice_of_b(sure, target, 19)
    assert original == pytest.approx(14.0, abs=0.1)
    spec = {"name": "dice", "smooth": 1e-7, "reduction": "sum"}
    assert build_loss(spec, 19)(sure, target).item() < 1e-3
    named = build_loss({**spec, "absent": "zero"}, 19)(sure, target)
    assert named.item() == pytest.approx(original.item(), abs=0.1)


# --- D ----------------------------------------------------------------------------------------------------------------


def test_d_smoothed_cross_entropy_has_no_gradient():
    """The original computes it under no_grad, so 0.6 of it + 0.4 Dice trains only Dice."""

    def smoothed_of_d(logits, target):
        with torch.no_grad():
            log_p = logits.log_softmax(1)
            q = one_hot(target, 5) * 0.9 + 0.02
        return -(q * log_p).sum(1).mean()

    g = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 5, 8, 8, generator=g, dtype=torch.float64), few_classes(5, size=8)
    logits.requires_grad_()
    smoothed, dice = build_loss({"name": "cross_entropy", "label_smoothing": 0.1}, 5), build_loss("dice", 5)
    assert smoothed(logits, target).item() == pytest.approx(smoothed_of_d(logits, target).item(), rel=1e-9)
    gradient = lambda value: torch.autograd.grad(value, logits)[0]  # noqa: E731
    of_dice = gradient(0.4 * dice(logits, target))
    assert torch.equal(gradient(0.6 * smoothed_of_d(logits, target) + 0.4 * dice(logits, target)), of_dice)
    terms = [{"name": "cross_entropy", "label_smoothing": 0.1, "weight": 0.6}, {"name": "dice", "weight": 0.4}]
    of_both = gradient(build_loss({"terms": terms}, 5)(logits, target))
    assert torch.allclose(of_both, of_dice + 0.6 * gradient(smoothed(logits, target)))
    assert (of_both - of_dice).abs().max() > 0.1 * of_dice.abs().max()


def test_d_dice_of_a_perfect_prediction():
    """With 5 of 19 classes present the original costs .737, because 14 absent classes score 0."""

    def dice_of_d(logits, target):
        p, q, scores = logits.softmax(1), one_hot(target, 19), 0.0
        for k in range(19):
            if (target == k).any():
                overlap = (p[:, k] * q[:, k]).sum()
                scores += (2 * overlap + 1) / (p[:, k].sum() + q[:, k].sum() + 1)
        return 1 - scores / 19

    target = few_classes()
    sure = perfect(target, 19)
    assert dice_of_d(sure, target) == pytest.approx(0.737, abs=5e-4)
    assert build_loss("dice", 19)(sure, target).item() == pytest.approx(0.0, abs=1e-6)
    g = torch.Generator().manual_seed(0)
    some = torch.randn(2, 19, 20, 20, generator=g).double()
    for logits in (sure, some):  # the named option
        named = build_loss({"name": "dice", "smooth": 1.0, "absent": "zero"}, 19)(logits, target)
        assert named.item() == pytest.approx(dice_of_d(logits, target).item(), rel=1e-5)
