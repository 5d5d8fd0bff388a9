"""Roles and folds of a cross-validation, drawn once, by whole groups; and custom splits.

Roles (`start`, `fold`, `select`) keep three uses of the training images apart: the common starting weights of all
folds, the folds themselves, and the ranking of folds and averages. Similar images (a city, a stretch of video) are one
group and have one role; otherwise a score would measure memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from common.errors import UserError
from common.files import write_json
from common.seeds import mix_seed
from data.dataset import SegmentationDataset
from data.files import SPLITS

ROLES = ("start", "fold", "select")
Fold = dict  # {"train": [...], "val": [...]}


def _largest_first(groups: Sequence[str], seed: int, purpose: str) -> list[tuple[str, int]]:
    """(group, images) from large to small, equal sizes in an order drawn from the seed.

    Giving each group, largest first, to whoever lacks most is the usual greedy way to even shares: small ones fill
    gaps.
    """
    counts = sorted(Counter(groups).items())
    generator = torch.Generator().manual_seed(mix_seed(seed, purpose))
    shuffled = [counts[i] for i in torch.randperm(len(counts), generator=generator).tolist()]
    return sorted(shuffled, key=lambda item: -item[1])


def assign_roles(
    groups: Sequence[str], seed: int, start_share: float, select_share: float, folds: int
) -> dict[str, list[int]]:
    """Image indices by role; shares are fractions of the images, met as closely as whole groups allow.

    Every role with a share gets at least one group and `fold` at least `folds`. Raises: UserError with too few groups.
    """
    if min(start_share, select_share) < 0 or start_share + select_share >= 1:
        raise UserError(
            f"cv.start_share {start_share:g} and cv.select_share {select_share:g}: each at least 0, together below 1"
        )
    lack = {"start": start_share, "fold": 1 - start_share - select_share, "select": select_share}
    lack = {role: share * len(groups) for role, share in lack.items()}
    owed = {"start": int(start_share > 0), "fold": max(folds, 1), "select": int(select_share > 0)}
    waiting = _largest_first(groups, seed, "roles")
    if len(waiting) < sum(owed.values()):
        raise _too_few(len(waiting), f"{sum(owed.values())} are needed ({folds} folds and the roles start and select)")
    role_of: dict[str, str] = {}
    for done, (group, images) in enumerate(waiting):
        open_roles = [role for role in ROLES if owed[role] or lack[role] > 0] or ["fold"]
        if len(waiting) - done <= sum(owed.values()):  # from here on every group is needed for a minimum
            open_roles = [role for role in ROLES if owed[role]]
        role = max(open_roles, key=lambda r: lack[r])
        role_of[group] = role
        lack[role] -= images
        owed[role] = max(0, owed[role] - 1)
    return {role: [i for i, group in enumerate(groups) if role_of[group] == role] for role in ROLES}


def make_folds(indices: Sequence[int], groups: Sequence[str], k: int, seed: int) -> list[Fold]:
    """k folds {"train", "val"} of image indices: val parts disjoint, together all of `indices`, groups whole, sizes
    as even as groups allow. `groups`: of every image of the data set, so `groups[i]` belongs to index i.

    Raises: UserError for more folds than groups.
    """
    if k < 2:
        raise UserError(f"cv.folds: expected at least 2, got {k} (0 means a single run)")
    waiting = _largest_first([groups[i] for i in indices], seed, "folds")
    if len(waiting) < k:
        raise _too_few(len(waiting), f"cv.folds is {k}")
    fold_of: dict[str, int] = {}
    filled = [0] * k
    for group, images in waiting:
        fold = min(range(k), key=lambda f: filled[f])
        fold_of[group] = fold
        filled[fold] += images
    parts = [sorted(i for i in indices if fold_of[groups[i]] == f) for f in range(k)]
    return _folds_of(parts)


def _folds_of(parts: list[list]) -> list[Fold]:
    """Each part is one fold's val; the others are its train."""
    return [
        {"train": sorted(i for other in parts[:f] + parts[f + 1 :] for i in other), "val": part}
        for f, part in enumerate(parts)
    ]


def _too_few(groups: int, need: str) -> UserError:
    return UserError(
        f"only {groups} groups of images (cities, sequences, blocks), but {need}: lower cv.folds, or set "
        f"cv.group: none to split image by image"
    )


def draw_sample(names: Sequence[str], groups: Sequence[str], counts: Sequence[int], seed: int) -> dict[str, list[int]]:
    """Custom splits of the training images: {train, val, test} -> sorted indices, `counts` of them each.

    Groups come in an order drawn from the seed (`groups` = `names`: image by image). Test takes what it needs, then
    val, then train. A group belongs to one split only: what is left of a split's last group is not used. The result
    depends on the names and the seed, not on the order of the list. Raises: UserError for too few images.
    """
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(names)), key=lambda i: names[i]):
        members.setdefault(groups[i], []).append(i)
    order, generator = sorted(members), torch.Generator().manual_seed(mix_seed(seed, "sample"))
    waiting = [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]
    parts: dict[str, list[int]] = {}
    for split, count in reversed(list(zip(SPLITS, counts))):
        part: list[int] = []
        while len(part) < count and waiting:
            part += members[waiting.pop()]
        if len(part) < count:
            raise UserError(
                f"data.sample: {list(counts)}: the training split has {len(names)} images in {len(order)} "
                f"{'groups' if len(order) < len(names) else 'files'}: too few for {split} ({len(part)} of {count} left)"
            )
        parts[split] = sorted(part[:count])
    return parts


