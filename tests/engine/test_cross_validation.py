"""Cross-validation end to end on a tiny folder: roles, labels, candidates, resume, stages, eval.py's protocol."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from engine import checkpoint as ckpt
from engine.config import config_from, dump
from engine.folds import cross_validation as cv
from engine.folds.batchnorm import batchnorm_images
from engine.folds.candidates import aggregate_stage
from engine.folds.roles import open_study
from engine.report.score_tables import candidates_table
from engine.training.log import Log
from engine.training.train import fit
from tests.engine.test_training import CPU, ROOT, command, equal_runs, run_in, struck
from tests.helpers import write_image, write_mask

BASE = {
    "name": "tiny",
    "model": {"name": "unet", "base_channels": 4},
    "data": {"name": "folder", "size": [64, 64], "augment": "standard", "cache": True},
    "optim": {"lr": 1e-2},
    "train": {"epochs": 1, "batch_size": 4},
    "cv": {"folds": 2, "start_epochs": 1, "bn_images": 16, "line_points": 3, "line_images": 2},
    "log": {"plots": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten groups of two training images, three groups in val."""
    root = tmp_path_factory.mktemp("cv")
    for split, groups in (("train", 10), ("val", 3)):
        for g in range(groups):
            for i in range(2):
                write_image(root / "images" / split / f"g{g}" / f"{i}.png", seed=10 * g + i)
                write_mask(root / "labels" / split / f"g{g}" / f"{i}.png", (0, 1, 2))
    (root / "classes.yaml").write_text("names: [a, b, c]\n")
    return root


def config(folder: Path, *sets: str):
    return config_from(BASE, [f"data.root={folder}", *sets])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    cfg = config(folder)
    run = run_in(tmp_path_factory.mktemp("runs"), cfg, "whole")
    return cfg, run, cv.cross_validate(cfg, run, CPU)


