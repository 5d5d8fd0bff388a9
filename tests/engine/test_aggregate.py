"""Averaging: arithmetic, refusals, BatchNorm re-estimation, and which members each candidate has."""

import math

import pytest
import torch
from torch import nn

from common.errors import UserError
from engine.checkpoint import state_hash
from engine.folds import aggregate
from engine.folds.aggregate import average, make_candidates, parse_name, softmax_weights
from engine.folds.batchnorm import reestimate_batchnorm


def small_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def state_of(seed: int) -> dict:
    return {k: v.clone() for k, v in small_network(seed).state_dict().items()}


def test_mean_of_copies_is_the_copy_to_the_last_bit():
    state = state_of(0)
    for k in (1, 2, 3, 5, 7):
        assert state_hash(average([state] * k)) == state_hash(state)


def test_mean_is_float64_and_counts_take_the_largest():
    big, small = {"w": torch.tensor([1e8]), "n": torch.tensor(7)}, {"w": torch.tensor([1.0]), "n": torch.tensor(9)}
    out = average([big, small, small])
    assert out["w"].dtype == torch.float32
    assert out["w"].item() == torch.tensor((1e8 + 2) / 3, dtype=torch.float64).float().item()
    assert out["n"].item() == 9


def test_weighted_mean_by_hand():
    a, b = {"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, 0.0])}
    assert average([a, b], [0.25, 0.75])["w"].tolist() == [6.0, 1.0]
    for bad in ([0.5, 0.6], [1.5, -0.5], [1.0]):
        with pytest.raises(ValueError):
            average([a, b], bad)


def test_different_networks_are_refused():
    a = state_of(0)
    with pytest.raises(UserError, match="extra"):
        average([a, {**a, "extra": torch.zeros(1)}])
    with pytest.raises(UserError, match="shapes"):
        average([a, {**a, "0.bias": torch.zeros(5)}])


def test_different_starts_and_classes_are_refused():
    member = {"class_names": ["a", "b"], "init_hash": "x"}
    assert aggregate.require_common_start([member, dict(member)], allow_unconnected=False)
    other = {**member, "init_hash": "y"}
    with pytest.raises(UserError, match="same weights"):
        aggregate.require_common_start([member, other], allow_unconnected=False)
    assert not aggregate.require_common_start([member, other], allow_unconnected=True)
    with pytest.raises(UserError, match="classes"):
        aggregate.require_common_start([member, {**member, "class_names": ["a", "c"]}], allow_unconnected=True)


def test_weights_follow_points():
    weights = softmax_weights([0.60, 0.61, 0.60])
    assert sum(weights) == pytest.approx(1) and weights[1] / weights[0] == pytest.approx(math.e)


def test_distance_over_trained_tensors_only():
    a, b = state_of(0), state_of(0)
    b["0.bias"] = b["0.bias"] + 3.0
    b["1.running_mean"] = b["1.running_mean"] + 100
    names = [n for n, _ in small_network(0).named_parameters()]
    assert aggregate.distance(a, b, names) == pytest.approx(6.0)  # sqrt(4 * 9)


def test_batchnorm_is_the_plain_mean_over_batches_and_all_else_stays():
    model = nn.Sequential(small_network(0), nn.Dropout(0.5))
    model.train()
    momentum = model[0][1].momentum
    before = {k: v.clone() for k, v in model.state_dict().items()}
    batches = [(torch.randn(8, 3, 6, 6) * (i + 1), None) for i in range(3)]
    assert reestimate_batchnorm(model, batches, torch.device("cpu")) == 24
    inputs = [model[0][0](x) for x, _ in batches]
    want_mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    want_var = torch.stack([x.var((0, 2, 3), unbiased=True) for x in inputs]).mean(0)
    after = model.state_dict()
    torch.testing.assert_close(after["0.1.running_mean"], want_mean)
    torch.testing.assert_close(after["0.1.running_var"], want_var)
    assert after["0.1.num_batches_tracked"] == 3
    for key in before:
        if "running" not in key and "tracked" not in key:
            assert torch.equal(before[key], after[key])
    assert model[0][1].momentum == momentum and model.training and model[1].training


def test_dropout_stays_off_while_batchnorm_is_re_estimated():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1, affine=False))
    reestimate_batchnorm(model, [(torch.ones(8, 1, 4, 4), None)], torch.device("cpu"))
    assert model[1].running_mean.item() == 1.0 and model[1].running_var.item() == 0.0


