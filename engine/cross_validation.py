"""Cross-validation with roles and stages: who trains on what, who ranks whom, and where each score is honest.

    start  trains the common starting weights          (images of the role `start`)
    fold   k members, each trained without one fold    (role `fold`, grouped: a city or sequence stays together)
    select ranks folds and candidates                  (role `select`: no member has seen it)
    val    the data set's own split, reported          (ranks nothing, unless cv.select=val says so)

After each stage every candidate (engine/aggregate) is scored, and the best single network starts the next stage. The
results of a stage stand in stageN/results.json, from which the report is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data import build_dataset
from data.dataset import SegmentationDataset
from data.loading import build_loader
from data.splits import Splits, make_splits
from engine import aggregate
from engine import checkpoint as ckpt
from engine.config import Config, stage_config, start_config
from engine.errors import UserError
from engine.evaluate import Score, metrics
from engine.inference import Views
from engine.metrics import ConfusionMatrix, bootstrap_difference
from engine.run_folder import Log, say, warn
from engine.scoring import candidate_path, class_frequency, limited, network, protocol, score_models
from engine.train import Job, derive_seed, finished, fit, initial_model

START = "start"


# --- roles ---------------------------------------------------------------------------------------------------------


def draw_splits(cfg: Config, train: SegmentationDataset) -> Splits:
    """Roles and folds of the training split, by cfg.cv and cfg.seed; see the module's docstring.

    cv.start=none and =pretrained need no start images: these go to the folds. cv.select=val ranks on the reported
    split, so nothing is held back for `select`. cv.start=train is the widespread protocol: the start sees every
    training image, so no score on training images is honest.
    """
    start_share = cfg.cv.start_share if cfg.cv.start == "role" else 0.0
    select_share = cfg.cv.select_share if cfg.cv.select == "role" else 0.0
    splits = make_splits(train, cfg.seed, cfg.cv.folds, start_share, select_share, cfg.cv.group, cfg.data.limit)
    if cfg.cv.start == "train":
        splits.roles["start"] = sorted(name for role in ("fold", "select") for name in splits.roles[role])
    return splits


def score_labels(cfg: Config) -> list[str]:
    """What a reader must know about every row of this run."""
    labels = []
    if cfg.cv.start == "train" or cfg.cv.select == "val":
        labels.append("contaminated")
    if cfg.cv.start == "none":
        labels.append("unconnected")
    return labels


def ranking_split(cfg: Config) -> str:
    """Which images rank folds and candidates, as reports name them."""
    return "select" if cfg.cv.select == "role" else "val"


# --- training ------------------------------------------------------------------------------------------------------


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

    @property
    def select(self):
        """The images that rank folds and candidates."""
        if self.cfg.cv.select == "val":
            return limited(build_dataset(self.cfg, "val", train=False), self.cfg.data.limit)
        return self.train.subset(self.roles["select"])

    def fold_folder(self, stage: int, fold: int) -> Path:
        return self.run / f"stage{stage}" / f"fold{fold}"

    def candidate_path(self, stage: int, name: str) -> Path:
        return candidate_path(self.run, stage, self.stages, name)

    @property
    def stages(self) -> int:
        return max(1, len(self.cfg.cv.stages))

    def model(self, state: aggregate.State) -> torch.nn.Module:
        return network(self.cfg, self.train.num_classes, state, self.device)

    def score(self, states: Sequence[aggregate.State], dataset) -> Score:
        return score_models([self.model(s) for s in states], self.cfg, dataset, self.device, self.views)

    def miou(self, score: Score | ConfusionMatrix) -> float:
        confusion = score if isinstance(score, ConfusionMatrix) else score.confusion
        return confusion.miou(self.cfg.eval.absent)


def open_study(cfg: Config, run: Path, device: torch.device, split: str = "val", views: Views | None = None) -> Study:
    """Data and splits of a run; splits are drawn once, saved, and checked against the data ever after."""
    augmented = build_dataset(cfg, "train", train=True)
    train = build_dataset(cfg, "train", train=False)
    path = run / "splits.json"
    splits = Splits.load(path) if path.exists() else draw_splits(cfg, train)
    if not path.exists():
        splits.save(path)
    roles, folds = splits.indices(train.names)
    report = limited(build_dataset(cfg, split, train=False), cfg.data.limit)
    return Study(cfg, run, device, train, augmented, report, roles, folds, views or Views.of(cfg.eval))


def cross_validate(cfg: Config, run: Path, device: torch.device) -> dict:
    """Train the start and every fold of every stage, aggregate after each; returns the last stage's results.

    Goes on where a killed run stopped: finished jobs are skipped, the log is cut back to the last checkpoint.
    """
    study, log = open_study(cfg, run, device), Log(run / "log.jsonl")
    describe_roles(study)
    cut_log(study, log)
    init = start_weights(study, log)
    results: dict = {}
    for stage in range(study.stages):
        if init is not None:
            ckpt.save({"model": init}, start_path(study, stage))
        for fold in range(cfg.cv.folds):
            job = fold_job(study, stage, fold, init)
            if not finished(job.folder):
                fit(job, log, device)
        say(f"stage {stage}: scoring candidates on {ranking_split(cfg)} and {study.report.split}")
        results = aggregate_stage(study, stage)
        ckpt.write_json(run / f"stage{stage}" / "results.json", results)
        init = next_start(study, stage, results)
    return results


def fold_job(study: Study, stage: int, fold: int, init: aggregate.State | None) -> Job:
    cfg = stage_config(study.cfg, stage)
    part = study.folds[fold]
    indices = sorted({*part["train"], *(study.roles["start"] if cfg.cv.replay_start else [])})
    seed = derive_seed(cfg.seed, "stage", stage, "fold", fold)
    train = study.augmented.subset(indices, cfg.data.augment, seed)
    val = study.train.subset(part["val"])
    return Job(study.fold_folder(stage, fold), cfg, train, val, seed, fold, stage, init)


def start_weights(study: Study, log: Log) -> aggregate.State | None:
    """The weights all members of stage 0 start from; None: each fold draws its own (cv.start=none)."""
    cfg = study.cfg
    if cfg.cv.start == "none":
        warn("cv.start=none: the members share no training; the average of their weights is expected to collapse")
        return None
    if cfg.cv.start == "pretrained":
        torch.manual_seed(derive_seed(cfg.seed, "start"))  # a newly initialised classifier is the same for all folds
        return ckpt.cpu_state(initial_model(cfg, study.train))
    job = start_job(study)
    if not finished(job.folder):
        fit(job, log, study.device)
    # The last weights, not the best: choosing an epoch would need images, and `select` is kept for the candidates.
    return ckpt.load_ours(job.folder / "last.pt")["model"]


def start_path(study: Study, stage: int) -> Path:
    """Where the common starting weights of a stage are kept."""
    return study.run / f"stage{stage}" / "start.pt"


def start_job(study: Study) -> Job:
    cfg = start_config(study.cfg)
    cfg.train.early_stopping = 0
    seed = derive_seed(cfg.seed, "start")
    train = study.augmented.subset(study.roles["start"], cfg.data.augment, seed)
    return Job(study.run / START, cfg, train, study.select, seed, START, 0)


def next_start(study: Study, stage: int, results: dict) -> aggregate.State:
    """Weights of the stage's best single network; an ensemble cannot start anything."""
    single = [c for c in results["candidates"] if c["name"] != "ensemble"]
    name = max(single, key=lambda c: (c["select_miou"], -results["candidates"].index(c)))["name"]
    return ckpt.load_ours(study.candidate_path(stage, name))["model"]