def test_roles_are_disjoint_grouped_and_used(folder, tmp_path):
    cfg = config(folder)
    study = open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)
    groups = {role: {study.train.groups[i] for i in indices} for role, indices in study.roles.items()}
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 10
    for fold in study.folds:
        assert not {study.train.groups[i] for i in fold["train"]} & {study.train.groups[i] for i in fold["val"]}
        job = cv.fold_job(study, 0, 0, None)
        assert not set(job.train.names) & set(study.select.names) and not set(job.train.names) & set(job.val.names)
    bn = batchnorm_images(study, [0, 1])
    assert not set(bn) & set(study.roles["select"]) and len(bn) == 8 * (len(bn) // 8)


def test_results_and_candidates(finished):
    cfg, run, results = finished
    assert json.loads((run / "stage0" / "results.json").read_text()) == json.loads(json.dumps(results))
    rows = {c["name"]: c for c in results["candidates"]}
    assert list(rows) == ["best", "mean", "top3", "greedy", "weighted", "ensemble"]
    for row in rows.values():
        assert {"name", "members", "select_miou", "miou", "miou_raw", "labels"} <= set(row) and row["labels"] == []
        assert row["miou"] is not None and 0 <= row["miou"] <= 1
        assert sum(map(sum, row["confusion_matrix"])) == 6 * 64 * 64  # every labelled pixel of val, once
    assert rows["best"]["miou"] == rows["best"]["miou_raw"] == results["folds"][rows["best"]["members"][0]]["miou"]
    assert rows["ensemble"]["miou"] == rows["ensemble"]["miou_raw"]
    assert rows["mean"]["miou"] == rows["top3"]["miou"]  # of two folds, both are everything
    assert results["winner"] == max(results["candidates"], key=lambda c: c["select_miou"])["name"]
    assert len(results["line"]["miou"]) == 3 and results["pairwise_distance"][0][0] == 0
    assert all(f["distance_from_start"] > 0 for f in results["folds"])
    assert sum(results["class_frequency"].values()) == pytest.approx(1)


def test_candidate_files_rebuild_what_was_scored(finished):
    cfg, run, results = finished
    study = open_study(cfg, run, CPU)
    for row in results["candidates"]:
        file = ckpt.load_ours(run / "aggregate" / f"{row['name']}.pt")
        score = study.score(file.get("ensemble", [file["model"]]), study.report)
        assert score.confusion.matrix.tolist() == row["confusion_matrix"], row["name"]
        assert len(file["member_hashes"]) == len(row["members"])


@pytest.mark.parametrize("select", ["role", "val"])
def test_extras_of_the_candidates(finished, folder, tmp_path, select):
    """Of every candidate, in the pass that scores it; single images and curves of the winner alone."""
    cfg, run, plain = finished
    assert not {"auc", "boundary_miou"} & set(plain["candidates"][0])
    with_extra = config(folder, "eval.extra=true", f"cv.select={select}", "cv.line_points=0")
    if select == "role":  # the finished run, scored again
        results = aggregate_stage(open_study(with_extra, run, CPU), 0, keep=False)
        assert [r["miou"] for r in results["candidates"]] == [r["miou"] for r in plain["candidates"]]
    else:
        run = run_in(tmp_path, with_extra, "run")
        results = cv.cross_validate(with_extra, run, CPU)
    pixels = 6 * 64 * 64
    for row in results["candidates"]:
        assert set(row["auc"]) == {"a", "b", "c"} and sum(row["reliability"]["pixels"]) == pixels
        assert {"mean_auc", "ece", "boundary_miou", "miou_per_image"} <= set(row)
        assert ("roc" in row) == ("per_image" in row) == (row["name"] == results["winner"])
    study = open_study(with_extra, run, CPU)
    models = [study.model(ckpt.load_ours(run / f"stage0/fold{f}/best.pt")["model"]) for f in range(2)]
    gap = torch.zeros(15, dtype=torch.float64)
    for image, target in (study.report[i] for i in range(6)):
        with torch.inference_mode():
            probs = sum(m(image[None])["out"][0].softmax(0) for m in models) / 2  # of an ensemble: of probabilities
        confidence, pred = probs.max(0)
        places = (confidence * 15).ceil().long().clamp(1, 15) - 1
        gap.index_add_(0, places.flatten(), ((pred == target).double() - confidence.double()).flatten())
    ensemble = next(r for r in results["candidates"] if r["name"] == "ensemble")
    assert ensemble["ece"] == pytest.approx((gap.abs().sum() / pixels).item(), abs=1e-5)


def test_scoring_again_gives_the_same_digits(finished):
    cfg, run, results = finished
    again = aggregate_stage(open_study(cfg, run, CPU), 0)
    for r in (results, again):
        r.pop("seconds", None), r.pop("peak_memory", None)
    assert again == results


def test_killed_between_folds_and_inside_one(finished, tmp_path, monkeypatch):
    cfg, whole, _ = finished
    broken = run_in(tmp_path, cfg, "broken")
    jobs = []

    def dying_fit(job, log, device):
        jobs.append(job.title())
        if len(jobs) == 3:  # start and fold 0 are done
            raise KeyboardInterrupt
        return fit(job, log, device)

    with monkeypatch.context() as m:
        m.setattr(cv, "fit", dying_fit)
        with pytest.raises(KeyboardInterrupt):
            cv.cross_validate(cfg, broken, CPU)
    Log(broken / "log.jsonl").append({"epoch": 99, "torn": True})  # an epoch whose checkpoint was never written
    with monkeypatch.context() as m:
        m.setattr(cv, "fit", lambda job, log, device: jobs.append(job.title()) or fit(job, log, device))
        cv.cross_validate(cfg, broken, CPU)
    assert jobs == ["start", "stage 0 fold 0", "stage 0 fold 1", "stage 0 fold 1"]
    equal_runs(whole, broken)


def test_kill_9_in_a_fold_then_resume_in_a_new_process(finished, tmp_path):
    cfg, whole, _ = finished
    (tmp_path / "cv.yaml").write_text(dump(cfg))
    process = struck(signal.SIGKILL, "stage0/fold0/last.pt", "cv.yaml", cwd=tmp_path)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (run,) = (tmp_path / "runs").iterdir()
    resumed = command(str(ROOT / "train.py"), "--resume", str(run), cwd=tmp_path)
    _, err = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, err
    equal_runs(whole, run)


def test_changed_data_is_noticed(finished, folder, tmp_path):
    cfg, run, _ = finished
    saved = json.loads((run / "splits.json").read_text())
    saved["names"][0] = "gone"
    (tmp_path / "splits.json").write_text(json.dumps(saved))
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError):
        open_study(cfg, tmp_path, CPU)


def test_averaging_refuses_different_starts(finished, folder, tmp_path):
    cfg, run, _ = finished
    study = open_study(cfg, run, CPU)
    path = study.fold_folder(0, 1) / "best.pt"
    original = path.read_bytes()
    try:
        member = ckpt.load(path)
        ckpt.save({**member, "init_hash": "another"}, path)
        with pytest.raises(UserError, match="same weights"):
            aggregate_stage(study, 0)
    finally:
        path.write_bytes(original)


