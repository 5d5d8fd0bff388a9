"""Rare-class sampling: the formula, the draws, and that they are a function of (seed, epoch) alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from data import build_dataset
from data.augment.draws import sample_rng
from data.augment.geometry import scaled_crop
from data.class_weights import count_pixels
from data.loader import EpochBatchSampler, build_loader
from data.rare_class_sampling import MIN_SHARE, rare_classes
from engine.training.job import Job, build_parts
from tests.helpers import config, make_folder, refuses, write_mask

COUNTS = torch.tensor([[900, 100, 0, 0], [990, 0, 10, 0], [1000, 0, 0, 0], [950, 0, 49, 1]])


def test_probabilities_follow_the_formula():
    share = COUNTS.sum(0).numpy() / COUNTS.sum().item()
    for temperature in (0.01, 0.05, 1.0):
        expected = np.exp((1 - share) / temperature - 1 / temperature)
        rare = rare_classes(COUNTS, temperature)
        assert np.allclose(rare.probabilities.numpy(), expected / expected.sum())
    assert rare_classes(COUNTS, 0.01).probabilities[0] < 1e-6 < 0.3 < rare_classes(COUNTS, 0.01).probabilities[3]
    assert torch.allclose(rare_classes(COUNTS, 1e3).probabilities, torch.tensor(0.25).double(), atol=1e-3)


def test_images_that_show_a_class():
    assert rare_classes(COUNTS, 0.01).images == [[0, 1, 2, 3], [0], [1, 3], [3]]  # 1 px of 1000: all there is
    more = torch.cat([COUNTS, torch.tensor([[500, 0, 0, 500]])])
    assert rare_classes(more, 0.01).images[3] == [4]  # now the one pixel is too small to count
    assert 0.001 < MIN_SHARE < 0.002
    gone = rare_classes(torch.tensor([[5, 0], [7, 0]]), 0.01)
    assert gone.probabilities.tolist() == [1, 0]
    with refuses("no training image has a labelled pixel"):
        rare_classes(torch.zeros(3, 2, dtype=torch.int64), 0.01)


def test_draws_follow_the_probabilities():
    rare = rare_classes(COUNTS, 0.5)
    drawn = rare.draw(20000, torch.Generator().manual_seed(0))
    classes = Counter(c for _, _, c in drawn)
    for c, p in enumerate(rare.probabilities.tolist()):
        assert classes[c] / 20000 == pytest.approx(p, abs=0.015)
        images = Counter(i for i, _, k in drawn if k == c)
        assert set(images) == set(rare.images[c])
        assert max(images.values()) < 1.25 * min(images.values()) + 30
    times = Counter()
    for image, before, _ in drawn:
        assert before == times[image]
        times[image] += 1


def epochs_of(n: int = 3, start: int = 0, **ranks) -> list:
    sampler = EpochBatchSampler(9, 4, True, 5, rare=rare_classes(COUNTS.repeat(3, 1)[:9], 0.05), **ranks)
    out = []
    for epoch in range(start, n):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(sampler)
        out.append(list(sampler))
    return out


def test_an_epoch_is_a_function_of_seed_and_epoch():
    epochs = epochs_of()
    assert [[len(b) for b in e] for e in epochs] == [[4, 4]] * 3  # a single left-over sits out, as ever
    assert epochs[0] != epochs[1] and {k[0] for b in epochs[2] for k in b} == {2}
    assert epochs_of(3, start=2) == epochs[2:]  # a resumed run
    shares = [epochs_of(1, rank=r, world_size=3)[0] for r in range(3)]
    keys = [k for share in shares for b in share for k in b]
    assert len(set(keys)) == len(keys) == 9 and all(len(s) == 1 for s in shares)


def rare_folder(root, n: int = 8):
    """Noise pictures; the class `c` is only in image 2, in one corner."""
    make_folder(root, ("train", "val"), n=n, names=("a", "b", "c"))
    for i in range(n):
        mask = np.zeros((80, 120), np.uint8)
        mask[:, 60:] = i % 2
        mask[:10, :10] = 2 if i == 2 else 0
        noise = np.random.default_rng(i).integers(0, 256, (80, 120, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / f"images/train/{i:02d}.png")
        write_mask(root / f"labels/train/{i:02d}.png", mask)
    return root


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_rare_images_come_often_and_never_look_the_same(tmp_path):
    cfg = config("folder", rare_folder(tmp_path), size=(80, 120), augment="standard", sampling="rare_class")
    dataset = build_dataset(cfg, "train", True)
    counts = count_pixels(dataset)
    assert counts[2].tolist() == [80 * 120 - 100, 0, 100] and counts[3].tolist() == [4800, 4800, 0]

    def batches(workers):
        loader = build_loader(dataset, 4, True, seed=3, workers=workers, rare_temperature=0.01)
        loader.batch_sampler.set_epoch(1)
        return list(loader.batch_sampler), list(loader)

    keys, samples = batches(0)
    rare = [(b, i) for b, batch in enumerate(keys) for i, key in enumerate(batch) if key[1] == 2]
    assert len(rare) >= 5  # of 8 draws
    pictures = {samples[b][0][i].numpy().tobytes() for b, i in rare}
    assert len(pictures) == len(rare)
    again, others = batches(2)
    assert again == keys and all(torch.equal(x, y) for a, b in zip(samples, others) for x, y in zip(a, b))
    first = dataset[(1, 2)], dataset[(1, 2, 0, 2)]  # the first time in an epoch is the sample of uniform sampling
    assert torch.equal(first[0][0], first[1][0])


def test_a_crop_shows_the_class_it_was_drawn_for():
    target = torch.zeros(100, 300, dtype=torch.uint8)
    target[:, 250:] = 1
    image = target.expand(3, -1, -1).contiguous()
    hits = {}
    for wanted in (None, 1):
        seen = []
        for seed in range(60):
            with sample_rng(seed):
                seen.append((scaled_crop(image, target, 1.0, (64, 64), wanted=wanted)[1] == 1).any().item())
        hits[wanted] = np.mean(seen)
    assert hits[None] < 0.6 and hits[1] > 0.85


def test_a_run_draws_as_its_config_says(tmp_path):
    """From the config's keys to the loader of a job; the classes are counted in the job's own images."""
    cfg = config("folder", rare_folder(tmp_path), size=(64, 64), sampling="rare_class")
    cfg.model.name, cfg.train.batch_size = "unet", 4
    cfg.model.options = {"base_channels": 4}
    dataset = build_dataset(cfg, "train", True)
    val = build_dataset(cfg, "val", False)
    parts = build_parts(Job(tmp_path, cfg, dataset.subset([1, 2, 3]), val, 0), torch.device("cpu"))
    rare = parts.loader.batch_sampler.rare
    assert rare.images[2] == [1] and parts.val_loader.batch_sampler.rare is None  # position 1 is image 2
    cfg.data.sampling = "uniform"
    assert build_parts(Job(tmp_path, cfg, dataset, val, 0), torch.device("cpu")).loader.batch_sampler.rare is None
