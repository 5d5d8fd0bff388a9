"""Every config trains two iterations and evaluates, on tiny data of its own layout at 64x64.

The first config of each network trains it in full. Later ones build it without memory and train a shallow relative.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from data import build_dataset
from engine import checkpoint as ckpt
from engine.config import Config, config_from, load_config, to_dict
from engine.evaluation.networks import build_network
from engine.training.single_run import train_single
from models import MODELS
from tests.data.test_public_data import draw, frames, make_pets
from tests.engine.test_training import run_in
from tests.helpers import make_camvid, make_cityscapes, make_folder

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SMALL = ["data.size=[64, 64]", "data.cache=false", "train.workers=0", "train.amp=none", "train.validate_every=1",
         "train.batch_size=2", "log.plots=false", "model.pretrained=null", "model.reuse_classes=false",
         "eval.batch_size=2", "eval.scales=[1.0]", "eval.flip=false", "device=cpu"]  # fmt: skip
NARROW = ("better_seg_network", "unet")  # their width is an option


def firsts() -> list[Path]:
    """The first config of each network."""
    found: dict[str, Path] = {}
    for path in CONFIGS:
        found.setdefault(load_config(path).model.name, path)
    return list(found.values())


FIRSTS = firsts()


def shallow(name: str) -> list[str]:
    """Overrides for a smaller network with the same kind of encoder and head."""
    if name in NARROW:
        return ["model.base_channels=8"]
    relative = re.sub(r"resnet\d+$", "resnet18", re.sub(r"_b\d$", "_b0", name))
    return [f"model.name={relative}"] if relative in MODELS else []


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A tiny data set for every name that configs use."""
    place = tmp_path_factory.mktemp("data")
    for split in ("train", "val", "test"):
        make_cityscapes(place / "cityscapes", cities=[f"{split}{i}" for i in range(8)], split=split, n=2)
        make_camvid(place / "camvid", {f"{split}{i}": 3 for i in range(8)}, split)
    make_pets(place / "pets")
    make_folder(place / "folder", n=5)
    for split, n in (("training", 8), ("testing", 2)):
        draw(place / "kitti" / split / "image", place / "kitti" / split / "label", frames(n), (0, 2, 13, 255))
    return {"cityscapes": place / "cityscapes", "streets": place / "cityscapes", "camvid": place / "camvid",
            "pets": place / "pets", "folder": place / "folder", "kitti": place / "kitti"}  # fmt: skip


def teacher(cfg: Config, place: Path, roots: dict[str, Path]) -> Path:
    """A checkpoint of a small network for the config's data, to learn from."""
    data = {"name": "cityscapes", "root": str(roots["cityscapes"]), "size": [64, 64]}
    small = config_from({"model": {"name": "unet", "base_channels": "4"}, "data": data})
    dataset = build_dataset(small, "train", train=False)
    checkpoint = {"model": ckpt.cpu_state(build_network(small, 19)), "config": to_dict(small),
                  "class_names": list(dataset.class_names), "palette": [[0, 0, 0]] * 19}  # fmt: skip
    ckpt.save(checkpoint, place / "teacher.pt")
    return place / "teacher.pt"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_trains_and_evaluates(path, roots, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # these checkpoints, up to 1 GB each, need not be durable,
    save = ckpt.save  # the weights are read again, the optimiser's state never is
    monkeypatch.setattr(ckpt, "save", lambda content, path: save({**content, "optimizer": {}}, path))
    plain = load_config(path)
    sets = [*SMALL, f"data.root={roots[plain.data.name]}", "train.epochs=1", "data.limit=4"]  # two iterations
    sets += ["data.name=cityscapes"] if plain.data.name == "streets" else []  # the same layout, without drawing it
    sets += ["data.sample=[4, 2, 0]"] if plain.data.sample else []
    sets += ["data.crop=[64, 64]"] if plain.data.crop else []
    if path not in FIRSTS:
        with torch.device("meta"):
            build_network(load_config(path, sets), 19)
        sets += shallow(plain.model.name)
    if plain.loss.teacher:
        sets.append(f"loss.teacher={teacher(plain, tmp_path, roots)}")
    if plain.cv.folds:  # folds and their candidates: tests/engine/test_cross_validation.py
        sets += ["cv.folds=0", "cv.start=none", "cv.stages=[]", "cv.start_overrides={}"]
    results = train_single(cfg := load_config(path, sets), run_in(tmp_path, cfg, "run"), torch.device("cpu"))
    shutil.rmtree(tmp_path / "run")
    assert 0 <= results["miou"] <= 1 and 0 < results["images"] <= 4
