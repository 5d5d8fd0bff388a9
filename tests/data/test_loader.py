from __future__ import annotations

import pickle
import re

import pytest
import torch

from common.command import clean_message
from common.errors import UserError
from common.seeds import mix_seed
from data import build_dataset, data_hash
from data.augment.draws import sample_rng
from data.loader import EpochBatchSampler, build_loader
from tests.helpers import config, make_folder, refuses, write_image, write_mask

# --- randomness, cache, loading ---------------------------------------------------------------------------------------


def test_sample_is_a_function_of_seed_epoch_index(tmp_path):
    root = make_folder(tmp_path, ("train",), n=6)
    cfg = config("folder", root, augment="advanced")
    dataset = build_dataset(cfg, "train", True)
    first = dataset[(3, 2)]
    torch.manual_seed(99)
    dataset[(1, 1)]
    assert all(torch.equal(a, b) for a, b in zip(first, dataset[(3, 2)]))
    assert not torch.equal(first[0], dataset[(4, 2)][0])
    part = dataset.subset([5, 2])  # the same image keeps its own randomness in any fold
    assert all(torch.equal(a, b) for a, b in zip(first, part[(3, 1)]))
    plain = dataset.subset([2], augment="none")
    assert torch.equal(plain[(0, 0)][0], plain[(7, 0)][0]) and not torch.equal(first[0], plain[0][0])
    assert torch.equal(dataset[0][0], dataset[(0, 0)][0])
    cfg.seed = 1
    assert not torch.equal(first[0], build_dataset(cfg, "train", True)[(3, 2)][0])


def test_sampling_leaves_the_run_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with sample_rng(1, 2, 3):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected) and not torch.equal(inside, expected)
    seeds = {mix_seed(s, e, i) for s in range(10) for e in range(10) for i in range(10)}
    assert len(seeds) == 1000  # sums would collide


def test_cache_changes_nothing(tmp_path):
    root = make_folder(tmp_path, ("train",))
    fresh, kept = (
        build_dataset(config("folder", root, augment="advanced", cache=cache), "train", True) for cache in (False, True)
    )
    for epoch in range(3):
        for i in range(4):
            assert all(torch.equal(a, b) for a, b in zip(fresh[(epoch, i)], kept[(epoch, i)]))
    for file in (root / "images/train").iterdir():
        file.unlink()
    assert torch.equal(kept.subset([1])[(0, 0)][1], kept[(0, 1)][1])  # subsets read the same cache: no file is left


def test_native_targets(tmp_path):
    root = make_folder(tmp_path, ("val",))
    cfg = config("folder", root, cache=True)
    cfg.eval.native = True
    dataset = build_dataset(cfg, "val", False)
    for _ in range(2):
        image, target = dataset[0]
        assert image.shape == (3, 32, 48) and target.shape == (40, 60)
    assert build_dataset(cfg, "val", True)[0][1].shape == (32, 48)
    write_image(root / "images/val/00.png", (20, 30))
    write_mask(root / "labels/val/00.png", (0,), (20, 30))
    images, targets = next(iter(build_loader(build_dataset(cfg, "val", False), 2, train=False)))
    assert images.shape == (2, 3, 32, 48) and [tuple(t.shape) for t in targets] == [(20, 30), (40, 60)]


def batches_of(dataset, workers: int, epochs: int = 2) -> list:
    loader = build_loader(dataset, 3, train=True, seed=7, workers=workers)
    out = []
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)
        out += list(loader)
    return out


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on two cores are the point here
def test_same_samples_for_any_number_of_workers(tmp_path):
    root = make_folder(tmp_path, ("train",), n=8)
    for cache in (False, True):
        dataset = build_dataset(config("folder", root, augment="advanced", cache=cache), "train", True)
        expected = batches_of(dataset, 0)
        assert len(expected) == 6 and expected[-1][0].shape == (2, 3, 32, 48)
        for workers in (1, 3):
            for (x, y), (x0, y0) in zip(batches_of(dataset, workers), expected, strict=True):
                assert torch.equal(x, x0) and torch.equal(y, y0)
    assert not torch.equal(expected[0][0], expected[3][0])  # epochs differ


