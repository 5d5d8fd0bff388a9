from __future__ import annotations

import json
from collections import Counter

import pytest

from common.errors import UserError
from data import build_dataset
from data.splits import Splits, assign_roles, file_prints, limit, make_folds, make_splits
from tests.helpers import config, make_camvid, make_cityscapes, make_folder, refuses

SIZES = [20] * 12 + [7, 2, 31, 5, 14]
GROUPS = [f"g{g:02d}" for g, size in enumerate(SIZES) for _ in range(size)]


@pytest.mark.parametrize("seed", range(5))
def test_roles_are_disjoint_exhaustive_grouped_and_near_their_shares(seed):
    roles = assign_roles(GROUPS, seed, start_share=0.35, select_share=0.15, folds=5)
    assert sorted(i for members in roles.values() for i in members) == list(range(len(GROUPS)))
    groups = [{GROUPS[i] for i in members} for members in roles.values()]
    assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
    for role, share in (("start", 0.35), ("fold", 0.5), ("select", 0.15)):
        assert abs(len(roles[role]) - share * len(GROUPS)) <= 10, role  # half a group of 20
    assert len({GROUPS[i] for i in roles["fold"]}) >= 5


def test_roles_depend_on_the_seed_alone():
    draw = [assign_roles(GROUPS, seed, 0.35, 0.15, 5) for seed in (0, 0, 1)]
    assert draw[0] == draw[1] != draw[2]


def test_roles_without_start_or_select():
    roles = assign_roles(GROUPS, 0, 0.0, 0.0, 5)
    assert roles["start"] == roles["select"] == [] and len(roles["fold"]) == len(GROUPS)


def test_few_groups_still_serve_every_role():
    groups = ["big"] * 90 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2
    roles = assign_roles(groups, 0, 0.35, 0.15, folds=2)
    assert all(roles.values()) and len({groups[i] for i in roles["fold"]}) == 2
    with pytest.raises(UserError, match="only 4 groups .* 5 are needed.*cv.group: none"):
        assign_roles(groups, 0, 0.35, 0.15, folds=3)
    with pytest.raises(UserError, match="cv.start_share 0.8 and cv.select_share 0.2"):
        assign_roles(groups, 0, 0.8, 0.2, folds=2)


@pytest.mark.parametrize("k", [2, 5])
def test_folds_are_disjoint_exhaustive_grouped_and_even(k):
    indices = [i for i in range(len(GROUPS)) if i % 3]  # positions are not numbers in the list
    folds = make_folds(indices, GROUPS, k, seed=0)
    assert Counter(i for f in folds for i in f["val"]) == Counter(indices)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == indices
        assert not {GROUPS[i] for i in fold["train"]} & {GROUPS[i] for i in fold["val"]}
    sizes = [len(f["val"]) for f in folds]
    assert max(sizes) - min(sizes) <= 7
    assert folds != make_folds(indices, GROUPS, k, seed=1)


def test_more_folds_than_groups_is_one_clear_line():
    with pytest.raises(UserError, match="only 3 groups .*cv.folds is 5.*cv.group: none") as error:
        make_folds(range(9), list("aaabbbccc"), 5, seed=0)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cv.folds: expected at least 2, got 1"):
        make_folds(range(9), list("aaabbbccc"), 1, seed=0)


def test_camvid_groups_are_blocks_of_twenty_frames(tmp_path):
    dataset = build_dataset(config("camvid", make_camvid(tmp_path, {"0001TP": 45, "0016E5": 20})), "train", True)
    assert Counter(dataset.groups) == {"0001TP-00": 20, "0001TP-01": 20, "0001TP-02": 5, "0016E5-00": 20}
    assert dataset.groups[:20] == ["0001TP-00"] * 20  # consecutive, not interleaved


def test_group_none_splits_image_by_image(tmp_path):
    dataset = build_dataset(config("cityscapes", make_cityscapes(tmp_path, n=4)), "train", True)
    with pytest.raises(UserError, match="only 2 groups"):
        make_splits(dataset, 0, 3, 0.25, 0.25)
    splits = make_splits(dataset, 0, 3, 0.25, 0.25, group="none")
    assert [len(splits.roles[r]) for r in ("start", "fold", "select")] == [2, 4, 2]