def cut_log(study: Study, log: Log) -> None:
    """Drop log rows that came after the newest checkpoint: their epoch will be trained again."""
    folders = [study.run / START]
    folders += [study.fold_folder(s, f) for s in range(study.stages) for f in range(study.cfg.cv.folds)]
    sizes = [ckpt.load_ours(f / "last.pt")["info"]["log_bytes"] for f in folders if (f / "last.pt").exists()]
    log.cut(max(sizes, default=0))


def describe_roles(study: Study) -> None:
    groups = study.train.groups
    counts = []
    for role, indices in study.roles.items():
        counts.append(f"{role} {len(indices)} in {len({groups[i] for i in indices})} groups")
    say(f"images: {', '.join(counts)}; {study.report.split} {len(study.report)}; {study.cfg.cv.folds} folds")


# --- judging -------------------------------------------------------------------------------------------------------


def finished_stages(study: Study) -> list[int]:
    """Stages of which every fold was trained to its end."""
    folds = range(study.cfg.cv.folds)
    return [s for s in range(study.stages) if all(finished(study.fold_folder(s, f)) for f in folds)]


def load_members(study: Study, stage: int) -> list[dict]:
    members = []
    for fold in range(study.cfg.cv.folds):
        path = study.fold_folder(stage, fold) / f"{study.cfg.cv.member}.pt"
        if not path.exists():
            raise UserError(f"{study.run}: stage {stage} is not finished, {path} is missing; go on with --resume")
        members.append(ckpt.load_ours(path))
        ckpt.require_classes(members[-1], study.train.class_names, path)
    return members


