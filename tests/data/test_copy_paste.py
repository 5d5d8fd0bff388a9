"""Copy-paste: which objects are pasted, from which images, and that labels move along."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data import build_dataset
from data.augment.copy_paste import CopyPaste, build_copy_paste, paste, random_subset
from data.augment.draws import sample_rng
from data.augment.transforms import denormalise
from data.loader import build_loader
from engine.folds.cross_validation import fold_job, start_job
from engine.folds.roles import open_study
from tests.helpers import config, make_folder, refuses, write_mask

NAMES = ("background", "fence", "car", "pole")
SIZE = (64, 80)


def scene(value: int, *blocks: tuple[int, slice, slice]) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture of one grey with the given blocks, (class, rows, columns), brighter by ten for each class."""
    target = torch.zeros(SIZE, dtype=torch.uint8)
    for label, rows, columns in blocks:
        target[rows, columns] = label
    return (value + 10 * target.clamp(max=5)).expand(3, *SIZE).contiguous(), target


def test_pixels_and_labels_come_together():
    image, target = scene(20, (3, slice(0, 30), slice(0, 80)))
    before = image.clone(), target.clone()
    other, labels = scene(
        100, (1, slice(20, 40), slice(0, 9)), (2, slice(20, 40), slice(9, 30)), (255, slice(50, 60), slice(0, 80))
    )
    out, pasted = paste(image, target, other, labels, [2, 3], 0.0)
    mask = labels == 2
    assert torch.equal(out, torch.where(mask, other, image)) and torch.equal(pasted, torch.where(mask, labels, target))
    assert pasted[25, 15] == 2 and out[0, 25, 15] == 120 and pasted[25, 4] == 3  # the fence stayed where it was
    assert torch.equal(image, before[0]) and torch.equal(target, before[1])  # cached tensors are not written to
    assert set(pasted.unique().tolist()) == {0, 2, 3}  # no void came along


def test_only_classes_asked_for_are_pasted_and_all_subsets_have_the_same_chance():
    image, target = scene(20)
    blocks = [(c, slice(10 * c, 10 * c + 5), slice(0, 80)) for c in (1, 2, 3)] + [(255, slice(50, 60), slice(0, 80))]
    source = scene(100, *blocks)
    seen = Counter()
    for seed in range(700):
        with sample_rng(seed):
            _, pasted = CopyPaste(1.0, (1, 2, 3))(image, target, source)
        seen[tuple(sorted(set(pasted.unique().tolist()) - {0}))] += 1
    assert set(seen) == {(1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)}
    assert all(60 < n < 145 for n in seen.values())
    for seed in range(30):
        with sample_rng(seed):
            _, pasted = CopyPaste(1.0, (2, 3))(image, target, source)
        assert 1 not in pasted
    assert random_subset([]) == []
    with sample_rng(0):
        out, pasted = CopyPaste(1.0, (2, 3))(image, target, scene(100))  # nothing there to be pasted
    assert torch.equal(out, image) and torch.equal(pasted, target)


def test_sources_are_resized_and_mirrored_half_of_the_time():
    image, target = scene(20)
    labels = torch.zeros(32, 40, dtype=torch.uint8)
    labels[4:8, 2:10] = 1
    left = 0
    for seed in range(200):
        with sample_rng(seed):
            _, pasted = CopyPaste(1.0, (1,))(image, target, (labels.expand(3, 32, 40) * 100, labels))
        assert pasted.shape == SIZE and (pasted == 1).sum() == 4 * 8 * 4
        left += (pasted[8:16, 4:20] == 1).all().item()
    assert 75 < left < 125


def test_a_soft_edge_blends_the_image_and_leaves_the_label_hard():
    image, target = scene(20)
    other, labels = scene(
        200, (2, slice(10, 40), slice(20, 60)), (1, slice(50, 60), slice(40, 42)), (255, slice(10, 40), slice(60, 64))
    )
    hard, soft = paste(image, target, other, labels, [1, 2], 0.0), paste(image, target, other, labels, [1, 2], 2.0)
    assert torch.equal(hard[1], soft[1])
    edge = soft[0][0, 25, 10:30].int()
    assert (edge.diff() >= 0).all() and len(edge.unique()) > 6  # a ramp, not a step
    assert edge[0] == 20 and edge[-1] == 220
    assert edge[9] < 120 <= edge[10]  # and its middle is the label's border
    assert (soft[0][0, 10:40, 60:64] == 20).all()  # nothing of an ignored pixel
    assert soft[0][0, 55, 40] >= 20 + (210 - 20) // 2  # two pixels wide, and still more than half itself


# --- in a data set ----------------------------------------------------------------------------------------------------


