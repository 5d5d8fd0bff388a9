"""Rules about files: broken ones, sizes, colours, duplicates, files in the wrong folder.

A rule is a function facts -> findings; FILE_RULES lists them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.check.scan import Facts, Finding

ALIKE = 3.0  # mean difference of two thumbnails of equal mean and spread, in grey levels
SPREAD = 16  # how many times larger the largest image may be than the smallest


def file_findings(found: Sequence[Facts]) -> list[Finding]:
    return [finding for rule in FILE_RULES for finding in rule(found)]


def _unreadable(found: Sequence[Facts]) -> list[Finding]:
    by_cause = defaultdict(list)
    for f in found:
        for path, why in ((f.image, f.image_problem), (f.label, f.label_problem)):
            if why:
                fault = next((fault for words, fault in FAULTS.items() if words in why), "unsupported file")
                by_cause[fault].append((path, why))
    out = []
    for fault, files in by_cause.items():
        path, why = files[0]
        more = f" ({len(files)} such files)" if len(files) > 1 else ""
        fix = FIXES.get(fault, "get the file again, or remove the pair")
        out.append(Finding("error", fault, f"{path.name}: {why}{more}", fix, tuple(p for p, _ in files)))
    return out


FIXES = {
    "JPEG mask": "export the masks again as PNG; the invented values cannot be told from real ones",
    "1-bit mask": "save with 8 bits (mode L) and values 0, 1",
    "transparent mask": "save without alpha, void as a value of its own (255)",
}


FAULTS = {  # words of a loader's message -> fault; the first that fits
    "empty file": "empty file", "JPEG masks": "JPEG mask", "1-bit": "1-bit mask", "transparent": "transparent mask",
    "no such file": "missing file", "truncated, or": "not an image", "truncated": "truncated file",
    "damaged": "truncated file",
}  # fmt: skip


def _sizes_of_pairs(found: Sequence[Facts]) -> list[Finding]:
    both = [f for f in found if f.image_hw and f.label_hw and f.image_hw != f.label_hw]
    turned = [f for f in both if f.sideways and f.label_hw == f.image_hw[::-1]]
    others = [f for f in both if f not in turned]
    cause = ": the photograph is turned by its EXIF entry, the mask is not"
    out = []
    for fault, part, why, fix in (
        ("unrotated mask", turned, cause, "turn the mask as its photograph, or drop the EXIF entry"),
        ("sizes differ", others, "", "resize the mask to its image, with nearest neighbour"),
    ):
        if part:
            f, more = part[0], f" ({len(part)} such pairs)" if len(part) > 1 else ""
            text = f"the mask {f.label.name} is {_by(f.label_hw)}, its image {f.image.name} {_by(f.image_hw)} (H x W)"
            out.append(Finding("error", fault, text + why + more, fix, tuple(f.label for f in part)))
    return out


def _by(hw: tuple[int, int]) -> str:
    return f"{hw[0]}x{hw[1]}"


def _swapped(found: Sequence[Facts]) -> list[Finding]:
    """Few tones in the images and many values in the masks: the folders are exchanged."""
    both = [f for f in found if f.image_hw and f.label_hw and _area(f) > 500]
    hit = [f for f in both if f.tones <= 40 and max(len(f.values), len(f.colours)) > max(60, 3 * f.tones)]
    if len(hit) * 2 <= len(both):
        return []
    text = f"in {len(hit)} of {len(both)} pairs the image has a mask's few values and the mask a photograph's many"
    return [Finding("error", "folders swapped", text, "swap the folders of images and labels", _images(hit))]


def _image_is_mask(found: Sequence[Facts]) -> list[Finding]:
    same = tuple(f.label for f in found if f.same or (f.image_digest and f.image_digest == f.label_digest))
    text = f"{len(same)} masks are the image itself"
    return [Finding("error", "image is the mask", text, "put the masks there", same)] if same else []


def _one_mask_for_all(found: Sequence[Facts]) -> list[Finding]:
    """One mask for different images: a placeholder, or a loop that saved the last mask again."""
    groups = _alike("label_digest", [f for f in found if len(f.values) + len(f.colours) > 1])
    hit = [g for g in groups if len({f.image_digest for f in g}) > 1]
    if not hit:
        return []
    largest = max(hit, key=len)
    text = f"{sum(map(len, hit))} masks are copies of another one though their images differ ({largest[0].label.name})"
    files = tuple(f.label for g in hit for f in g)
    return [Finding("warning", "one mask for several images", text, "draw these masks again", files)]


def _alike(digest: str, found: Sequence[Facts]) -> list[list[Facts]]:
    """Groups of pairs whose images or masks are the same file, byte by byte."""
    groups = defaultdict(list)
    for f in found:
        if getattr(f, digest):
            groups[getattr(f, digest)].append(f)
    return [g for g in groups.values() if len(g) > 1]


def _duplicates(found: Sequence[Facts]) -> list[Finding]:
    """Images that are in two splits, or twice in one: equal files, and near-duplicates."""
    groups, out = _alike("image_digest", found), []
    if across := [g for g in groups if len({f.split for f in g}) > 1]:
        a, b = across[0][0], next(f for f in across[0] if f.split != across[0][0].split)
        text = f"{len(across)} images are in more than one split (first: {a.split}/{a.name} = {b.split}/{b.name})"
        fix = "remove them from one split; their scores measure memory"
        out.append(Finding("error", "image in two splits", text, fix, _images(f for g in across for f in g[1:])))
    if inside := [g for g in groups if len({f.split for f in g}) < len(g)]:
        text = f"{len(inside)} images occur more than once within a split (first: {inside[0][0].image.name})"
        files = _images(f for g in inside for f in g[1:])
        out.append(Finding("warning", "image twice", text, "remove the copies", files))
    if near := near_duplicates(found):
        first = ", ".join(f"{f.split}/{f.name}" for f in near[0])
        text = (
            f"{len(near)} of the other images are almost equal to one of train (first: {first}): frames of one scene?"
        )
        fix = "data.sample_by: group with data.sample, so that neighbouring frames stay in one split"
        out.append(Finding("warning", "near-duplicates across splits", text, fix, _images(b for _, b in near)))
    return out


def near_duplicates(found: Sequence[Facts]) -> list[tuple[Facts, Facts]]:
    """[(train, other)] whose thumbnails differ by less than ALIKE, except equal files; each `other` once.

    The perceptual hash is the grey thumbnail itself at mean 0 and spread 64, which recompression, resizing, brightness
    and contrast hardly change. 10,000 against 1,000 images take a second.
    """
    usable = [f for f in found if f.thumb is not None and f.contrast > 4]
    train = [f for f in usable if f.split == "train"]
    others = [f for f in usable if f.split != "train"]
    if not train or not others:
        return []
    bank = np.stack([_normalised(f.thumb) for f in train])  # (N, THUMB * THUMB)
    out = []
    for f in others:
        query = _normalised(f.thumb)
        close = np.flatnonzero(np.square(bank[:, ::7] - query[::7]).mean(1) < (4 * ALIKE) ** 2)  # a cheap sieve first
        if not len(close):
            continue
        distance = np.abs(bank[close] - query).mean(1)
        best = close[distance.argmin()]
        if distance.min() < ALIKE and train[best].image_digest != f.image_digest:
            out.append((train[best], f))
    return out


def _normalised(thumb: np.ndarray) -> np.ndarray:
    values = thumb.reshape(-1).astype(np.float32)
    return (values - values.mean()) * (64 / max(float(values.std()), 1.0))


def _kinds_of_images(found: Sequence[Facts]) -> list[Finding]:
    read = [f for f in found if f.image_hw]
    out = []
    if blank := [f for f in read if f.contrast < 1 and _area(f) > 64]:
        text = f"{len(blank)} images are one flat colour (first: {blank[0].image.name})"
        out.append(Finding("warning", "blank image", text, "remove the pairs", _images(blank)))
    grey = [f for f in read if f.grey and f not in blank]
    if grey and len(grey) < len(read) - len(blank):
        text = f"{len(grey)} of {len(read)} images are grey, the others have colours"
        fix = "data.augment: advanced   (its presets change colours), if both are to be segmented"
        out.append(Finding("warning", "grey among colour images", text, fix, _images(grey)))
    elif grey:
        out.append(Finding("note", "grey images", "all images are grey: they are read as three equal channels"))
    if odd := [f for f in read if f.image_mode not in ("RGB", "L")]:
        modes = ", ".join(sorted({f.image_mode for f in odd}))
        text = f"{len(odd)} images of mode {modes} are read as RGB (transparency dropped, 16 bits cut to 8)"
        out.append(Finding("note", "converted images", text, "", _images(odd)))
    return out


def _images(part: Iterable[Facts]) -> tuple[Path, ...]:
    return tuple(f.image for f in part)


def _area(f: Facts) -> int:
    return f.image_hw[0] * f.image_hw[1]


def _sizes_of_images(found: Sequence[Facts]) -> list[Finding]:
    read = sorted((f for f in found if f.image_hw), key=_area)
    if not read or _area(read[-1]) <= SPREAD * _area(read[0]):
        return []
    small, middle, large = read[0], read[len(read) // 2], read[-1]
    text = f"from {_by(small.image_hw)} ({small.image.name}) to {_by(large.image_hw)} ({large.image.name})"
    fix = f"data.size: {list(middle.image_hw)}   (the middle one); objects differ as much in size"
    odd = [f for f in read if max(_area(f) / _area(middle), _area(middle) / _area(f)) > 4]
    return [Finding("warning", "sizes far apart", f"image sizes {text} (H x W)", fix, _images(odd))]


FILE_RULES = (
    _unreadable, _sizes_of_pairs, _swapped, _image_is_mask, _one_mask_for_all, _duplicates, _kinds_of_images,
    _sizes_of_images,
)  # fmt: skip
