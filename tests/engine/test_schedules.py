"""Schedules against torch's own and against their formulas."""

import copy

import pytest
import torch

from engine.config.keys import OptimConfig, ScheduleConfig
from engine.training.optim import build_optimizer, load_state, parameter_groups, set_lr
from engine.training.schedules import SCHEDULES, Plateau, factor
from models import build_model

ITERS, EPOCH = 100, 10


def curve(**options) -> list[float]:
    s = ScheduleConfig(**options)
    return [factor(s, i, ITERS, EPOCH) for i in range(ITERS)]


def torch_curve(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, out = make(optimizer), []
    for _ in range(ITERS):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out


def test_poly_and_cosine_equal_torch():
    torch_s = torch.optim.lr_scheduler
    assert curve(name="poly", power=0.9) == pytest.approx(torch_curve(lambda o: torch_s.PolynomialLR(o, ITERS, 0.9)))
    want = torch_curve(lambda o: torch_s.CosineAnnealingLR(o, ITERS, eta_min=0.05))
    assert curve(name="cosine", min_factor=0.05) == pytest.approx(want)


def test_warm_restarts_equal_torch():
    """T0 = 3 epochs of 10 iterations, then twice as long: torch's, stepped per iteration."""
    torch_s = torch.optim.lr_scheduler
    want = torch_curve(lambda o: torch_s.CosineAnnealingWarmRestarts(o, T_0=30, T_mult=2))
    assert curve(name="warm_restarts", cycle=3, cycle_mult=2) == pytest.approx(want)


def test_exponential_falls_once_an_epoch():
    c = curve(name="exponential", gamma=0.9)
    assert c[:10] == [1.0] * 10 and c[10] == pytest.approx(0.9) and c[95] == pytest.approx(0.9**9)


def test_one_cycle_reaches_the_top_and_ends_at_the_bottom():
    """The original stepped it once an epoch with a total in iterations: it never left the warm-up."""
    c = curve(name="one_cycle", percent_up=0.3)
    assert c[0] == pytest.approx(0.04) and c[30] == pytest.approx(1.0) and c[-1] < 0.01
    assert c[:31] == sorted(c[:31]) and c[30:] == sorted(c[30:], reverse=True)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warm_up_is_linear_and_comes_before_every_schedule(name):
    s = ScheduleConfig(name=name, warmup_iters=20, warmup_factor=0.1)
    rise = [factor(s, i, ITERS, EPOCH) for i in range(20)]
    assert rise[0] == pytest.approx(0.1) and rise[10] == pytest.approx(0.55)
    after = factor(s, 20, ITERS, EPOCH)
    assert after == pytest.approx(1.0 if name != "one_cycle" else 0.04)
    assert all(0 <= factor(s, i, ITERS, EPOCH) <= 1 for i in range(ITERS + 5))


def test_plateau_counts_like_torch():
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, threshold=0)
    ours, s = Plateau(), ScheduleConfig(name="plateau", factor=0.5)
    for loss in losses:
        peer.step(loss)
        ours.step(loss, patience=2)
        assert factor(s, 50, ITERS, EPOCH, ours.drops) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.drops >= 2


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.head = torch.nn.Conv2d(4, 2, 1)


def test_groups_separate_head_and_decay_and_hold_every_parameter_once():
    model = Toy()
    groups = parameter_groups(model, OptimConfig(lr=1.0, head_lr_factor=10, weight_decay=0.1))
    found = {(g["lr_factor"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {(1.0, 0.1): 1, (1.0, 0.0): 3, (10, 0.1): 1, (10, 0.0): 1}
    flat = [id(p) for g in groups for p in g["params"]]
    assert sorted(flat) == sorted(id(p) for p in model.parameters())
    everything = parameter_groups(model, OptimConfig(weight_decay=0.1, decay_norms=True))
    assert {g["weight_decay"] for g in everything} == {0.1}


def test_swins_relative_position_biases_are_not_decayed():
    with torch.device("meta"):
        model = build_model("segformer_swin_t", 3)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, OptimConfig(weight_decay=0.1))
    free = [names[id(p)] for g in groups if g["weight_decay"] == 0 for p in g["params"]]
    assert len([name for name in free if name.endswith("relative_position_bias_table")]) == 12


class Windowed(Toy):
    def __init__(self):
        super().__init__()
        self.encoder.relative_position_bias_table = torch.nn.Parameter(torch.ones(9, 2))

    def forward(self, x):
        return self.head(self.encoder(x)) * self.encoder.relative_position_bias_table.sum()


def steps(model, optimizer, n):
    for i in range(n):
        optimizer.zero_grad()
        model(torch.full((1, 3, 8, 8), 0.1 * (i + 1))).square().mean().backward()
        optimizer.step()


def test_a_run_that_began_with_decayed_tables_goes_on_as_it_began(capsys):
    """As a kill would cut it: 2 steps, saved, 2 more in another process, against 4 steps without a break."""
    cfg = OptimConfig(name="adamw", lr=0.01, weight_decay=0.5)
    states = []
    for cut in (False, True):
        torch.manual_seed(0)
        model = Windowed()
        optimizer = torch.optim.AdamW(parameter_groups(model, cfg, decay_tables=True), lr=cfg.lr)
        steps(model, optimizer, 2)
        if cut:
            saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
            model = Windowed()
            model.load_state_dict(weights)
            optimizer = build_optimizer(model, cfg)
            load_state(optimizer, saved, model, cfg)
            assert "decays Swin's relative position biases" in capsys.readouterr().err
        steps(model, optimizer, 2)
        states.append(model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


def test_a_new_run_resumes_without_a_warning(capsys):
    model, cfg = Windowed(), OptimConfig(name="adamw", weight_decay=0.5)
    optimizer = build_optimizer(model, cfg)
    steps(model, optimizer, 1)
    again = build_optimizer(model, cfg)
    load_state(again, optimizer.state_dict(), model, cfg)
    assert [g["weight_decay"] for g in again.param_groups] == [g["weight_decay"] for g in optimizer.param_groups]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimisers_and_their_options(name):
    optimizer = build_optimizer(Toy(), OptimConfig(name=name, lr=0.1, head_lr_factor=10, amsgrad=True, nesterov=True))
    set_lr(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.5, 5.0}
    assert optimizer.param_groups[0].get("amsgrad", True) and optimizer.param_groups[0].get("nesterov", True)
