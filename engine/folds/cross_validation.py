"""Cross-validation with image roles and stages, and the averaging of its folds.

Each image of the training split has one role, so that no score comes from images that were trained on:
    start   trains the weights that all folds start from
    fold    trains the k folds, each without its own part (grouped: a city or sequence stays together)
    select  ranks folds and candidates; no fold is trained on it
The data set's own val split is reported, and ranks nothing unless cv.select=val.

After each stage every candidate (engine/folds/aggregate.py) is scored, and the best single network starts the next
stage. A stage's results are in stageN/results.json; the report is made from them.
"""

from __future__ import annotations

from pathlib import Path

import torch

from common import distributed
from common.console import say, warn
from common.errors import DamagedFile
from common.files import set_aside, write_json
from common.seeds import derive_seed
from engine import checkpoint as ckpt
from engine.config import Config, stage_config, start_config
from engine.evaluation.networks import read_results
from engine.folds.aggregate import State
from engine.folds.candidates import aggregate_stage
from engine.folds.roles import Study, open_study, ranking_split
from engine.metrics import best_first
from engine.training.job import Job, Prepared, finished, initial_model
from engine.training.log import Log, open_log
from engine.training.resume import prepare as prepare_resume
from engine.training.train import fit

START = "start"


def cross_validate(cfg: Config, run: Path, device: torch.device, prepared: Prepared | None = None) -> dict:
    """Train the start and every fold of every stage, and aggregate after each stage; returns the last stage's results.

    Continues a run that was killed: finished jobs are skipped, and the log is cut back to the last checkpoint.
    """
    study, log = open_study(cfg, run, device, prepared=prepared), open_log(run, cfg)
    describe_roles(study)
    if distributed.is_main():
        prepare_resume(run, all_jobs(study), log, {"train": study.train, "val": study.report})
    distributed.from_main(None)
    init = start_weights(study, log)
    results: dict = {}
    for stage in range(study.stages):
        if init is not None and distributed.is_main():
            ckpt.save({"model": init}, study.start_path(stage))
        for fold in range(cfg.cv.folds):
            job = fold_job(study, stage, fold, init)
            if not finished(job.folder):
                fit(job, log, device)
        results = distributed.from_main(stage_results(study, stage) if distributed.is_main() else None)
        init = next_start(study, stage, results)
    log.close()
    return results


def stage_results(study: Study, stage: int) -> dict:
    """Score a stage's folds and candidates, or read the results if the stage was scored before."""
    path = study.run / f"stage{stage}" / "results.json"
    if path.exists():
        try:
            results = read_results(path)
            require_candidates(study, stage, results)
            return results
        except (DamagedFile, ckpt.NonFinite) as e:
            warn(f"{e}; set aside as {set_aside(path)}, the stage is scored again")
    say(f"stage {stage}: scoring candidates on {ranking_split(study.cfg)} and {study.report.split}")
    results = aggregate_stage(study, stage)
    write_json(path, results)
    return results


def require_candidates(study: Study, stage: int, results: dict) -> None:
    """Raises: DamagedFile unless the candidates and the files of those that are used later are whole."""
    try:
        needed = {results["winner"], single_winner(results)}
    except (KeyError, TypeError, IndexError):
        raise DamagedFile(f"{study.run / f'stage{stage}' / 'results.json'}: damaged, it has no candidates") from None
    for name in needed:
        path = study.candidate_path(stage, name)
        if not path.exists():
            raise DamagedFile(f"{path} is missing")
        ckpt.load_ours(path)


def fold_job(study: Study, stage: int, fold: int, init: State | None) -> Job:
    cfg = stage_config(study.cfg, stage)
    part = study.folds[fold]
    indices = sorted({*part["train"], *(study.roles["start"] if cfg.cv.replay_start else [])})
    seed = derive_seed(cfg.seed, "stage", stage, "fold", fold)
    train = study.augmented.subset(indices, cfg.data.augment, seed)
    val = study.train.subset(part["val"])
    teachers = study.prepared.teachers if study.prepared else {}
    return Job(study.fold_folder(stage, fold), cfg, train, val, seed, fold, stage, init, teachers=teachers)


def start_weights(study: Study, log: Log) -> State | None:
    """The weights that all folds of stage 0 start from; None with cv.start=none, where each fold draws its own."""
    cfg = study.cfg
    if cfg.cv.start == "none":
        warn("cv.start=none: the members share no training; expect the average of their weights to collapse")
        return None
    if cfg.cv.start == "pretrained":
        torch.manual_seed(derive_seed(cfg.seed, "start"))  # a new classifier is the same for all folds
        return ckpt.cpu_state(initial_model(cfg, study.train))
    job = start_job(study)
    if not finished(job.folder):
        fit(job, log, study.device)
    # The last weights, not the best: choosing an epoch would need images, and `select` is only for the candidates.
    return ckpt.load_ours(job.folder / "last.pt")["model"]


def start_job(study: Study) -> Job:
    """The starting run. Its validation on `select` is for the log only: nothing is chosen by it (see roles.py)."""
    cfg = start_job_config(study.cfg)
    seed = start_seed(cfg)
    train = study.augmented.subset(study.roles["start"], cfg.data.augment, seed)
    job = Job(study.run / START, cfg, train, study.select, seed, START, 0)
    if study.prepared:
        job.built, job.teachers = study.prepared.network, study.prepared.teachers
    return job


def start_job_config(cfg: Config) -> Config:
    cfg = start_config(cfg)
    cfg.train.early_stopping = 0
    return cfg


def start_seed(cfg: Config) -> int:
    return derive_seed(cfg.seed, "start")


def single_winner(results: dict) -> str:
    """The stage's best single network. An ensemble has no weights to start from."""
    single = [c for c in results["candidates"] if c["name"] != "ensemble"]
    return single[best_first([c["select_miou"] for c in single])[0]]["name"]


def next_start(study: Study, stage: int, results: dict) -> State:
    """Weights of the stage's best single network."""
    return ckpt.load_ours(study.candidate_path(stage, single_winner(results)))["model"]


def all_jobs(study: Study) -> list[tuple]:
    """(folder, config, stage, fold) of every training of the run."""
    cfg = study.cfg
    folds = [(s, f) for s in range(study.stages) for f in range(cfg.cv.folds)]
    start = [(study.run / START, start_job_config(cfg), 0, START)]
    return start + [(study.fold_folder(s, f), stage_config(cfg, s), s, f) for s, f in folds]


def describe_roles(study: Study) -> None:
    groups = study.train.groups
    counts = [f"{r} {len(part)} in {len({groups[i] for i in part})} groups" for r, part in study.roles.items()]
    say(f"images: {', '.join(counts)}; {study.report.split} {len(study.report)}; {study.cfg.cv.folds} folds")
