"""Compare finished runs: one row per config, every difference with its bootstrap interval.

A config may be trained with several seeds; its row holds the mean over them. The interval of a difference to the first
row comes from a paired bootstrap (Efron and Tibshirani, percentile method) that draws groups of validation images and
seeds, the same draw for both rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.errors import UserError
from data import build_dataset
from data.dataset import SegmentationDataset, limited
from engine import checkpoint as ckpt
from engine.analysis.cost import count, parameters
from engine.config import Config, load_config
from engine.evaluation.evaluate import score_models
from engine.evaluation.networks import build_network, chosen_checkpoint, networks
from engine.evaluation.paired_bootstrap import bootstrap
from engine.evaluation.protocol import protocol
from engine.evaluation.scores import Score, excluded
from engine.evaluation.views import Views
from engine.metrics import best_first, none_if_nan
from engine.report.run_results import latest, read_run

RULE = "fvcore"  # how multiply-adds are counted: the rule that published tables use


@dataclass(frozen=True)
class Trained:
    """A finished run, scored again with the networks it kept."""

    run: Path
    cfg: Config
    score: Score  # with one confusion matrix per group of validation images
    log: list[dict]
    seconds: float  # of training
    peak_memory: int | None  # bytes


@dataclass
class Entry:
    """One config of a study, trained once or with several seeds."""

    name: str
    trained: list[Trained]
    parameters: int
    flops: int  # multiply-adds of one image by RULE, at data.size
    methods: list[str] = field(default_factory=list)  # methods that are on, for the table of methods
    quoted: dict = field(default_factory=dict)  # figures of the original work: {"miou": .., "per_class": {..}}

    @property
    def cfg(self) -> Config:
        return self.trained[0].cfg

    def excluded(self) -> tuple[int, ...]:
        """Indices of the classes that the means leave out."""
        return excluded(self.cfg.eval.exclude, class_names(self)) if self.cfg.eval.exclude else ()

    def miou(self) -> list[float]:
        """The mIoU of each seed, a fraction."""
        return [t.score.confusion.miou(self.cfg.eval.absent, self.excluded()) for t in self.trained]

    def iou(self) -> list[float | None]:
        """The IoU of each class, mean over seeds; None for a class that does not occur."""
        values = torch.stack([t.score.confusion.iou() for t in self.trained]).nanmean(0).tolist()
        return [None if v != v else v for v in values]

    def extras(self) -> dict:
        """Means over seeds of mean_auc, auc (by class), ece, boundary_miou; empty if they were not computed."""
        taken = [t.score for t in self.trained if t.score.binned is not None]
        if len(taken) < len(self.trained):
            return {}
        rules, names = (self.cfg.eval.absent, self.excluded()), class_names(self)
        return {
            "mean_auc": _mean(s.binned.mean_auc(*rules) for s in taken),
            "auc": {n: _mean(s.binned.auc()[c].item() for s in taken) for c, n in enumerate(names)},
            "ece": _mean(s.binned.ece() for s in taken),
            "boundary_miou": _mean(s.boundary.miou(*rules) for s in taken),
        }

    def confusion(self) -> list[list[int]]:
        """(C, C) counts of all seeds together."""
        return sum(t.score.confusion.matrix for t in self.trained).tolist()

    def probabilities(self) -> dict:
        """roc and auc (by class), mean_auc of the first seed; empty where no probabilities were binned."""
        binned = self.trained[0].score.binned
        return binned.to_json(class_names(self), self.cfg.eval.absent, self.excluded()) if binned is not None else {}


def _mean(values: Iterable[float]) -> float | None:
    """The mean over seeds; None where it is undefined, as for a class that no validation image has."""
    return none_if_nan(statistics.fmean(values))


def score_run(run: Path, device: torch.device, extra: bool = False) -> Trained:
    """Score a finished run's best network (with folds: its best candidate) on its validation split, by its protocol.

    extra: also boundary IoU, ROC and calibration, as with eval.extra in its config.
    """
    facts = read_run(run)
    results = latest(facts)
    if results is None:
        raise UserError(f"{run}: not finished; go on with  python train.py --resume {run}")
    cfg = load_config(run / "config.yaml")
    dataset = validation(cfg)
    models = networks(ckpt.load_ours(chosen_checkpoint(run)), cfg, dataset.num_classes, device)
    score = score_models(models, cfg, dataset, device, Views.of(cfg.eval), extra or cfg.eval.extra)
    seconds = sum(row["seconds"] for row in facts["log"])
    return Trained(run, cfg, score, facts["log"], seconds, results.get("peak_memory"))


def validation(cfg: Config) -> SegmentationDataset:
    return limited(build_dataset(cfg, "val", train=False), cfg.data.limit)


def entry(name: str, runs: Sequence[Path], device: torch.device, extra: bool = False, **facts) -> Entry:
    """A row of the table from the runs of one config; facts: methods, quoted."""
    trained = [score_run(run, device, extra) for run in runs]
    cfg, classes = trained[0].cfg, trained[0].score.confusion.num_classes
    with torch.device("meta"):
        network = build_network(cfg, classes)
    return Entry(name, trained, parameters(network), count(network, cfg.data.size, RULE).total(), **facts)


def difference(first: Entry, other: Entry, classes: Sequence[int] | None = None, samples: int = 1000) -> dict | None:
    """Paired bootstrap of the mean IoU of other minus first, over `classes` (None: all but the excluded ones).

    Returns difference, low, high (95 %) as fractions; None where seeds or image groups do not pair.
    """
    seeds = [t.cfg.seed for t in first.trained]
    if seeds != [t.cfg.seed for t in other.trained]:
        return None
    groups = list(first.trained[0].score.groups)
    if len(groups) < 2 or any(list(t.score.groups) != groups for e in (first, other) for t in e.trained):
        return None
    sides = [[[t.score.groups[g] for g in groups] for t in e.trained] for e in (first, other)]
    if sides[0][0][0].num_classes != sides[1][0][0].num_classes:
        return None
    left_out = first.excluded()
    kept = [c not in left_out if classes is None else c in classes for c in range(sides[0][0][0].num_classes)]
    return bootstrap(*sides, samples).difference(torch.tensor(kept), first.cfg.eval.absent)


def summary(entries: Sequence[Entry], focus: Sequence[str] = ()) -> list[dict]:
    """One dict of plain values per config, for the tables and the CSV. focus: classes whose mean is compared too."""
    first, names = entries[0], class_names(entries[0])
    places = [names.index(n) for n in focus]
    rows = []
    for above, e in zip([None, *entries], entries):
        mious, iou = e.miou(), e.iou()
        gigas, memory = e.flops / 1e9, [t.peak_memory for t in e.trained if t.peak_memory]
        row = {
            "config": e.name,
            "miou": none_if_nan(statistics.fmean(mious)),
            "miou_sd": none_if_nan(statistics.stdev(mious)) if len(mious) > 1 else None,
            "difference": None if e is first else difference(first, e),
            "step": None if above is None else difference(above, e),
            "per_class": dict(zip(class_names(e), iou)),
            "parameters": e.parameters,
            "gflops": gigas,
            "efficiency": none_if_nan(100 * statistics.fmean(mious) / gigas),
            "seconds": statistics.fmean(t.seconds for t in e.trained),
            "peak_memory_mib": max(memory) / 2**20 if memory else None,
            "seeds": [t.cfg.seed for t in e.trained],
            "runs": [str(t.run) for t in e.trained],
            "methods": e.methods,
            "quoted": e.quoted,
            **e.extras(),
        }
        if places and class_names(e) == names:
            others = set(range(len(names))) - set(places)
            row["focus"] = _mean(t.score.confusion.miou(e.cfg.eval.absent, others) for t in e.trained)
            row["focus_difference"] = None if e is first else difference(first, e, places)
        rows.append(row)
    return rows


def best_of(families: dict[str, Sequence[str]], entries: Sequence[Entry]) -> dict[str, Entry]:
    """{family: its entry with the highest mIoU (mean over seeds)}, without families that have no entry."""
    best = {}
    for family, names in families.items():
        if found := [e for e in entries if e.name in names]:
            best[family] = found[best_first([statistics.fmean(e.miou()) for e in found])[0]]
    return best


def class_names(e: Entry) -> list[str]:
    return list(validation(e.cfg).class_names)


def protocols(entries: Sequence[Entry]) -> dict:
    """The protocol of the first row. Raises: UserError if two rows were scored on different data."""
    facts = [protocol(e.cfg, validation(e.cfg), Views.of(e.cfg.eval)) for e in entries]
    for e, fact in zip(entries, facts):
        for key in ("data", "split", "data_hash"):
            if fact[key] != facts[0][key]:
                raise UserError(f"{e.name} and {entries[0].name} were scored on different {key}: {fact[key]}")
    return facts[0]