@pytest.mark.parametrize(
    ("sets", "labels"),
    [
        (["cv.start=train", "cv.select=val"], ["contaminated"]),
        (["cv.select=val"], ["contaminated"]),
        (["cv.start=none"], ["unconnected"]),
    ],
)
def test_other_protocols_are_labelled(folder, tmp_path, capsys, sets, labels):
    cfg = config(folder, *sets)
    results = cv.cross_validate(cfg, run_in(tmp_path, cfg, "run"), CPU)
    rows = {c["name"]: c["labels"] for c in results["candidates"]}
    assert results["labels"] == labels and rows["mean"] == labels
    if labels == ["unconnected"]:
        assert rows["best"] == rows["ensemble"] == []  # nothing was averaged
        assert "share no training" in capsys.readouterr().err
        assert {f["distance_from_start"] for f in results["folds"]} == {None}
    if "cv.select=val" in sets:
        assert all(c["select_miou"] == c["miou"] for c in results["candidates"])


def test_start_on_all_of_train_and_no_select_role(folder, tmp_path):
    cfg = config(folder, "cv.start=train", "cv.select=val")
    study = open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)
    assert len(study.roles["start"]) == len(study.roles["fold"]) == 20 and study.roles["select"] == []


def test_stages_start_from_the_winner(folder, tmp_path):
    cfg = config(folder, "cv.stages=[{epochs: 1}, {epochs: 2, augment: none, lr: 1e-3}]", "cv.line_points=0")
    run = run_in(tmp_path, cfg, "run")
    results = cv.cross_validate(cfg, run, CPU)
    first = json.loads((run / "stage0" / "results.json").read_text())
    assert results["stage"] == 1 and results["stages"] == 2 and results["line"] is None
    single = max((c for c in first["candidates"] if c["name"] != "ensemble"), key=lambda c: c["select_miou"])
    winner = ckpt.load(run / "aggregate" / f"stage0-{single['name']}.pt")["model"]
    start = ckpt.load(run / "stage1" / "start.pt")["model"]
    assert ckpt.state_hash(winner) == ckpt.state_hash(start)
    member = ckpt.load(run / "stage1" / "fold0" / "last.pt")
    assert member["epoch"] == 2 and member["init_hash"] == ckpt.state_hash(start)
    assert (run / "aggregate" / "mean.pt").exists()  # the last stage has the plain names


@pytest.fixture(scope="module")
def without_scores(folder, tmp_path_factory):
    """The same images, but void is all that the labels of `select` and val hold: no mIoU is defined there."""
    root = tmp_path_factory.mktemp("void") / "data"
    shutil.copytree(folder, root)
    study = open_study(config(root), tmp_path_factory.mktemp("run"), CPU)
    for name in study.select.names:
        write_mask(root / "labels" / "train" / f"{name}.png", (255,))
    for name in study.report.names:
        write_mask(root / "labels" / "val" / f"{name}.png", (255,))
    return root


def test_a_run_whose_scores_are_undefined_ends_and_resumes(without_scores, tmp_path, capsys):
    """Ranking by max once preferred nan, and results.json refused it after all folds were trained."""
    cfg = config(without_scores, "cv.stages=[{epochs: 1}, {epochs: 1}]")
    run = run_in(tmp_path, cfg, "run")
    results = cv.cross_validate(cfg, run, CPU)
    rows = {c["name"]: c for c in results["candidates"]}
    assert results["winner"] == "best" and rows["best"]["members"] == [0] and rows["greedy"]["members"] == [0]
    for row in rows.values():
        assert [row[k] for k in ("miou", "select_miou", "miou_raw", "bootstrap")] == [None] * 4
        assert any("select is undefined" in n and "a or b or c" in n for n in row["notes"])
    assert any("first candidate" in note for note in rows["best"]["notes"])
    assert results["fold_mean"] is None and results["fold_sd"] is None and set(results["line"]["miou"]) == {None}
    assert {f["select_miou"] for f in results["folds"]} == {None}
    assert ckpt.load(run / "aggregate" / "best.pt")["select_miou"] is None
    assert json.loads((run / "stage1" / "results.json").read_text()) == json.loads(json.dumps(results))
    assert cv.cross_validate(cfg, run, CPU) == results  # a resume reads it
    assert " -  " in candidates_table(results) and "undefined" in candidates_table(results)


