"""A look at the data before hours of training: cheap for every pair, thorough for a few.

Faults that a loader would meet in the middle of an epoch, or never notice at all, are found here in seconds.
"""

from __future__ import annotations

import numpy as np

from common.errors import UserError
from data.dataset import SegmentationDataset
from data.files import Record, check_mask_header, image_size, open_image, read_mask, read_raw_mask, size_mismatch


def check_pairs(dataset: SegmentationDataset, thorough: int = 8) -> None:
    """Headers of every pair (existence, format, equal sizes); the values of `thorough` masks spread over the set.

    Raises: UserError for the first fault: missing file, JPEG or 1-bit mask, size mismatch, values outside the table,
    black-and-white masks whose foreground is the ignored value, masks without one labelled pixel.
    """
    dataset.require_labels()
    records = dataset.records
    for record in records:
        _check_header(record)
    chosen = sorted({round(i) for i in np.linspace(0, len(records) - 1, min(thorough, len(records)))})
    for i in chosen:
        read_mask(records[i].label, dataset.labels)
    _check_black_and_white(dataset, [records[i] for i in chosen])
    # A void mask happens; a set of nothing else is a placeholder, such as the public labels of Cityscapes' test split.
    if all((read_mask(records[i].label, dataset.labels) == dataset.ignore_index).all() for i in chosen) and all(
        (read_mask(r.label, dataset.labels) == dataset.ignore_index).all() for r in records
    ):
        raise UserError(f"{records[0].label}: every pixel of every mask of {dataset.name} is ignored: nothing to score")


def _check_header(record: Record) -> None:
    with open_image(record.label) as mask:
        check_mask_header(mask, record.label)
        label_hw = (mask.height, mask.width)
    image_hw = image_size(record.image)
    if image_hw != label_hw:
        raise size_mismatch(record, image_hw, label_hw)


def _check_black_and_white(dataset: SegmentationDataset, sample: list[Record]) -> None:
    """Refuse masks of 0 and 255 where 255 is ignored: the whole foreground would count nowhere, without a word.

    A sample that looks so is not proof (a void border round an empty scene): then all masks are read, until one holds
    another value. `data.label_map: {255: 255}` says that 255 is meant to be ignored.
    """
    labels = dataset.labels
    if 255 not in labels.ignore or 255 in labels.label_map:
        return
    foreground = 0
    for records in (sample, dataset.records):
        foreground = 0
        for record in records:
            raw = read_raw_mask(record.label)
            if raw.ndim == 3 or not set(np.unique(raw).tolist()) <= {0, 255}:
                return
            foreground += int((raw == 255).sum())
        if not foreground:
            return
    raise UserError(
        f"{sample[0].label}: all masks of {dataset.name} hold only 0 and 255, and 255 is ignored, so no foreground "
        f"pixel ({foreground} px) would ever count; if 255 is class 1: data.label_map: {{255: 1}}; "
        f"if it is void: data.label_map: {{255: 255}}"
    )
