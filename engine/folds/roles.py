"""A cross-validated run in memory: which image has which role, the data by role, and where the run's files stand.

Images get roles once, by whole groups (a city, a stretch of video): see engine/folds/cross_validation for what each is for.
"""

from __future__ import annotations

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
    """Roles and folds of the training split, by cfg.cv and cfg.seed; see the module's docstring.

    cv.start=none and =pretrained need no start images: these go to the folds. cv.select=val ranks on the reported
    split, so nothing is held back for `select`. cv.start=train is the widespread protocol: the start sees every
    training image, so no score on training images is honest. Raises: UserError where the config gives a role no
    images, or lets the start learn from those of `select`.
    """
    require_images(cfg)
    require_start_apart_from_select(cfg)
    start_share = cfg.cv.start_share if cfg.cv.start == "role" else 0.0
    select_share = cfg.cv.select_share if cfg.cv.select == "role" else 0.0
    splits = make_splits(train, cfg.seed, cfg.cv.folds, start_share, select_share, cfg.cv.group, cfg.data.limit)
    if cfg.cv.start == "train":
        splits.roles["start"] = sorted(name for role in ("fold", "select") for name in splits.roles[role])
    splits.sample = sampled_names(cfg.data)
    return splits


def require_images(cfg: Config) -> None:
    """Raises: UserError for a share of 0 where the role is needed."""
    if cfg.cv.start == "role" and not cfg.cv.start_share:
        raise UserError(
            "cv.start_share: 0 leaves no images to train the common start on: raise it, or set cv.start to none "
            "(each fold starts by itself), pretrained or train"
        )
    if cfg.cv.select == "role" and not cfg.cv.select_share:
        raise UserError(
            "cv.select_share: 0 leaves no images to rank folds and candidates on: raise it, or set cv.select to val "
            "(labelled contaminated)"
        )


def require_start_apart_from_select(cfg: Config) -> None:
    """`select` validates the starting run, and must not steer it: these images rank the folds later.

    Raises: UserError for a plateau schedule or class weights that follow the validation IoU, unless the run is labelled
    contaminated anyway.
    """
    if cfg.cv.start != "role" or cfg.cv.select != "role":
        return
    start = start_config(cfg)
    specs = [loss_spec(start.loss), start.loss.aux]
    parts = [part for spec in specs for part in spec.get("terms", [spec])]
    key, remedy = None, ""
    if start.schedule.name == "plateau":
        key, remedy = "schedule.name: plateau", "{schedule.name: poly}"
    elif any(part.get("follow_iou") for part in parts):
        key, remedy = "follow_iou", "{loss.terms: [..]}" if start.loss.terms else "{loss.follow_iou: 0}"
    if key:
        raise UserError(
            f"{key} would steer the starting run by the images of `select`, which only rank folds and candidates: "
            f"set cv.start_overrides: {remedy}, or cv.start to pretrained or none"
        )


def score_labels(cfg: Config, stage: int) -> list[str]:
    """What a reader must know about every row of a stage. From the second stage on all members share a winner."""
    labels = []
    if cfg.cv.start == "train" or cfg.cv.select == "val":
        labels.append("contaminated")
    if cfg.cv.start == "none" and stage == 0:
        labels.append("unconnected")
    return labels


def ranking_split(cfg: Config) -> str:
    """Which images rank folds and candidates, as reports name them."""
    return "select" if cfg.cv.select == "role" else "val"


@dataclass
class Study:
    """A cross-validated run in memory: its data by role and where its files stand."""

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
        """Where the common starting weights of a stage are kept."""
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
        confusion = score if isinstance(score, ConfusionMatrix) else score.confusion
        return confusion.miou(self.cfg.eval.absent, self.exclude)


def open_study(
    cfg: Config, run: Path, device: torch.device, split: str = "val", views: Views | None = None,
    prepared: Prepared | None = None,
) -> Study:  # fmt: skip
    """Data and splits of a run; splits are drawn once, saved, and checked against the data ever after."""
    augmented = prepared.train if prepared else build_dataset(cfg, "train", train=True)
    if cfg.eval.native:  # targets keep their own size where they are scored
        train = build_dataset(cfg, "train", train=False)
    else:  # the same files and the same cache
        train = augmented.plain()
    path = run / "splits.json"
    splits = Splits.load(path) if path.exists() else draw_splits(cfg, train)
    distributed.from_main(None)  # all have looked before the first one writes
    if distributed.is_main() and not path.exists():
        splits.save(path)
    splits.check_sample(sampled_names(cfg.data))
    roles, folds = splits.indices(train.names)
    report = prepared.val if prepared and split == "val" else build_dataset(cfg, split, train=False)
    report = limited(report, cfg.data.limit)
    return Study(cfg, run, device, train, augmented, report, roles, folds, views or Views.of(cfg.eval), prepared)