def test_a_defined_score_ranks_before_an_undefined_one(finished, tmp_path, monkeypatch):
    """The first fold has no mIoU on select; the second fold and the averages have one."""
    cfg, run, _ = finished
    study = open_study(cfg, run, CPU)
    members = [ckpt.load_ours(run / f"stage0/fold{f}/best.pt") for f in range(2)]
    real = study.score
    undefined = ckpt.state_hash(members[0]["model"])

    def score(states, dataset, extra=False):
        found = real(states, dataset, extra)
        if dataset is study.select and ckpt.state_hash(states[0]) == undefined:
            found.confusion.counts = torch.zeros_like(found.confusion.counts)
        return found

    monkeypatch.setattr(study, "score", score)
    results = aggregate_stage(study, 0, keep=False)
    rows = {c["name"]: c for c in results["candidates"]}
    assert rows["best"]["members"] == [1] and rows["weighted"]["weights"] == [0.0, 1.0]
    assert results["folds"][0]["select_miou"] is None and results["folds"][1]["select_miou"] is not None
    assert rows[results["winner"]]["select_miou"] is not None and rows["ensemble"]["select_miou"] is None
    assert results["line"]["folds"] == [1, 0] and results["fold_mean"] is None


def test_pretrained_start_is_common_to_all_folds(finished, folder, tmp_path):
    _, run, _ = finished
    best = run / "aggregate" / "best.pt"
    cfg = config(folder, "cv.start=pretrained", f"model.pretrained={best}", "cv.line_points=0")
    new = run_in(tmp_path, cfg, "run")
    cv.cross_validate(cfg, new, CPU)
    hashes = {ckpt.load(new / "stage0" / f"fold{f}" / "last.pt")["init_hash"] for f in range(2)}
    assert hashes == {ckpt.state_hash(ckpt.load(best)["model"])}


def test_replayed_start_images_are_trained_on_and_never_scored(folder, tmp_path):
    cfg = config(folder, "cv.replay_start=true")
    study = open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)
    job = cv.fold_job(study, 0, 0, None)
    start = {study.train.names[i] for i in study.roles["start"]}
    assert start <= set(job.train.names) and not start & set(job.val.names)


def test_last_member(folder, tmp_path):
    cfg = config(folder, "cv.member=last", "cv.line_points=0")
    run = run_in(tmp_path, cfg, "run")
    results = cv.cross_validate(cfg, run, CPU)
    assert all(f["member"].endswith("last.pt") for f in results["folds"])


def test_more_folds_than_groups(folder, tmp_path):
    cfg = config(folder, "cv.folds=30")
    with pytest.raises(UserError, match="groups"):
        open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["cv.start_share=0"], ["cv.start_share", "cv.start to none"]),
        (["cv.select_share=0"], ["cv.select_share", "cv.select to val"]),
        (["schedule.name=plateau"], ["plateau", "select", "cv.start_overrides", "schedule.name: poly"]),
        (["loss.follow_iou=2"], ["follow_iou", "{loss.follow_iou: 0}"]),
        (["loss.terms=[{name: focal, follow_iou: 1}]"], ["follow_iou", "loss.terms"]),
        (["loss.aux={name: focal, follow_iou: 1}"], ["follow_iou"]),
        (["cv.start_overrides={schedule.name: plateau}"], ["plateau"]),
    ],
)
def test_roles_without_images_and_starts_that_follow_select_are_refused(folder, tmp_path, sets, words):
    cfg = config(folder, *sets)
    with pytest.raises(UserError) as e:
        open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)
    assert all(word in str(e.value) for word in words) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "sets",
    [
        ["cv.start_share=0", "cv.start=none"],
        ["cv.select_share=0", "cv.select=val"],
        ["schedule.name=plateau", "cv.start_overrides={schedule.name: poly}"],
        ["loss.follow_iou=2", "cv.start_overrides={loss.follow_iou: 0}"],
        ["schedule.name=plateau", "cv.select=val"],  # labelled contaminated
    ],
)
def test_the_remedies_work(folder, tmp_path, sets):
    cfg = config(folder, *sets)
    study = open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)
    assert len(study.select) and (cfg.cv.start == "none" or cv.start_job(study).train)


def test_limit_is_per_role_and_fold(folder, tmp_path):
    cfg = config(folder, "data.limit=2")
    study = open_study(cfg, run_in(tmp_path, cfg, "run"), CPU)
    assert [len(study.roles[r]) for r in ("start", "fold", "select")] == [2, 4, 2]
    assert [len(f["val"]) for f in study.folds] == [2, 2] and len(study.report) == 2
    torch.manual_seed(0)
