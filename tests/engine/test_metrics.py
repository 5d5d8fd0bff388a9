"""Metrics against matrices computed by hand, and identities between metrics."""

import math

import numpy as np
import pytest
import torch

from engine.evaluation.paired_bootstrap import bootstrap_difference
from engine.evaluation.scores import Score, scores
from engine.metrics import ConfusionMatrix, best_first, worst_if_nan


def from_counts(rows) -> ConfusionMatrix:
    confusion = ConfusionMatrix(len(rows))
    confusion.counts[:, :-1] = torch.tensor(rows)
    return confusion


def test_by_hand():
    c = from_counts([[3, 1, 0], [0, 4, 0], [2, 0, 0]])
    assert c.iou().tolist() == pytest.approx([3 / 6, 4 / 5, 0.0])
    assert c.miou() == pytest.approx((0.5 + 0.8 + 0) / 3)  # present but missed counts as 0
    assert c.pixel_accuracy() == pytest.approx(7 / 10)
    assert c.mean_accuracy() == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert c.dice().tolist() == pytest.approx([6 / 9, 8 / 9, 0.0])
    assert c.frequency_weighted_iou() == pytest.approx(0.4 * 0.5 + 0.4 * 0.8)
    assert c.miou(exclude=[2]) == pytest.approx(0.65)
    assert c.mean_accuracy(exclude=[1]) == pytest.approx((3 / 4 + 0) / 2)
    assert c.mean_dice(exclude=[0]) == pytest.approx((8 / 9 + 0) / 2)