def test_names():
    assert parse_name("top3", 5) == ("top3", 3)
    assert parse_name("top9", 5) == ("top9", 5)
    for bad in ("top0", "top-1", "top", "median", ""):
        with pytest.raises(UserError, match="--aggregate"):
            parse_name(bad, 5)


def candidates(mious, values, best_at=None, **options):
    """Candidates over one-number networks; `select` scores a network by its closeness to best_at."""
    states = [{"w": torch.tensor([float(v)])} for v in values]
    target = best_at if best_at is not None else 0.0

    def score(networks):
        return 1 - abs(networks[0]["w"].item() - target)

    calls = []

    def refit(state, members):
        calls.append(tuple(members))
        return state

    found = {c.name: c for c in make_candidates(states, mious, refit, score, **options)}
    return found, calls


def test_candidates_and_their_members():
    found, _ = candidates([0.5, 0.7, 0.6, 0.4, 0.65], [0, 1, 2, 3, 4], best_at=99)
    assert list(found) == ["best", "mean", "top3", "greedy", "weighted", "ensemble"]
    assert found["best"].members == [1]
    assert found["mean"].members == [0, 1, 2, 3, 4] and found["mean"].states[0]["w"].item() == 2.0
    assert found["top3"].members == [1, 2, 4] and found["top3"].states[0]["w"].item() == pytest.approx(7 / 3)
    assert len(found["ensemble"].states) == 5
    assert found["best"].raw is None and found["ensemble"].raw is None and found["mean"].raw is not None
    extra, _ = candidates([0.5, 0.7, 0.6, 0.4, 0.65], [0, 1, 2, 3, 4], top="top2")
    assert extra["top2"].members == [1, 4]


def test_k_is_clamped_to_the_folds():
    found, _ = candidates([0.5, 0.7], [0, 1])
    assert found["top3"].members == [0, 1] and "clamped" in found["top3"].notes[0]


def test_greedy_keeps_only_what_does_not_hurt():
    # The best fold stands at 1.0; adding the second (1.2) moves the mean nearer to 1.1, the third (9) away from it.
    found, _ = candidates([0.90, 0.85, 0.80], [1.0, 1.2, 9.0], best_at=1.1)
    assert found["greedy"].members == [0, 1]
    alone, _ = candidates([0.999, 0.5, 0.4], [1.1, 5.0, 9.0], best_at=1.1)
    assert alone["greedy"].members == [0] and alone["greedy"].raw is None  # nothing averaged, nothing re-estimated


def test_a_fold_without_a_score_ranks_last_and_weighs_nothing():
    nan = math.nan
    found, _ = candidates([nan, 0.5, nan, 0.7], [9.0, 1.2, 8.0, 1.0], best_at=1.1)
    assert found["best"].members == [3] and found["greedy"].members == [1, 3]
    assert found["top3"].members == [0, 1, 3]  # the two with a score, then the first without
    assert found["weighted"].weights[0] == found["weighted"].weights[2] == 0.0
    assert sum(found["weighted"].weights) == pytest.approx(1) and found["weighted"].weights[3] > 0.5


def test_if_no_fold_has_a_score_the_first_is_best():
    found, _ = candidates([math.nan] * 3, [1.0, 2.0, 3.0], best_at=math.nan)
    assert found["best"].members == [0] and found["greedy"].members == [0]
    assert found["weighted"].weights == pytest.approx([1 / 3] * 3)


def test_batchnorm_is_re_estimated_for_every_average_and_for_its_members_only():
    _, calls = candidates([0.5, 0.7, 0.6, 0.4], [0, 1, 2, 3], best_at=99)
    assert (0, 1, 2, 3) in calls and (0, 1, 2) in calls
    assert all(len(c) > 1 for c in calls)