def numbered(root: Path, n: int = 8) -> Path:
    """Images of one grey each, 20 * index + 10, with a car in its own column: a pasted pixel identifies its source."""
    from PIL import Image

    make_folder(root, ("train", "val"), n=n, names=NAMES)
    for split in ("train", "val"):
        for i in range(n):
            value = 20 * i + 10 + 5 * (split == "val")
            Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(root / f"images/{split}/{i:02d}.png")
            mask = np.zeros(SIZE, np.uint8)
            mask[:, 8 * i : 8 * i + 4] = 2
            mask[:4, :] = 255
            write_mask(root / f"labels/{split}/{i:02d}.png", mask)
    return root


def cfg_for(root: Path, **data):
    return config("folder", root, size=SIZE, **{"copy_paste": 1.0, **data})


def sources(dataset, i: int, epochs: int = 40) -> set[int]:
    """Indices of the images whose pixels sample `i` ever shows."""
    seen = set()
    for epoch in range(epochs):
        grey = denormalise(dataset[(epoch, i)][0])[0].int()
        seen |= {(v - 10) // 20 for v in grey.unique().tolist()}
        assert all((v - 10) % 20 == 0 for v in grey.unique().tolist())  # none of val, which has other greys
    return seen


def test_sources_are_training_images_and_of_the_subset_alone(tmp_path):
    dataset = build_dataset(cfg_for(numbered(tmp_path)), "train", True)
    assert sources(dataset, 3, 80) == set(range(8))  # itself too
    part = dataset.subset([1, 4, 6])
    assert sources(part, 1) == {1, 4, 6}
    assert sources(dataset.plain(), 1, 5) == {1}
    assert build_dataset(cfg_for(tmp_path), "val", False).paste is None
    once = build_dataset(cfg_for(tmp_path, copy_paste=0.25), "train", True).subset([2, 5])
    changed = [len(denormalise(once[(e, 0)][0]).unique()) > 1 for e in range(400)]
    assert np.mean(changed) == pytest.approx(0.25 / 2, abs=0.06)  # half of the draws hit the image itself


@pytest.mark.parametrize("start", ["role", "none"])
def test_folds_paste_from_their_own_training_images(tmp_path, start):
    cfg = cfg_for(numbered(tmp_path / "data"))
    cfg.cv.folds, cfg.cv.start, cfg.cv.group = 2, start, "none"
    (tmp_path / "run").mkdir()
    study = open_study(cfg, tmp_path / "run", torch.device("cpu"))
    for fold in range(2):
        job = fold_job(study, 0, fold, None)
        own = {int(n) for n in job.train.names}
        assert own.isdisjoint(int(n) for n in job.val.names)
        for i in range(len(job.train)):
            assert sources(job.train, i, 12) <= own
        assert [sources(job.val, i, 2) for i in range(len(job.val))] == [{int(n)} for n in job.val.names]
    if start == "role":
        job = start_job(study)
        assert sources(job.train, 0, 20) <= set(study.roles["start"])
        assert len(sources(job.train, 0, 20)) == len(study.roles["start"])
    assert [sources(study.select, i, 2) for i in range(len(study.select))] == [{i} for i in study.roles["select"]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_pasted_samples_are_the_same_for_any_worker_count_and_cache(tmp_path):
    root = make_folder(tmp_path, ("train",), n=6, values=(0, 1, 2, 3), names=NAMES)

    def batches(workers, cache, epochs):
        data = cfg_for(root, augment="advanced", cache=cache, copy_paste=0.5, paste_edge=1.0)
        loader = build_loader(build_dataset(data, "train", True), 4, train=True, seed=1, workers=workers)
        out = []
        for epoch in epochs:
            loader.batch_sampler.set_epoch(epoch)
            out += list(loader)
        return out

    expected = batches(0, False, (0, 1, 2))
    for got in (batches(0, True, (0, 1, 2)), batches(2, False, (0, 1, 2))):
        assert all(torch.equal(a, b) for x, y in zip(got, expected, strict=True) for a, b in zip(x, y))
    resumed = batches(1, True, (2,))
    assert all(torch.equal(a, b) for x, y in zip(resumed, expected[-2:], strict=True) for a, b in zip(x, y))
    assert all(set(y.unique().tolist()) <= {0, 1, 2, 3, 255} for _, y in expected)


def test_classes_by_name():
    assert build_copy_paste(0.0, [], [], 0, NAMES) is None
    assert build_copy_paste(0.5, [], [], 0, NAMES).classes == (1, 2, 3)
    assert build_copy_paste(0.5, [], ["fence"], 1.5, NAMES) == CopyPaste(0.5, (2, 3), 1.5)
    assert build_copy_paste(0.5, ["background", "pole"], [], 0, NAMES).classes == (0, 3)
    with refuses("unknown class .data.paste_exclude. 'fences': did you mean 'fence'"):
        build_copy_paste(0.0, [], ["fences"], 0, NAMES)
    with refuses("leaves no class"):
        build_copy_paste(0.5, ["fence"], ["fence"], 0, NAMES)
