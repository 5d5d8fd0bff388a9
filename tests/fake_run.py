"""Run folders with plausible invented numbers, in the engine's format, for tests of reports and plots."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import yaml

NAMES = [
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
]  # fmt: skip
PALETTE = [
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
]  # fmt: skip
SHARES = [0.33, 0.05, 0.22, 0.006, 0.008, 0.011, 0.002, 0.005, 0.16, 0.011, 0.04, 0.011, 0.0012, 0.065, 0.003, 0.0021,
          0.0, 0.0009, 0.004]  # fmt: skip
ABSENT = "train"  # a class without pixels: its IoU is None


def confusion(quality: float, seed: int, names=NAMES, shares=SHARES) -> list[list[int]]:
    """(C, C) counts, rows are target; rare classes lose more pixels to common ones."""
    rng, matrix = np.random.default_rng(seed), np.zeros((len(names), len(names)), np.int64)
    for c, share in enumerate(shares):
        right = min(0.97, quality + 0.09 * math.log10(max(share, 1e-6) / 0.01))
        lost = rng.dirichlet(np.asarray(shares) + 0.01) * (1 - right)
        matrix[c] = 1e6 * share * lost
        matrix[c, c] += int(1e6 * share * right)
        matrix[c, [k for k, s in enumerate(shares) if s == 0]] = 0
    return matrix.tolist()


def scores(matrix: list[list[int]], names=NAMES) -> dict:
    """The scores of a confusion matrix, with None where the engine writes null."""
    m = np.asarray(matrix, float)
    tp, union = m.diagonal(), m.sum(0) + m.sum(1) - m.diagonal()
    iou = [t / u if u else None for t, u in zip(tp, union)]
    known = [v for v in iou if v is not None]
    weights = m.sum(1) / m.sum()
    return {
        "miou": sum(known) / len(known),
        "pixel_accuracy": tp.sum() / m.sum(),
        "mean_accuracy": float(np.mean([t / s for t, s in zip(tp, m.sum(1)) if s])),
        "dice": sum(2 * v / (1 + v) for v in known) / len(known),
        "fw_iou": float(sum(w * (v or 0) for w, v in zip(weights, iou))),
        "per_class": dict(zip(names, iou)),
        "confusion_matrix": matrix,
    }


def extra_scores(quality: float, seed: int, names=NAMES, images: int = 40) -> dict:
    """What eval.extra adds to a row, and its scores of single images."""
    rng, fpr = np.random.default_rng(seed), np.linspace(0, 1, 60)
    power = {n: quality + 0.3 * (k % 5) / 5 for k, n in enumerate(names)}
    roc = {n: {"fpr": fpr.tolist(), "tpr": (fpr ** (1 - p)).tolist()} for n, p in power.items()}
    auc = {n: 1 / (2 - p) for n, p in power.items()}
    roc[ABSENT], auc[ABSENT] = None, None
    pixels = [0, 0, *(int(1000 * 1.5**k) for k in range(13))]
    upper = [(k + 1) / 15 for k in range(15)]
    confidence = [u - 0.03 if n else None for u, n in zip(upper, pixels)]
    accuracy = [0.9 * c if n else None for c, n in zip(confidence, pixels)]
    mious = [None, *np.clip(rng.normal(quality, 0.12, images - 1), 0.02, 1).tolist()]
    return {
        "miou_per_image": quality, "boundary_miou": quality - 0.2, "mean_auc": 0.9, "auc": auc, "roc": roc, "ece": 0.05,
        "boundary_iou": {n: None if n == ABSENT else quality - 0.2 for n in names},
        "reliability": {"upper": upper, "pixels": pixels, "accuracy": accuracy, "confidence": confidence},
        "per_image": {"names": [f"<city>/{k:03d}" for k in range(images)], "groups": ["g"] * images,
                      "cells": ["0 0 9"] * images, "miou": mious},
    }  # fmt: skip


def protocol(split: str = "val") -> dict:
    return {
        "data": "streets", "split": split, "images": 40, "size": [128, 256], "native": False, "absent": "nan",
        "scales": [1.0], "flip": False, "window": None, "data_hash": "0123456789abcdef" * 4,
    }  # fmt: skip


def stage_results(
    stage: int, stages: int, folds: int, labels=(), start="role", select="role", extra=False
) -> dict:  # fmt: skip
    base = 0.66 + 0.04 * stage
    rows = []
    for f in range(folds):
        wobble = 0.012 * math.sin(3 * f + stage)
        rows.append(
            {
                "fold": f, "best_epoch": 7 + f % 3,
                "val_miou": base - 0.08 + wobble, "select_miou": base - 0.1 + wobble,
                "miou": base - 0.095 + 0.8 * wobble, "distance_from_start": 6.1 + f / 10, "seconds": 61.0 + f,
                "member": f"stage{stage}/fold{f}/best.pt",
            }  # fmt: skip
        )  # fmt: skip
    selects = [r["select_miou"] for r in rows]
    mean = sum(selects) / folds
    sd = math.sqrt(sum((s - mean) ** 2 for s in selects) / (folds - 1))
    order = sorted(range(folds), key=lambda f: -selects[f])
    makers = [("best", order[:1], 0.0), ("mean", list(range(folds)), 0.012), ("top3", sorted(order[:3]), 0.014),
              ("greedy", sorted(order[:2]), 0.009), ("weighted", list(range(folds)), 0.012),
              ("ensemble", list(range(folds)), 0.013)]  # fmt: skip
    candidates = []
    for name, members, gain in makers:
        averaged = name not in ("best", "ensemble")
        row = {"name": name, "members": members, "weights": [1 / len(members)] * len(members)}
        row |= scores(confusion(base + gain, seed=stage))
        row["select_miou"] = max(selects) + gain
        row["miou_raw"] = row["miou"] - (0.031 if averaged else 0)
        row["bootstrap"] = None if name == "best" else {"difference": gain, "low": gain - 0.011, "high": gain + 0.009}
        if extra:
            found = extra_scores(base + gain, stage)
            row |= {k: v for k, v in found.items() if name == "top3" or k not in ("per_image", "roc")}
        row["labels"], row["notes"] = [x for x in labels if x != "unconnected" or averaged], []
        candidates.append(row)
    distances = [[0.0 if a == b else 8.5 + abs(a - b) / 5 for b in range(folds)] for a in range(folds)]
    facts = {"start": start, "select": select, "member": "best", "labels": list(labels)}
    return {
        "stage": stage, "stages": stages, "class_names": NAMES, "palette": [list(c) for c in PALETTE],
        "protocol": protocol() | facts, "labels": list(labels), "folds": rows, "fold_mean": mean, "fold_sd": sd,
        "candidates": candidates, "winner": "top3", "pairwise_distance": distances,
        "line": {"folds": order[:2], "t": [0, 0.25, 0.5, 0.75, 1], "miou": [0.55, 0.561, 0.566, 0.563, 0.553],
                 "images": 16, "split": "select"},
        "class_frequency": dict(zip(NAMES, SHARES)), "images": 40, "seconds": 81.0,
    }  # fmt: skip


def log_rows(epochs: int, fold, stage, offset: float = 0.0, every: int = 1) -> list[dict]:
    rows = []
    for e in range(1, epochs + 1):
        rise, wobble = 1 - math.exp(-(e + 10 * offset) / 6), 0.01 * math.sin(e + (fold if isinstance(fold, int) else 0))
        scored = e % every == 0 or e == epochs
        rows.append(
            {
                "epoch": e, "fold": fold, "stage": stage, "lr": 1e-3 * (1 - (e - 1) / epochs) ** 0.9,
                "train_loss": 1.9 - 1.5 * rise, "train_cross_entropy": 1.2 - 0.9 * rise,
                "train_miou": 0.62 * rise + wobble,
                "val_loss": 2.0 - 1.45 * rise - wobble if scored else None,
                "val_miou": 0.58 * rise + 2 * wobble if scored else None,
                "val_fw_iou": 0.8 * rise if scored else None, "seconds": 6.0, "images/s": 24.0 + e % 3,
            }  # fmt: skip
        )  # fmt: skip
    return rows


def write(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, allow_nan=False))


def common_files(run: Path, folds: int, stages: int, plots: bool) -> None:
    run.mkdir(parents=True)
    config = {
        "name": "deeplabv3plus-streets", "seed": 0, "model": {"name": "deeplabv3plus_resnet18"},
        "data": {"name": "streets", "size": [128, 256]},
        "cv": {"folds": folds, "stages": [{}] * stages if stages > 1 else []}, "log": {"plots": plots},
    }  # fmt: skip
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write(run / "environment.json", {
        "torch": "2.11.0", "torchvision": "0.26.0", "python": "3.12.1", "platform": "Linux", "device": "cpu",
        "threads": 2, "git": "abc1234", "command": "python train.py configs/deeplabv3plus_cv.yaml",
        "started": "2026-01-02 03:04:05",
    })  # fmt: skip


def write_log(run: Path, rows: list[dict]) -> None:
    (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def cross_validated(run: Path, folds=5, stages=2, finished: int | None = None, plots=False, **options) -> Path:
    """A cross-validated run of which `finished` stages (default: all) have been scored."""
    common_files(run, folds, stages, plots)
    roles = {"start": list(range(84)), "fold": list(range(84, 204)), "select": list(range(204, 240))}
    write(run / "splits.json", {"names": [f"i{k}" for k in range(240)], "roles": roles, "folds": [], "hash": "0" * 64})
    rows = log_rows(12, "start", 0)
    for stage in range(stages):
        for fold in range(folds):
            rows += log_rows(8, fold, stage, offset=1 + 0.5 * stage, every=2)
    write_log(run, rows)
    for stage in range(stages if finished is None else finished):
        write(run / f"stage{stage}" / "results.json", stage_results(stage, stages, folds, **options))
    return run


def single(run: Path, finished: bool = True, plots=False) -> Path:
    common_files(run, 0, 0, plots)
    write_log(run, log_rows(20, None, None))
    if finished:
        write(run / "results.json", {
            "class_names": NAMES, "palette": [list(c) for c in PALETTE], "protocol": protocol(), "best_epoch": 18,
            "select": None, **scores(confusion(0.7, 3)), "class_frequency": dict(zip(NAMES, SHARES)), "images": 40,
            "seconds": 120.0,
        })  # fmt: skip
    return run
