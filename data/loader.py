"""Batches: which samples, in which order, on which process."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from common.errors import UserError
from common.seeds import mix_seed
from data.class_weights import count_pixels
from data.dataset import SegmentationDataset
from data.rare_class_sampling import RareClasses, rare_classes


class EpochBatchSampler(Sampler):
    """Batches of keys (epoch, index). When training, their order is a function of (seed, epoch).

    Call `set_epoch` before iterating. A resumed run that sets epoch 17 gets exactly the batches of an uninterrupted
    one. The epoch is part of each key, so worker processes that live longer than an epoch need no message.

    rare: an epoch draws images by class (data/rare_class_sampling.py), as many as there are, in place of each image
    once. Keys are then (epoch, index, times, class): an image that comes again in an epoch looks different, and a crop
    is tried again until it shows the class it was drawn for.

    The last batch may be smaller, so every image is seen. One exception: when training with more than one batch, a
    single left-over image sits out the epoch, because batch statistics of one image are not worth a step.

    Several processes (`rank` of `world_size`) share the training images evenly; up to world_size - 1 left-over images
    sit out the epoch, so that no rank waits for ever in all-reduce. When not training, every image goes to exactly one
    rank, for exact scores; the ranks' batch counts may then differ.
    """

    def __init__(
        self, length: int, batch_size: int, train: bool, seed: int, rank: int = 0, world_size: int = 1,
        rare: RareClasses | None = None,
    ):  # fmt: skip
        if batch_size < 1:
            raise UserError(f"train.batch_size: expected at least 1, got {batch_size}")
        if length < 1:
            raise UserError("no images to load: the split is empty")
        if train and length < world_size:
            raise UserError(f"{length} training image(s) cannot be shared by {world_size} processes")
        self.length, self.batch_size, self.train, self.seed = length, batch_size, train, seed
        self.rank, self.world_size, self.rare = rank, world_size, rare
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _share(self) -> int:
        """How many images this rank gets."""
        if self.train:
            return self.length // self.world_size
        return len(range(self.rank, self.length, self.world_size))

    def __len__(self) -> int:
        full, rest = divmod(self._share(), self.batch_size)
        single = self.train and rest == 1 and full > 0
        return full + (rest > 0 and not single)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        keys = self._keys(self.epoch)
        mine = keys[self.rank :: self.world_size][: self._share()]
        for batch in range(len(self)):
            start = batch * self.batch_size
            yield mine[start : start + self.batch_size]

    def _keys(self, epoch: int) -> list[tuple[int, ...]]:
        """The keys of an epoch in order, for all ranks together."""
        if not self.train:
            return [(epoch, index) for index in range(self.length)]
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch, "order"))
        if self.rare:
            return [(epoch, *drawn) for drawn in self.rare.draw(self.length, generator)]
        return [(epoch, index) for index in torch.randperm(self.length, generator=generator).tolist()]


def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor | list[Tensor]]:
    """Images (B, 3, H, W) and targets (B, H, W); a list of targets where their (native) sizes differ."""
    images, targets = zip(*samples)
    equal = len({t.shape for t in targets}) == 1
    return torch.stack(images), torch.stack(targets) if equal else list(targets)


def build_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    train: bool,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    rare_temperature: float | None = None,
) -> DataLoader:
    """A loader whose `batch_sampler` is an `EpochBatchSampler`: `loader.batch_sampler.set_epoch(e)` before each epoch.

    The number of workers does not change any sample. A data set with a cache is decoded here, before the workers start,
    so that forked workers share it. rare_temperature: draw training images by class, rare classes more often; classes
    are counted in the images of this data set only.
    """
    rare = None if rare_temperature is None else rare_classes(count_pixels(dataset), rare_temperature)
    sampler = EpochBatchSampler(len(dataset), batch_size, train, seed, rank, world_size, rare)
    if workers > 0:
        dataset.fill_cache()
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),  # else every iterator would draw from the run's own generator
    )
