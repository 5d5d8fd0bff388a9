"""Score every fold and every averaged candidate on the selection images and on the reported split.

An average gets its own BatchNorm statistics before it is scored (engine/folds/batchnorm.py); its row also holds the
score without them. aggregate_stage returns what stageN/results.json holds and the report is made of. With eval.extra
every candidate also has boundary IoU, AUC and calibration, computed in the one pass over the reported images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from common.errors import UserError
from common.memory import peak_memory
from data.class_weights import class_shares
from engine import checkpoint as ckpt
from engine.evaluation.paired_bootstrap import bootstrap_difference
from engine.evaluation.protocol import protocol
from engine.evaluation.scores import Score, scores
from engine.folds import aggregate
from engine.folds.batchnorm import refit
from engine.folds.diagnostics import line_between, pairwise_distances, start_distance
from engine.folds.roles import Study, ranking_split, score_labels
from engine.metrics import best_first, none_if_nan
from engine.training.job import finished

NON_FINITE = "the logits of {} images are NaN or inf"
LONG = ("per_image", "roc")  # as long as all other scores of a row together: kept for one candidate


def finished_stages(study: Study) -> list[int]:
    """Stages of which every fold was trained to its end."""
    folds = range(study.cfg.cv.folds)
    return [s for s in range(study.stages) if all(finished(study.fold_folder(s, f)) for f in folds)]


def aggregate_stage(study: Study, stage: int, top: str = "top3", keep: bool = True, detail: str = "all") -> dict:
    """Score every fold and candidate of a finished stage; returns what results.json holds, writes aggregate/*.pt.

    top: another topK beside top3. keep: overwrite the candidates' files; False (eval.py under another protocol than the
    run's): write only missing ones. detail: the candidate whose row keeps its single images and ROC curves ("all": the
    winner).
    """
    started, cfg = time.perf_counter(), study.cfg
    members = load_members(study, stage)
    states = [m["model"] for m in members]
    labels = score_labels(cfg, stage)
    aggregate.require_common_start(members, allow_unconnected="unconnected" in labels)
    select_scores, report_scores = score_folds(study, states)
    select_mious = [study.miou(s) for s in select_scores]
    rows = score_candidates(study, stage, members, select_scores, report_scores, top, keep)
    ranked = rows[best_first([r["select_miou"] for r in rows])[0]]
    if ranked["select_miou"] is None:
        ranked["notes"].append("no mIoU on the images that rank is defined: the first candidate is taken")
    mean = sum(select_mious) / len(select_mious)
    sd = math.sqrt(sum((m - mean) ** 2 for m in select_mious) / (len(select_mious) - 1))
    used = sorted({i for role in study.roles.values() for i in role})  # training images that have a role
    shown = ranked["name"] if detail == "all" else detail
    rows = [r if r["name"] == shown else {k: v for k, v in r.items() if k not in LONG} for r in rows]
    return {
        "stage": stage,
        "stages": study.stages,
        "class_names": list(study.train.class_names),
        "palette": [list(map(int, c)) for c in study.train.palette],
        "protocol": study_protocol(study, stage),
        "labels": labels,
        "folds": fold_rows(study, stage, members, select_mious, report_scores),
        "fold_mean": none_if_nan(mean),  # undefined where one of them is
        "fold_sd": none_if_nan(sd),
        "candidates": rows,
        "winner": ranked["name"],
        "pairwise_distance": pairwise_distances(study, states),
        "line": line_between(study, states, select_mious),
        "class_frequency": class_shares(study.train.subset(used)),
        "images": len(study.report),
        "seconds": time.perf_counter() - started,
        "peak_memory": peak_memory(study.device),
    }


def load_members(study: Study, stage: int) -> list[dict]:
    """The checkpoint of each fold that is averaged (cv.member). Raises: UserError where one is missing."""
    members = []
    for fold in range(study.cfg.cv.folds):
        path = study.fold_folder(stage, fold) / f"{study.cfg.cv.member}.pt"
        if not path.exists():
            raise UserError(f"{study.run}: stage {stage} is not finished, {path} is missing; go on with --resume")
        members.append(ckpt.load_ours(path))
        ckpt.require_classes(members[-1], study.train.class_names, path)
    return members


def score_folds(study: Study, states: Sequence[aggregate.State]) -> tuple[list[Score], list[Score]]:
    """Score every fold on the selection images and on the reported split. With eval.extra the best fold gets the extra
    scores too, as it is a candidate itself."""
    extra = study.cfg.eval.extra
    if one_split(study):
        scores_of = [study.score([s], study.report, extra) for s in states]
        return scores_of, scores_of
    on_select = [study.score([s], study.select) for s in states]
    best = best_first([study.miou(s) for s in on_select])[0]
    return on_select, [study.score([s], study.report, extra and i == best) for i, s in enumerate(states)]


def score_candidates(
    study: Study, stage: int, members: list[dict], select_scores: list[Score], report_scores: list[Score],
    top: str, keep: bool,
) -> list[dict]:  # fmt: skip
    """One row per candidate, in the order of aggregate.make_candidates; writes their files (see aggregate_stage)."""
    labels, rows, baseline = score_labels(study.cfg, stage), [], None
    made = aggregate.make_candidates(
        [m["model"] for m in members], [study.miou(s) for s in select_scores], refit=lambda s, m: refit(study, s, m),
        score_select=lambda s: study.miou(study.score(s, study.select)), top=top,
    )  # fmt: skip
    for candidate in made:
        if candidate.name != "ensemble" and len(candidate.members) == 1:  # a fold itself, scored already
            fold = candidate.members[0]
            on_select, on_report = select_scores[fold], report_scores[fold]
        else:
            on_report = study.score(candidate.states, study.report, study.cfg.eval.extra)
            on_select = on_report if one_split(study) else study.score(candidate.states, study.select)
        raw = on_report if candidate.raw is None else study.score([candidate.raw], study.report)
        baseline = baseline or on_report
        rows.append(candidate_row(study, candidate, on_select, on_report, raw, baseline, labels))
        if any(map(ckpt.non_finite, candidate.states)):
            rows[-1]["notes"].append("its BatchNorm statistics are NaN or inf, so it was not written")
        elif keep or not study.candidate_path(stage, candidate.name).exists():
            save_candidate(study, stage, candidate, members, rows[-1])
    return rows


def one_split(study: Study) -> bool:
    """Whether the selection images are the reported split (a contaminated run)."""
    return study.cfg.cv.select == "val" and study.report.split == "val"


def candidate_row(
    study: Study, candidate, select: Score, report: Score, raw: Score, baseline: Score, labels: list[str]
) -> dict:
    """A candidate's row of results.json. raw: the average with averaged BatchNorm statistics; baseline: the best fold,
    to which the difference is measured."""
    row = {"name": candidate.name, "members": candidate.members, "weights": candidate.weights}
    row |= {"select_miou": none_if_nan(study.miou(select)), "miou_raw": none_if_nan(study.miou(raw))}
    found = scores(report, study.train.class_names, study.cfg.eval.absent, study.cfg.eval.exclude)
    found["miou"] = none_if_nan(study.miou(report))
    row |= {k: v for k, v in found.items() if k not in ("images", "seconds")}  # results.json has them for the stage
    groups = list(baseline.groups)
    difference = None
    if candidate.name != "best" and len(groups) > 1:
        difference = bootstrap_difference(
            *[[s.groups[g] for g in groups] for s in (baseline, report)],
            seed=study.cfg.seed, exclude=study.exclude, absent=study.cfg.eval.absent,
        )  # fmt: skip
    labels = [x for x in labels if x != "unconnected" or candidate.raw is not None]  # only averages need a connection
    notes = candidate.notes + undefined_notes(study, {ranking_split(study.cfg): select, study.report.split: report})
    return row | {"bootstrap": difference, "labels": labels, "notes": notes}


def undefined_notes(study: Study, scores_of: dict[str, Score]) -> list[str]:
    """Why a mIoU is undefined: one sentence for each set of images on which it is."""
    counted = [name for i, name in enumerate(study.train.class_names) if i not in study.exclude]
    why = f"neither labels nor prediction there hold {' or '.join(counted)}"
    whys = {split: NON_FINITE.format(s.non_finite) if s.non_finite else why for split, s in scores_of.items()}
    undefined = [split for split, s in scores_of.items() if math.isnan(study.miou(s))]
    return [f"the mIoU on {split} is undefined: {whys[split]}" for split in undefined]


def save_candidate(study: Study, stage: int, candidate, members: list[dict], row: dict) -> None:
    """Write aggregate/<candidate>.pt: the network, or all networks of an ensemble, and the members it was made of."""
    content = {
        "model": candidate.states[0],
        **{key: members[0][key] for key in ("config", "class_names", "palette", "init_hash")},
        "candidate": candidate.name,
        "stage": stage,
        "members": candidate.members,
        "weights": candidate.weights,
        "member_hashes": [ckpt.state_hash(members[i]["model"]) for i in candidate.members],
        "select_miou": row["select_miou"],
        "labels": row["labels"],
    }
    if len(candidate.states) > 1:
        content["ensemble"] = candidate.states
    ckpt.save(content, study.candidate_path(stage, candidate.name))


def fold_rows(study: Study, stage: int, members: list[dict], select_mious, report_scores) -> list[dict]:
    """The folds' rows of results.json."""
    rows = []
    for fold, member in enumerate(members):
        folder = study.fold_folder(stage, fold)
        last = ckpt.load_ours(folder / "last.pt")
        row = {"fold": fold, "best_epoch": last["progress"]["best_epoch"], "val_miou": member["val_miou"]}
        row |= {"select_miou": none_if_nan(select_mious[fold]), "miou": none_if_nan(study.miou(report_scores[fold]))}
        row |= {"distance_from_start": start_distance(study, stage, member), "seconds": last["info"]["seconds"]}
        rows.append(row | {"member": str((folder / f"{study.cfg.cv.member}.pt").relative_to(study.run))})
    return rows


def study_protocol(study: Study, stage: int) -> dict:
    """The protocol of the reported scores, with who trained and ranked on what."""
    cv = study.cfg.cv
    roles = {"start": cv.start, "select": cv.select, "member": cv.member, "labels": score_labels(study.cfg, stage)}
    return protocol(study.cfg, study.report, study.views) | roles