def test_saved_splits_come_back_and_notice_changes(tmp_path):
    dataset = build_dataset(config("camvid", make_camvid(tmp_path, {"a": 65, "b": 63})), "train", True)
    splits = make_splits(dataset, seed=3, folds=3, start_share=0.3, select_share=0.15)
    file = tmp_path / "splits.json"
    splits.save(file)
    loaded = Splits.load(file)
    assert loaded == splits and loaded.hash == splits.hash
    roles, folds = loaded.indices(dataset.names)
    assert roles == assign_roles(dataset.groups, 3, 0.3, 0.15, 3)
    assert folds == make_folds(roles["fold"], dataset.groups, 3, 3)

    with pytest.raises(UserError, match="'a_00000' is missing .1 missing, 0 new"):
        loaded.check(dataset.names[1:])
    with pytest.raises(UserError, match="'zz' is new"):
        loaded.indices([*dataset.names, "zz"])
    edited = json.loads(file.read_text())
    edited["roles"]["select"].pop()
    file.write_text(json.dumps(edited))
    with pytest.raises(UserError, match="splits.json: its contents do not match its hash"):
        Splits.load(file)
    file.write_text("{")
    with pytest.raises(UserError, match="splits.json: not a splits file"):
        Splits.load(file)
    with pytest.raises(UserError, match="no such file"):
        Splits.load(tmp_path / "nowhere.json")


def test_limit_is_per_role_and_per_fold(tmp_path):
    dataset = build_dataset(config("camvid", make_camvid(tmp_path, {"a": 65, "b": 63})), "train", True)
    splits = make_splits(dataset, 3, 3, 0.3, 0.15, limit_to=4)
    assert {role: len(m) for role, m in splits.roles.items()} == {"start": 4, "fold": 12, "select": 4}
    assert [(len(f["train"]), len(f["val"])) for f in splits.folds] == [(8, 4)] * 3
    assert limit([5, 6, 7], 2) == [5, 6] and limit([5, 6, 7], 0) == [5, 6, 7]
    assert len(make_splits(dataset, 3, 0, 0.3, 0.15, limit_to=5).roles["train"]) == 5


def test_real_camvid_roles_and_folds(seg_data):
    dataset = build_dataset(config("camvid", seg_data / "camvid"), "train", True)
    splits = make_splits(dataset, 0, 5, 0.35, 0.15)
    roles, folds = splits.indices(dataset.names)
    assert sum(map(len, roles.values())) == 367
    for role, share in (("start", 0.35), ("fold", 0.5), ("select", 0.15)):
        assert abs(len(roles[role]) / 367 - share) < 0.04
    for fold in folds:
        assert not {dataset.groups[i] for i in fold["train"]} & {dataset.groups[i] for i in fold["val"]}
        assert len(fold["val"]) > 20


def test_prints_of_files_change_with_any_of_image_label_and_place(tmp_path):
    root = make_folder(tmp_path / "data", n=2)
    dataset = build_dataset(config("folder", root), "train", train=False)
    before = file_prints(dataset)
    assert set(before) == {"00", "01"} and before["00"] != before["01"]
    label = root / "labels" / "train" / "01.png"
    content = bytearray(label.read_bytes())
    content[-1] ^= 1  # as long as before
    label.write_bytes(content)
    after = file_prints(dataset)
    assert after["00"] == before["00"] and after["01"] != before["01"]
    splits = make_splits(dataset, 0, 0, 0.0, 0.0)
    splits.check_files({"train": after})  # an older file has no prints
    splits.files = {"train": before}
    with refuses(r"image or label of train '01' has changed since the run began \(1 of 2 have\)"):
        splits.check_files({"train": after})
    splits.save(tmp_path / "splits.json")
    assert Splits.load(tmp_path / "splits.json").files == splits.files