def batchnorm_images(study: Study, members: Sequence[int]) -> list[int]:
    """Indices of images that re-estimate BatchNorm for an average: the members' training folds and the start, spread
    evenly over them, at most cv.bn_images, in full batches; never an image of `select`."""
    chosen = {i for m in members for i in study.folds[m]["train"]}
    chosen |= set(study.roles["start"]) if study.cfg.cv.start == "role" else set()
    chosen -= set(study.roles["select"])
    pool, wanted = sorted(chosen), min(len(chosen), study.cfg.cv.bn_images)
    size = batchnorm_batch(study)
    wanted = wanted // size * size or wanted  # a trial with fewer images than one batch uses what there is
    return [pool[i * len(pool) // wanted] for i in range(wanted)]


def batchnorm_batch(study: Study) -> int:
    return max(8, study.cfg.train.batch_size)


def refit(study: Study, state: aggregate.State, members: Sequence[int]) -> aggregate.State:
    """The average with BatchNorm statistics of its own."""
    model = study.model(state)
    dataset = study.train.subset(batchnorm_images(study, members))
    loader = build_loader(
        dataset, batchnorm_batch(study), train=False, seed=study.cfg.seed, workers=study.cfg.train.workers
    )
    aggregate.reestimate_batchnorm(model, loader, study.device)
    return ckpt.cpu_state(model)


def aggregate_stage(study: Study, stage: int, top: str = "top3", keep: bool = True) -> dict:
    """Score every fold and candidate of a finished stage; return what results.json holds. Writes aggregate/*.pt;
    with keep=False only those that are not there yet (eval.py under another protocol than the run's)."""
    started, cfg = time.perf_counter(), study.cfg
    members = load_members(study, stage)
    states = [m["model"] for m in members]
    labels = score_labels(cfg)
    aggregate.require_common_start(members, allow_unconnected=cfg.cv.start == "none")
    select, report = study.select, study.report
    same = cfg.cv.select == "val" and report.split == "val"
    select_scores = [study.score([s], select) for s in states]
    report_scores = select_scores if same else [study.score([s], report) for s in states]
    select_mious = [study.miou(s) for s in select_scores]

    rows, baseline = [], None
    make = aggregate.make_candidates(
        states, select_mious, refit=lambda s, m: refit(study, s, m),
        score_select=lambda s: study.miou(study.score(s, select)), top=top,
    )  # fmt: skip
    for candidate in make:
        if candidate.name != "ensemble" and len(candidate.members) == 1:  # a fold itself: scored above
            scores = select_scores[candidate.members[0]], report_scores[candidate.members[0]]
        else:
            on_select = study.score(candidate.states, select)
            scores = on_select, on_select if same else study.score(candidate.states, report)
        raw = scores[1] if candidate.raw is None else study.score([candidate.raw], report)
        baseline = baseline or scores[1]
        rows.append(candidate_row(study, candidate, scores[0], scores[1], raw, baseline, labels))
        if keep or not study.candidate_path(stage, candidate.name).exists():
            save_candidate(study, stage, candidate, members, rows[-1])

    ranked = max(rows, key=lambda r: (r["select_miou"], -rows.index(r)))
    mean = sum(select_mious) / len(select_mious)
    sd = math.sqrt(sum((m - mean) ** 2 for m in select_mious) / (len(select_mious) - 1))
    return {
        "stage": stage,
        "stages": study.stages,
        "class_names": list(study.train.class_names),
        "palette": [list(map(int, c)) for c in study.train.palette],
        "protocol": study_protocol(study),
        "labels": labels,
        "folds": fold_rows(study, stage, members, select_mious, report_scores),
        "fold_mean": mean,
        "fold_sd": sd,
        "candidates": rows,
        "winner": ranked["name"],
        "pairwise_distance": pairwise_distances(study, states),
        "line": line_between(study, states, select_mious),
        "class_frequency": class_frequency(study.cfg, used_images(study)),
        "images": len(report),
        "seconds": time.perf_counter() - started,
    }


def candidate_row(study: Study, candidate, select: Score, report: Score, raw: Score, baseline: Score, labels) -> dict:
    row = {"name": candidate.name, "members": candidate.members, "weights": candidate.weights}
    row |= {"select_miou": study.miou(select), "miou_raw": study.miou(raw)}
    row |= metrics(report.confusion, study.train.class_names, study.cfg.eval.absent)
    groups = list(baseline.groups)
    difference = None
    if candidate.name != "best" and len(groups) > 1:
        difference = bootstrap_difference(
            *[[s.groups[g] for g in groups] for s in (baseline, report)], seed=study.cfg.seed
        )
    labels = [x for x in labels if x != "unconnected" or candidate.raw is not None]  # only averages need a connection
    return row | {"bootstrap": difference, "labels": labels, "notes": candidate.notes}


def save_candidate(study: Study, stage: int, candidate, members: list[dict], row: dict) -> None:
    """aggregate/<candidate>.pt: one network, or all of an ensemble, and which members made it."""
    content = {
        "model": candidate.states[0],
        "config": members[0]["config"],
        "class_names": members[0]["class_names"],
        "palette": members[0]["palette"],
        "candidate": candidate.name,
        "stage": stage,
        "members": candidate.members,
        "weights": candidate.weights,
        "member_hashes": [ckpt.state_hash(members[i]["model"]) for i in candidate.members],
        "init_hash": members[0]["init_hash"],
        "select_miou": row["select_miou"],
        "labels": row["labels"],
    }
    if len(candidate.states) > 1:
        content["ensemble"] = candidate.states
    ckpt.save(content, study.candidate_path(stage, candidate.name))


def fold_rows(study: Study, stage: int, members: list[dict], select_mious, report_scores) -> list[dict]:
    rows = []
    for fold, member in enumerate(members):
        last = ckpt.load_ours(study.fold_folder(stage, fold) / "last.pt")
        rows.append(
            {
                "fold": fold,
                "best_epoch": last["progress"]["best_epoch"],
                "val_miou": member["val_miou"],
                "select_miou": select_mious[fold],
                "miou": study.miou(report_scores[fold]),
                "distance_from_start": start_distance(study, stage, member),
                "seconds": last["info"]["seconds"],
                "member": str((study.fold_folder(stage, fold) / f"{study.cfg.cv.member}.pt").relative_to(study.run)),
            }
        )
    return rows


def trained_names(study: Study) -> list[str]:
    return [n for n, _ in initial_model(study.cfg, study.train, None).named_parameters()]


def start_distance(study: Study, stage: int, member: dict) -> float | None:
    """How far training moved a member from the common start of its stage; None where there is none."""
    path = start_path(study, stage)
    if not path.exists():
        return None
    return aggregate.distance(member["model"], ckpt.load(path)["model"], trained_names(study))


def pairwise_distances(study: Study, states: Sequence[aggregate.State]) -> list[list[float]]:
    names = trained_names(study)
    return [[aggregate.distance(a, b, names) if a is not b else 0.0 for b in states] for a in states]


def line_between(study: Study, states: Sequence[aggregate.State], select_mious: Sequence[float]) -> dict | None:
    """mIoU along the straight line between the two best folds, on a few `select` images; BatchNorm is re-estimated at
    every point, the ends included, so that only the weights differ."""
    cfg = study.cfg.cv
    if cfg.line_points < 2:
        return None
    a, b = sorted(range(len(states)), key=lambda i: (-select_mious[i], i))[:2]
    dataset = study.select
    step = max(1, len(dataset) // cfg.line_images)
    dataset = dataset.subset(list(range(0, len(dataset), step))[: cfg.line_images])
    ts = [i / (cfg.line_points - 1) for i in range(cfg.line_points)]
    mious = []
    for t in ts:
        state = refit(study, aggregate.average([states[a], states[b]], [1 - t, t]), [a, b])
        mious.append(study.miou(study.score([state], dataset)))
    return {"folds": [a, b], "t": ts, "miou": mious, "images": len(dataset), "split": ranking_split(study.cfg)}


def used_images(study: Study):
    """The training images that this run uses in any role."""
    return study.train.subset(sorted({i for role in study.roles.values() for i in role}))


def study_protocol(study: Study) -> dict:
    """Everything a number depends on beside the weights."""
    cv = study.cfg.cv
    roles = {"start": cv.start, "select": cv.select, "member": cv.member, "labels": score_labels(study.cfg)}
    return protocol(study.cfg, study.report, study.views) | roles