def limit(indices: Sequence[int], n: int) -> list[int]:
    """The first n, or all for 0 (`data.limit`)."""
    return list(indices[:n]) if n else list(indices)


@dataclass
class Splits:
    """Roles and folds by image *name*, as splits.json holds them: readable, and the same on every machine."""

    dataset: str
    seed: int
    group: str  # cv.group
    roles: dict[str, list[str]]
    folds: list[dict[str, list[str]]]
    names: list[str]  # every image of the split, with those that `data.limit` left out
    sample: dict[str, list[str]] = field(default_factory=dict)  # val and test where `data.sample` drew them
    files: dict[str, dict[str, str]] = field(default_factory=dict)  # {train, val: {image: print of its files}}

    @property
    def hash(self) -> str:
        content = {k: v for k, v in asdict(self).items() if k not in ("sample", "files") or v}  # older files stay valid
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def save(self, path: Path) -> None:
        write_json(path, {**asdict(self), "hash": self.hash})

    @classmethod
    def load(cls, path: Path) -> Splits:
        """Raises: UserError if the file is missing, damaged or was edited."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            saved = content.pop("hash")
            splits = cls(**content)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise UserError(f"{path}: not a splits file: {str(exc).splitlines()[0]}") from None
        if splits.hash != saved:
            raise UserError(f"{path}: its contents do not match its hash: it was edited or damaged")
        return splits

    def check(self, names: Sequence[str]) -> None:
        """Raises: UserError that names the first image which is gone from, or new in, the data set."""
        missing, new = sorted(set(self.names) - set(names)), sorted(set(names) - set(self.names))
        if missing or new:
            what = f"'{missing[0]}' is missing" if missing else f"'{new[0]}' is new"
            raise UserError(
                f"{self.dataset} has changed since the splits were drawn: {what} "
                f"({len(missing)} missing, {len(new)} new); restore the data or start a new run"
            )

    def check_sample(self, sample: dict[str, list[str]]) -> None:
        """Raises: UserError if `data.sample` draws other validation or test images now than when the run began."""
        for split in sorted(self.sample.keys() | sample.keys()):
            if self.sample.get(split) != sample.get(split):
                raise UserError(
                    f"{self.dataset}: data.sample draws other {split} images than when this run began: the training "
                    f"split has changed; restore the data or start a new run"
                )

    def check_files(self, prints: dict[str, dict[str, str]]) -> None:
        """Raises: UserError, with the first name, if an image or label is not the one that the run began with."""
        for split, now in prints.items():
            was = self.files.get(split, now)  # an older run kept none
            changed = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
            if changed:
                raise UserError(
                    f"{self.dataset}: image or label of {split} '{changed[0]}' has changed since the run began "
                    f"({len(changed)} of {len(was)} have): restore the data or start a new run"
                )

    def indices(self, names: Sequence[str]) -> tuple[dict[str, list[int]], list[dict[str, list[int]]]]:
        """(roles, folds) as positions in `names`, the data set's own list. Raises: UserError as `check`."""
        self.check(names)
        at = {name: i for i, name in enumerate(names)}
        roles = {role: [at[n] for n in members] for role, members in self.roles.items()}
        return roles, [{part: [at[n] for n in members] for part, members in fold.items()} for fold in self.folds]


def file_prints(dataset: SegmentationDataset) -> dict[str, str]:
    """{name: a short print of its image and label}: their sizes, and 4 kB from the start, middle and end of each file.

    Reading all of them would take minutes. Compressed files differ in these places where their pictures do.
    """
    prints = {}
    for record in dataset.records:
        digest = hashlib.blake2b(digest_size=6)
        for path in filter(None, (record.image, record.label)):
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(f"{size};".encode())
                for place in sorted({0, max(0, size // 2 - 2048), max(0, size - 4096)}):
                    file.seek(place)
                    digest.update(file.read(4096))
        prints[record.name] = digest.hexdigest()
    return prints


def make_splits(
    dataset: SegmentationDataset,
    seed: int,
    folds: int,
    start_share: float,
    select_share: float,
    group: str = "auto",
    limit_to: int = 0,
) -> Splits:
    """Draw roles and folds of a training split. group: auto (the data set's groups) or none (each image is a group).

    folds 0 (a single run): one role `train` with everything. limit_to (data.limit): only the first n images of each
    role and of each fold's val part; a fold then trains on the val parts of the other folds.
    """
    names = dataset.names
    if folds == 0:
        roles, parts = {"train": limit(range(len(names)), limit_to)}, []
    else:
        groups = dataset.groups if group == "auto" else names
        roles = assign_roles(groups, seed, start_share, select_share, folds)
        parts = [limit(f["val"], limit_to) for f in make_folds(roles["fold"], groups, folds, seed)]
        roles = {role: limit(members, limit_to) for role, members in roles.items()}
        roles["fold"] = sorted(i for part in parts for i in part)
    named = {role: [names[i] for i in members] for role, members in roles.items()}
    named_folds = [{part: [names[i] for i in members] for part, members in f.items()} for f in _folds_of(parts)]
    return Splits(dataset.name, seed, group, named, named_folds, names)
