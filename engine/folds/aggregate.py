"""Average the weights of trained folds, in several ways: best, mean, topK, greedy soup, weighted, ensemble.

Averaging works for networks that share a starting point and stayed in one basin (Izmailov et al., SWA, arXiv
1803.05407; Frankle et al., linear mode connectivity, 1912.05671; Wortsman et al., model soups, 2203.05482). So members
must carry the hash of the same starting weights. The arithmetic is float64 on the CPU. An average needs BatchNorm
statistics of its own (engine/folds/batchnorm.py). See docs/averaging.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from common.errors import UserError
from engine import checkpoint as ckpt
from engine.metrics import best_first, worst_if_nan

State = dict[str, Tensor]


# --- arithmetic ----------------------------------------------------------------------------------------------------


def average(states: Sequence[State], weights: Sequence[float] | None = None) -> State:
    """Weighted mean of state dicts (weights sum to 1; default: equal), in float64, cast back to each tensor's type.

    Integer and boolean buffers (`num_batches_tracked`) are counts: the largest is kept. Raises: UserError where keys or
    shapes differ, or a weight is NaN or inf.
    """
    weights = list(weights) if weights is not None else [1 / len(states)] * len(states)
    if len(weights) != len(states) or abs(sum(weights) - 1) > 1e-9 or min(weights) < 0:
        raise ValueError(f"weights must be {len(states)} non-negative numbers that sum to 1, got {weights}")
    first = states[0]
    for i, state in enumerate(states):
        ckpt.require_finite(state, f"member {i} cannot be averaged")
    for i, state in enumerate(states[1:], 1):
        if state.keys() != first.keys():
            odd = sorted(state.keys() ^ first.keys())
            raise UserError(f"members 0 and {i} cannot be averaged: only one of them has {', '.join(odd[:3])}")
        for key in first:
            if state[key].shape != first[key].shape:
                shapes = f"{tuple(first[key].shape)} and {tuple(state[key].shape)}"
                raise UserError(f"members 0 and {i} cannot be averaged: {key} has shapes {shapes}")
    out: State = {}
    for key, tensor in first.items():
        if tensor.is_floating_point():
            out[key] = sum(w * s[key].double() for w, s in zip(weights, states)).to(tensor.dtype)
        else:
            out[key] = torch.stack([s[key] for s in states]).amax(0)
    return out


def softmax_weights(select_mious: Sequence[float]) -> list[float]:
    """Weights proportional to exp(mIoU in points): a fold one point better counts e times as much.

    A fold whose mIoU is undefined gets weight 0; if all are undefined, all weigh the same.
    """
    points = [100 * worst_if_nan(m) for m in select_mious]
    if max(points) == -math.inf:
        return [1 / len(points)] * len(points)
    powers = [math.exp(p - max(points)) for p in points]
    return [p / sum(powers) for p in powers]


def distance(a: State, b: State, trained: Sequence[str]) -> float:
    """Euclidean distance of two networks over the tensors named in `trained` (parameters, not running statistics)."""
    return math.sqrt(sum((a[k].double() - b[k].double()).square().sum().item() for k in trained))


def require_common_start(members: Sequence[dict], allow_unconnected: bool) -> bool:
    """Check that members (checkpoints) have the same classes and the same starting weights; returns whether they do.

    Raises: UserError for other classes, and for other starts unless allow_unconnected (a run with cv.start=none).
    """
    names = [list(m["class_names"]) for m in members]
    if any(n != names[0] for n in names):
        raise UserError("members cannot be averaged: they were trained on different classes")
    connected = len({m["init_hash"] for m in members}) == 1
    if not connected and not allow_unconnected:
        raise UserError("members cannot be averaged: they did not start from the same weights (init_hash differs)")
    return connected


# --- candidates ----------------------------------------------------------------------------------------------------


@dataclass
class Candidate:
    """One predictor made from the members. More than one state: an ensemble."""

    name: str
    members: list[int]  # folds
    weights: list[float]
    states: list[State]  # what is scored, BatchNorm re-estimated for averages
    raw: State | None = None  # the average with averaged BatchNorm statistics, to show what re-estimation does
    notes: list[str] = field(default_factory=list)


def parse_name(name: str, folds: int) -> tuple[str, int | None]:
    """'top2' -> ('top2', 2), 'mean' -> ('mean', None). K is at most the number of folds: 'top9' of 5 -> ('top9', 5).

    Raises: UserError for an unknown name and for K < 1.
    """
    if name.startswith("top") and name[3:].lstrip("-").isdigit():
        k = int(name[3:])
        if k < 1:
            raise UserError(f"--aggregate {name}: K must be at least 1")
        return f"top{k}", min(k, folds)
    if name in ("best", "mean", "greedy", "weighted", "ensemble", "all"):
        return name, None
    raise UserError(f"--aggregate {name}: unknown, valid: best, mean, topK (as top3), greedy, weighted, ensemble, all")


def make_candidates(
    states: Sequence[State], select_mious: Sequence[float], refit, score_select, top: str = "top3"
) -> Iterator[Candidate]:
    """All candidates of a stage, in the order of the table.

    states, select_mious: one per fold. refit(state, members) -> state: re-estimates BatchNorm on images those members
    were trained on. score_select(states) -> mIoU on the selection images. top: another topK beside top3.
    """
    folds = len(states)
    order = best_first(select_mious)

    def single(name: str, fold: int) -> Candidate:
        return Candidate(name, [fold], [1.0], [states[fold]])

    def soup(name: str, members: list[int], weights: list[float] | None = None) -> Candidate:
        if len(members) == 1:  # nothing is averaged: the fold's own statistics are right
            return single(name, members[0])
        pairs = zip(members, weights or [1 / len(members)] * len(members))
        members, weights = map(list, zip(*sorted(pairs)))  # in fold order: the same set gives the same sum, bit by bit
        raw = average([states[i] for i in members], weights)
        return Candidate(name, members, weights, [refit(raw, members)], raw)

    yield single("best", order[0])
    yield soup("mean", list(range(folds)))
    for name in dict.fromkeys(["top3", top]):
        k = int(name[3:])
        candidate = soup(name, order[:k])
        if k > folds:
            candidate.notes.append(f"K clamped to the {folds} folds")
        yield candidate
    yield greedy_soup(order, select_mious, soup, score_select)
    yield soup("weighted", list(range(folds)), softmax_weights(select_mious))
    yield Candidate("ensemble", list(range(folds)), [1 / folds] * folds, list(states))


def greedy_soup(order: list[int], select_mious: Sequence[float], soup, score_select) -> Candidate:
    """Greedy soup (Wortsman et al., arXiv 2203.05482, recipe 1): add folds from best to worst, and keep each one that
    does not lower the score of the average."""
    members, candidate, best = [order[0]], soup("greedy", order[:1]), select_mious[order[0]]
    for fold in order[1:]:
        trial = soup("greedy", [*members, fold])
        miou = score_select(trial.states)
        if worst_if_nan(miou) >= worst_if_nan(best) and miou == miou:  # an undefined score proves nothing
            members, candidate, best = [*members, fold], trial, miou
    return candidate