def test_absent_class_by_each_rule():
    c = from_counts([[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    assert math.isnan(c.iou()[2])
    assert c.miou("nan") == 1.0
    assert c.miou("zero") == pytest.approx(2 / 3)
    assert c.miou("one") == 1.0
    with pytest.raises(ValueError, match="absent"):
        c.miou("maybe")


def test_update_counts_like_a_slow_loop():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 4, (2, 9, 7))
    target[rng.random(target.shape) < 0.2] = 255
    pred = rng.integers(0, 4, target.shape)
    want = np.zeros((4, 4), int)
    for t, p in zip(target.ravel(), pred.ravel()):
        if t != 255:
            want[t, p] += 1
    c = ConfusionMatrix(4)
    c.update(torch.from_numpy(pred), torch.from_numpy(target))
    assert c.matrix.tolist() == want.tolist()
    assert c.matrix.dtype == torch.int64


def test_batches_merge_and_reset():
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randint(5, (6, 8, 8), generator=generator) for _ in range(2))
    whole, parts, other = ConfusionMatrix(5), ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(pred, target)
    for i in range(3):
        parts.update(pred[i], target[i])
    other.update(pred[3:], target[3:])
    parts.merge(other)
    assert torch.equal(parts.counts, whole.counts)
    parts.reset()
    assert parts.counts.sum() == 0
    with pytest.raises(ValueError):
        parts.merge(ConfusionMatrix(4))


def test_prediction_outside_the_classes_is_a_miss_in_no_column():
    c = ConfusionMatrix(3)
    c.update(torch.tensor([0, 7, -1, 255]), torch.tensor([0, 1, 1, 255]))
    assert c.matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert c.counts.sum() == 3  # both stay in the row total
    assert c.pixel_accuracy() == pytest.approx(1 / 3)
    assert c.iou()[:2].tolist() == [1.0, 0.0]


def test_label_outside_the_table_is_refused():
    with pytest.raises(ValueError, match=r"\[3, 9\]"):
        ConfusionMatrix(3).update(torch.zeros(4, dtype=torch.long), torch.tensor([0, 3, 9, 255]))
    with pytest.raises(ValueError, match="shape"):
        ConfusionMatrix(3).update(torch.zeros(4), torch.zeros(5))


def test_nothing_labelled():
    c = ConfusionMatrix(3)
    c.update(torch.zeros(4, dtype=torch.long), torch.full((4,), 255))
    assert math.isnan(c.miou()) and math.isnan(c.pixel_accuracy()) and math.isnan(c.frequency_weighted_iou())
    assert c.miou("zero") == 0.0


def test_bootstrap_against_a_slow_loop():
    generator = torch.Generator().manual_seed(3)
    sides = []
    for side in range(2):
        matrices = []
        for _ in range(6):
            c = ConfusionMatrix(3)
            target = torch.randint(3, (200,), generator=generator)
            noise = torch.rand(200, generator=generator) < (0.5 if side == 0 else 0.2)
            c.update(torch.where(noise, torch.randint(3, (200,), generator=generator), target), target)
            matrices.append(c)
        sides.append(matrices)
    found = bootstrap_difference(*sides, samples=200, seed=1)

    def total(matrices):
        c = ConfusionMatrix(3)
        for m in matrices:
            c.merge(m)
        return c.miou()

    assert found["difference"] == pytest.approx(total(sides[1]) - total(sides[0]))
    draws = torch.randint(6, (200, 6), generator=torch.Generator().manual_seed(1)).tolist()
    slow = [total([sides[1][g] for g in d]) - total([sides[0][g] for g in d]) for d in draws]
    assert [found["low"], found["high"]] == pytest.approx(np.quantile(slow, [0.025, 0.975]).tolist())
    assert 0 < found["low"] < found["difference"] < found["high"]


def test_bootstrap_uses_one_set_of_classes():
    """A class only one side predicts counts 0 for the other, so that both means run over the same classes."""
    target = torch.tensor([0, 0, 1, 1])
    a, b = ConfusionMatrix(3), ConfusionMatrix(3)
    a.update(torch.tensor([0, 0, 1, 1]), target)
    b.update(torch.tensor([0, 2, 1, 1]), target)
    found = bootstrap_difference([a, a], [b, b], samples=10)
    assert found["difference"] == pytest.approx((0.5 + 1 + 0) / 3 - (1 + 1 + 0) / 3)
    found = bootstrap_difference([a, a], [b, b], samples=10, exclude=[0])
    assert found["difference"] == pytest.approx((1 + 0) / 2 - (1 + 0) / 2) and found["low"] == found["high"] == 0


@pytest.mark.parametrize("absent", ["nan", "zero", "one"])
def test_the_bootstraps_difference_is_that_of_the_means(absent):
    """A class that occurs nowhere, under each rule; class 2 is in both."""
    a = [from_counts([[3, 1, 0, 0], [0, 4, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])] * 2
    b = [from_counts([[4, 0, 0, 0], [1, 3, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]])] * 2
    found = bootstrap_difference(a, b, samples=5, absent=absent)
    assert found["difference"] == pytest.approx(b[0].miou(absent) - a[0].miou(absent), abs=1e-12)
    found = bootstrap_difference(a, b, samples=5, absent=absent, exclude=[0])
    assert found["difference"] == pytest.approx(b[0].miou(absent, [0]) - a[0].miou(absent, [0]), abs=1e-12)


def test_rankings_put_undefined_scores_last():
    nan = float("nan")
    assert best_first([nan, 0.2, None, 0.5, 0.5, 0.0]) == [3, 4, 1, 5, 0, 2]
    assert best_first([nan, nan]) == [0, 1] and worst_if_nan(nan) == worst_if_nan(None) == -math.inf


def test_an_undefined_difference_has_no_interval():
    """Two networks on images of the excluded class alone: no class is left for either mean."""
    parts = []
    for pixels in (3, 5):
        m = ConfusionMatrix(2)
        m.update(torch.zeros(pixels), torch.zeros(pixels))
        parts.append(m)
    assert bootstrap_difference(parts, parts, exclude=[0]) is None
    assert bootstrap_difference(parts, parts) == {"difference": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize(("void", "exclude", "expected"), [
    ("ignore", [], [1.0, 1 / 4, None]),  # the second image: a is missed, b half right
    ("error", [], [1 / 2, 1 / 4, 0.0]),  # the first: a right, b false on void
    ("ignore", ["a"], [None, 1 / 2, None]),
    ("error", ["a"], [0.0, 1 / 2, 0.0]),
])  # fmt: skip
@pytest.mark.parametrize("absent", ["nan", "zero", "one"])
def test_scores_of_single_images_follow_the_rules_of_the_set(void, exclude, expected, absent):
    """By hand. Classes that an image lacks are left out of its own mean under every rule eval.absent."""
    images = [([0, 1], [0, 255]), ([1, 1], [1, 0]), ([2, 2], [255, 255])]  # (prediction, target)
    score = Score(ConfusionMatrix(3, void=void))
    for i, (pred, target) in enumerate(images):
        score.add_image(str(i), "g", torch.tensor([pred]), torch.tensor([target]))
    result = scores(score, ["a", "b", "c"], absent, exclude)
    assert result["per_image"]["miou"] == pytest.approx(expected)
    known = [v for v in expected if v is not None]
    assert result["miou_per_image"] == pytest.approx(sum(known) / len(known))
