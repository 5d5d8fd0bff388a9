"""A cross-validated run in memory: which image has which role, the data of each role, and the paths of its files.

Roles are drawn once, by whole groups (a city, a stretch of video). What each role is for: cross_validation.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from common import distributed
from common.errors import UserError
from data import build_dataset, sampled_names
from data.dataset import SegmentationDataset, limited
from data.splits import Splits, make_splits
from engine.config import Config, loss_spec, start_config
from engine.evaluation.evaluate import score_models
from engine.evaluation.networks import candidate_path, network
from engine.evaluation.scores import Score, excluded
from engine.evaluation.views import Views
from engine.folds.aggregate import State
from engine.metrics import ConfusionMatrix
from engine.training.job import Prepared


def draw_splits(cfg: Config, train: SegmentationDataset) -> Splits:
    """Draw roles and folds of the training split from cfg.cv and cfg.seed.

    cv.start=none and cv.start=pretrained need no start images: these go to the folds. cv.select=val ranks on the
    reported split, so no images are kept for `select`. cv.start=train is the widespread protocol: the start sees every
    training image, so no score on training images is honest. Raises: UserError where the config leaves a role without
    images, or lets the start learn from those of `select`.
    """
    require_honest_roles(cfg)
    start_share = cfg.cv.start_share if cfg.cv.start == "role" else 0.0
    select_share = cfg.cv.select_share if cfg.cv.select == "role" else 0.0
    splits = make_splits(train, cfg.seed, cfg.cv.folds, start_share, select_share, cfg.cv.group, cfg.data.limit)
    if cfg.cv.start == "train":
        splits.roles["start"] = sorted(name for role in ("fold", "select") for name in splits.roles[role])
    splits.sample = sampled_names(cfg.data)
    return splits


def require_honest_roles(cfg: Config) -> None:
    """Refuse a share of 0 for a role that is needed, and a start that would learn from the images of `select`.

    The starting run is validated on `select` for the log. A plateau schedule, or class weights that follow the
    validation IoU, would react to these images, which must only rank. With cv.start=train or cv.select=val the run is
    labelled contaminated anyway. Raises: UserError.
    """
    cv, start = cfg.cv, start_config(cfg)
    if cv.start == "role" and not cv.start_share:
        raise UserError(
            "cv.start_share: 0 leaves no images to train the common start on: raise it, or set cv.start to none "
            "(each fold starts by itself), pretrained or train"
        )
    if cv.select == "role" and not cv.select_share:
        raise UserError(
            "cv.select_share: 0 leaves no images to rank folds and candidates on: raise it, or set cv.select to val "
            "(labelled contaminated)"
        )
    terms = [term for spec in (loss_spec(start.loss), start.loss.aux) for term in spec.get("terms", [spec])]
    followed = {
        "schedule.name: plateau": (start.schedule.name == "plateau", "{schedule.name: poly}"),
        "follow_iou": (any(t.get("follow_iou") for t in terms), "{loss.follow_iou: 0}, or loss.terms without it"),
    }
    for key, (used, remedy) in followed.items():
        if used and cv.start == cv.select == "role":
            raise UserError(
                f"{key} would steer the starting run by the images of `select`, which only rank folds and candidates: "
                f"set cv.start_overrides: {remedy}, or cv.start to pretrained or none"
            )


def score_labels(cfg: Config, stage: int) -> list[str]:
    """Warnings for every row of a stage. `unconnected` ends with the second stage, where all folds share a start."""
    contaminated = cfg.cv.start == "train" or cfg.cv.select == "val"
    unconnected = cfg.cv.start == "none" and stage == 0
    return ["contaminated"] * contaminated + ["unconnected"] * unconnected


def ranking_split(cfg: Config) -> str:
    """The images that rank folds and candidates, as reports call them."""
    return "select" if cfg.cv.select == "role" else "val"


@dataclass
class Study:
    """A cross-validated run in memory: its data by role and the paths of its files."""

    cfg: Config
    run: Path
    device: torch.device
    train: SegmentationDataset  # the training split as it is evaluated
    augmented: SegmentationDataset  # and as it is trained on
    report: SegmentationDataset  # the split that is reported
    roles: dict[str, list[int]]  # indices into train, by role
    folds: list[dict[str, list[int]]]  # {"train": ..., "val": ...} of each fold
    views: Views = Views()
    prepared: Prepared | None = None  # what train.py built before the run

    @cached_property
    def select(self):
        """The images that rank folds and candidates."""
        if self.cfg.cv.select == "val":
            val = self.report if self.report.split == "val" else build_dataset(self.cfg, "val", train=False)
            return limited(val, self.cfg.data.limit)
        return self.train.subset(self.roles["select"])

    def fold_folder(self, stage: int, fold: int) -> Path:
        return self.run / f"stage{stage}" / f"fold{fold}"

    def candidate_path(self, stage: int, name: str) -> Path:
        return candidate_path(self.run, stage, self.stages, name)

    def start_path(self, stage: int) -> Path:
        """The file with the common starting weights of a stage."""
        return self.run / f"stage{stage}" / "start.pt"

    @property
    def stages(self) -> int:
        return max(1, len(self.cfg.cv.stages))

    def model(self, state: State) -> torch.nn.Module:
        return network(self.cfg, self.train.num_classes, state, self.device)

    def score(self, states: Sequence[State], dataset, extra: bool = False) -> Score:
        return score_models([self.model(s) for s in states], self.cfg, dataset, self.device, self.views, extra)

    @property
    def exclude(self) -> tuple[int, ...]:
        """Classes that the mean IoU leaves out."""
        return excluded(self.cfg.eval.exclude, self.train.class_names)

    def miou(self, score: Score | ConfusionMatrix) -> float:
        if isinstance(score, Score) and score.non_finite:  # no score, which ranks last
            return math.nan
        confusion = score if isinstance(score, ConfusionMatrix) else score.confusion
        return confusion.miou(self.cfg.eval.absent, self.exclude)


def open_study(
    cfg: Config, run: Path, device: torch.device, split: str = "val", views: Views | None = None,
    prepared: Prepared | None = None,
) -> Study:  # fmt: skip
    """Open a run's data and splits. Splits are drawn once and saved; later calls check them against the data."""
    augmented = prepared.train if prepared else build_dataset(cfg, "train", train=True)
    if cfg.eval.native:  # targets keep their own size where they are scored
        train = build_dataset(cfg, "train", train=False)
    else:  # the same files and the same cache
        train = augmented.plain()
    path = run / "splits.json"
    splits = Splits.load(path) if path.exists() else draw_splits(cfg, train)
    distributed.from_main(None)  # every process has looked before the first one writes
    if distributed.is_main() and not path.exists():
        splits.save(path)
    splits.check_sample(sampled_names(cfg.data))
    roles, folds = splits.indices(train.names)
    report = prepared.val if prepared and split == "val" else build_dataset(cfg, split, train=False)
    report = limited(report, cfg.data.limit)
    return Study(cfg, run, device, train, augmented, report, roles, folds, views or Views.of(cfg.eval), prepared)