def test_batches_are_shuffled_by_epoch_and_resume_where_they_were():
    sampler = EpochBatchSampler(10, 4, train=True, seed=0)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == 3 and [len(b) for b in batches] == [4, 4, 2]
        assert sorted(i for b in batches for _, i in b) == list(range(10)) and {e for b in batches for e, _ in b} == {
            epoch
        }
        epochs.append(batches)
    assert [[i for _, i in b] for b in epochs[0]] != [[i for _, i in b] for b in epochs[1]]
    resumed = EpochBatchSampler(10, 4, train=True, seed=0)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    ordered = EpochBatchSampler(10, 4, train=False, seed=0)
    assert [i for b in ordered for _, i in b] == list(range(10))


@pytest.mark.parametrize("length, batch, train, sizes", [
    (9, 4, True, [4, 4]),
    (9, 4, False, [4, 4, 1]),
    (1, 4, True, [1]),
    (3, 1, True, [1, 1, 1]),
])  # fmt: skip
def test_a_single_left_over_image_sits_out_while_training(length, batch, train, sizes):
    sampler = EpochBatchSampler(length, batch, train, seed=0)
    assert [len(b) for b in sampler] == sizes and len(sampler) == len(sizes)


@pytest.mark.parametrize("length", [8, 11, 13])
def test_sharding(length):
    def shares(train):
        return [[i for b in EpochBatchSampler(length, 2, train, 0, r, 3) for _, i in b] for r in range(3)]

    train = [EpochBatchSampler(length, 2, True, 0, r, 3) for r in range(3)]
    assert len({len(s) for s in train}) == 1 and all(len(list(s)) == len(s) for s in train)
    seen = sum(shares(True), [])
    assert len(seen) == len(set(seen))
    assert sorted(sum(shares(False), [])) == list(range(length))  # scores need every image exactly once
    with refuses("cannot be shared by 3 processes"):
        EpochBatchSampler(2, 2, True, 0, 0, 3)
    with refuses("train.batch_size: expected at least 1, got 0"):
        EpochBatchSampler(2, 0, True, 0)


def test_loading_does_not_touch_the_run_generator(tmp_path):
    dataset = build_dataset(config("folder", make_folder(tmp_path, ("train",)), augment="advanced"), "train", True)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    list(build_loader(dataset, 2, train=True))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_still_one_line(tmp_path, workers):
    root = make_folder(tmp_path, ("train",), values=(0, 77))
    dataset = build_dataset(config("folder", root), "train", True)
    with pytest.raises(UserError) as error:
        list(build_loader(dataset, 2, train=False, workers=workers))
    line = clean_message(error.value)
    assert re.fullmatch(r".*00\.png: values that are no class of '.*: 77 \(1200 px\).*\{77: 255\}; .*", line)


def test_clean_message_of_other_errors():
    assert clean_message(ValueError("plain")) == "plain"
    assert clean_message(RuntimeError("first\nsecond")) == "first"
    assert clean_message(KeyError()) == "KeyError"


def test_data_hash_follows_content_not_place(tmp_path):
    first = build_dataset(config("folder", make_folder(tmp_path / "a" / "set", ("train",))), "train", True)
    second = build_dataset(config("folder", make_folder(tmp_path / "b" / "set", ("train",))), "train", False)
    assert data_hash(first) == data_hash(second)
    assert data_hash(first.subset([0, 1])) != data_hash(first)
    mapped = build_dataset(config("folder", tmp_path / "a" / "set", label_map={9: 1}), "train", True)
    assert data_hash(mapped) != data_hash(first)
    write_image(tmp_path / "b/set/images/train/00.png", (41, 60))
    assert data_hash(second) != data_hash(first)


def test_a_dataset_travels_to_spawned_workers(tmp_path):
    dataset = build_dataset(config("folder", make_folder(tmp_path), augment="advanced"), "train", True)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[(2, 1)][0], dataset[(2, 1)][0])
