"""The data set class: records on disk -> (image, target).

Every random choice of a sample is a function of (seed, epoch, index), so it depends neither on the number of worker
processes, nor on which samples came before, nor on whether the run was interrupted. `index` counts in the whole split:
an image of fold 3 looks the same in every fold that trains on it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from data.augment.copy_paste import CopyPaste
from data.augment.draws import pick, sample_rng
from data.augment.transforms import Transform, build_transform, find_preset
from data.files import Record, image_size, read_image, read_raw_mask, size_mismatch
from data.labels import LabelTable


class SegmentationDataset(Dataset):
    """Samples `(image float32 (3, H, W) normalised, target int64 (H, W))`.

    An index is an int (epoch 0) or a key of `EpochBatchSampler`: (epoch, index) or (epoch, index, times, class).
    `times`: how often the image came before in this epoch; `class`: the class that a random crop should show. The epoch
    is part of the key, so the data set never changes and persistent workers hold no stale copy.

    paste: copies objects from other images of this data set only, so a subset (a fold, a role) never shows an object of
    an image outside it; a sample then depends on which images the subset has.
    cache: keep each decoded image and mask as uint8, resized to the transform's size. Resizing is the first step and
    not random, so a cached sample equals a fresh one. Memory: 4 bytes per pixel of `size` and image.
    """

    def __init__(
        self,
        records: Sequence[Record],
        labels: LabelTable,
        transform: Transform | None = None,
        seed: int = 0,
        cache: bool = False,
        name: str = "dataset",
        split: str = "train",
        paste: CopyPaste | None = None,
    ):
        if not records:
            raise UserError(f"{name}: the split is empty")
        self.all_records = list(records)
        self.labels = labels
        self.transform = transform or build_transform("none", None)
        self.seed = seed
        self.name = name  # for messages: 'camvid train'
        self.split = split
        self.paste = paste
        self.indices = list(range(len(self.all_records)))  # of the samples here, in the whole split
        self._cache: dict[int, tuple[Tensor, Tensor]] | None = {} if cache else None  # shared by subsets

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, key: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        epoch, i, times, wanted = (*(key if isinstance(key, tuple) else (0, key)), 0, None)[:4]
        index = self.indices[i]
        image, target = self._resized(index)
        with sample_rng(self.seed, epoch, index, *([times] if times else [])):
            if self.paste and torch.rand(()).item() < self.paste.probability:
                image, target = self.paste(image, target, self._resized(pick(self.indices)))
            return self.transform(image, target, wanted)

    @property
    def records(self) -> list[Record]:
        return [self.all_records[i] for i in self.indices]

    @property
    def names(self) -> list[str]:
        return [r.name for r in self.records]

    @property
    def groups(self) -> list[str]:
        return [r.group for r in self.records]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.labels.class_names

    @property
    def palette(self) -> np.ndarray:
        return self.labels.palette

    @property
    def num_classes(self) -> int:
        return self.labels.num_classes

    @property
    def ignore_index(self) -> int:
        return self.labels.ignore_index

    @property
    def labelled(self) -> bool:
        return all(self.all_records[i].label is not None for i in self.indices)

    def require_labels(self) -> None:
        """Raises: UserError if an image has no label: there is nothing to train on or score against."""
        if not self.labelled:
            first = next(r.image for r in self.records if r.label is None)
            raise UserError(f"{self.name} has no labels (first: {first}): it can be predicted, not trained or scored")

    def native_size(self, i: int) -> tuple[int, int]:
        """(H, W) of image `i` on disk, without decoding it."""
        return image_size(self.all_records[self.indices[i]].image)

    def subset(
        self, indices: Sequence[int], augment: str | None = None, seed: int | None = None
    ) -> SegmentationDataset:
        """The samples `indices` (positions in this data set), with another augmentation preset or seed if given."""
        if not len(indices):
            raise UserError(f"{self.name}: the subset is empty")
        part = copy.copy(self)  # records and cache are shared
        part.indices = [self.indices[i] for i in indices]
        part.seed = self.seed if seed is None else seed
        if augment is not None:
            part.transform = dataclasses.replace(self.transform, preset=find_preset(augment))
        return part

    def plain(self) -> SegmentationDataset:
        """The same samples without augmentation, as they are scored. Files and cache are shared."""
        part = copy.copy(self)
        part.transform = build_transform("none", self.transform.size, self.transform.native_target)
        part.paste = None
        return part

    def load(self, i: int) -> tuple[Tensor, Tensor | None]:
        """Image (3, H, W) and class indices (H, W), both uint8 at native size; None in place of a missing label."""
        return self._load(self.indices[i])

    def _load(self, index: int) -> tuple[Tensor, Tensor | None]:
        record = self.all_records[index]
        mask = None if record.label is None else read_raw_mask(record.label)
        return self._tensors(record, read_image(record.image), mask)

    def _tensors(self, record: Record, image: np.ndarray, mask: np.ndarray | None) -> tuple[Tensor, Tensor | None]:
        """From an image (H, W, 3) and a mask as stored in its file."""
        target = None if mask is None else self.labels.map_mask(mask, record.label)
        if target is not None and target.shape != image.shape[:2]:
            raise size_mismatch(record, image.shape[:2], target.shape)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()  # (3, H, W)
        return pixels, None if target is None else torch.from_numpy(target)

    def keep(self, i: int, image: np.ndarray, mask: np.ndarray) -> None:
        """Check the contents of two files read elsewhere (`read_image`, `read_raw_mask`) as `load` does, and put them
        into the cache, so that they are not read again. Raises: UserError for values outside the table."""
        index = self.indices[i]
        pair = self._tensors(self.all_records[index], image, mask)
        if self._cache is not None:
            self._cache[index] = self._to_size(pair)

    def fill_cache(self) -> None:
        """Decode everything now, so that worker processes started later share one copy."""
        if self._cache is not None:
            for index in self.indices:
                self._resized(index)

    def _resized(self, index: int) -> tuple[Tensor, Tensor]:
        """Sample `index` of the whole split as uint8 at the transform's size, before any augmentation."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        if self.all_records[index].label is None:
            self.require_labels()
        pair = self._to_size(self._load(index))
        if self._cache is not None:
            self._cache[index] = pair
        return pair

    def _to_size(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return tuple(x.as_subclass(Tensor) for x in self.transform.resized(*pair))


def data_hash(dataset: SegmentationDataset) -> str:
    """sha256 over names, groups, file sizes and the label table: it changes with the data, not with the folder.

    File sizes are used in place of contents, which would take minutes to read.
    """
    labels = dataset.labels
    table = [labels.class_names, labels.palette.tolist(), sorted(labels.ids.items()), sorted(labels.ignore)]
    files = [
        [r.name, r.group, r.image.stat().st_size, r.label.stat().st_size if r.label else None] for r in dataset.records
    ]
    return hashlib.sha256(json.dumps([table, files]).encode()).hexdigest()


def limited(dataset, limit: int):
    """The first n images, or all for 0."""
    return dataset.subset(range(min(limit, len(dataset)))) if limit else dataset
