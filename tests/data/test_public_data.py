"""KITTI, Oxford-IIIT Pet, Pascal VOC, ADE20K: drawn folders in each layout, real images where SEG_DATA has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data import build_dataset
from data.check.before_training import check_before_training
from data.labels import CITYSCAPES
from data.sets.ade20k import ADE20K
from data.sets.pets import PETS
from data.sets.voc import VOC
from engine.config import config_from
from tests.helpers import config, refuses, write_image, write_mask

HW = (30, 100)


def draw(image_dir: Path, label_dir: Path | None, names, values, suffix: str = ".png", **mask) -> None:
    for i, name in enumerate(names):
        write_image(image_dir / f"{name}{suffix}", HW, seed=i)
        if label_dir is not None:
            write_mask(label_dir / f"{name}.png", values, HW, **mask)


def frames(n: int, start: int = 0) -> list[str]:
    return [f"{i:06d}_10" for i in range(start, start + n)]


# --- KITTI ------------------------------------------------------------------------------------------------------------


def test_kitti_semantics_layout_has_ids_and_a_val_of_its_own(tmp_path):
    draw(tmp_path / "training/image_2", tmp_path / "training/semantic", frames(25), (7, 11, 26, 4))
    draw(tmp_path / "testing/image_2", None, frames(3), ())
    cfg = config("kitti", tmp_path, (64, 128))
    train, val, test = (build_dataset(cfg, s, s == "train") for s in ("train", "val", "test"))
    assert train.names == frames(20) and val.names == frames(5, 20)  # neighbours stay together
    assert sorted(set(train.groups)) == ["block 00", "block 01"] and set(val.groups) == {"block 02"}
    assert set(train[0][1].unique().tolist()) == {0, 2, 13, 255} and train.num_classes == 19
    assert len(test) == 3 and not test.labelled
    check_before_training([train])


def test_kitti_road_layout_has_train_ids_and_testing_is_val(tmp_path):
    draw(tmp_path / "training/image", tmp_path / "training/label", frames(4), (0, 2, 13, 255))
    draw(tmp_path / "testing/image", tmp_path / "testing/label", frames(2), (0, 18))
    cfg = config("kitti", tmp_path, (64, 128))
    train, val, test = (build_dataset(cfg, s, False) for s in ("train", "val", "test"))
    assert (len(train), val.names, test.names) == (4, frames(2), frames(2))
    assert set(train[0][1].unique().tolist()) == {0, 2, 13, 255} and set(val[0][1].unique().tolist()) == {0, 18}
    assert np.array_equal(train.palette, CITYSCAPES.palette)
    cfg.data.sample = [3, 1, 0]  # a val that is not the reported split
    train, val, test = (build_dataset(cfg, s, False) for s in ("train", "val", "test"))
    assert set(train.names + val.names) == set(frames(4)) and len(val) == 1
    assert test.names == frames(2) and "testing" in str(test.records[0].image)
    cfg.data.labels = "labelIds"  # the same folders with ids in them
    write_mask(tmp_path / "testing/label/000000_10.png", (7, 33), HW)
    assert set(build_dataset(cfg, "test", False)[0][1].unique().tolist()) == {0, 18}


def test_kitti_colours_are_the_palette(tmp_path):
    draw(tmp_path / "training/image", tmp_path / "training/label", frames(4), (0, 1))
    rows = CITYSCAPES.palette.tolist()
    rows[0] = [1, 2, 3]
    (tmp_path / "colors.txt").write_text("\n".join(" ".join(map(str, r)) for r in rows) + "\n")
    train = build_dataset(config("kitti", tmp_path), "train", False)
    assert train.palette[0].tolist() == [1, 2, 3] and train.palette[18].tolist() == [119, 11, 32]
    (tmp_path / "colors.txt").write_text("1 2 3\n1 2 300\n")
    with refuses("colors.txt: expected one row 'R G B' .*per class, 19 in all"):
        build_dataset(config("kitti", tmp_path), "train", False)


def test_kitti_mmseg_layout(tmp_path):
    for split, n in (("train", 3), ("val", 2)):
        draw(tmp_path / "img_dir" / split, tmp_path / "ann_dir" / split, frames(n), (0, 18, 255))
    cfg = config("kitti", tmp_path)
    assert [len(build_dataset(cfg, s, False)) for s in ("train", "val")] == [3, 2]
    assert set(build_dataset(cfg, "val", False)[0][1].unique().tolist()) == {0, 18, 255}
    with refuses("img_dir/test: no such data folder"):
        build_dataset(cfg, "test", False)
    write_mask(tmp_path / "ann_dir/val/000000_10.png", (0, 26), HW)
    with refuses(r"000000_10.png: values that are no class of .cityscapes trainIds.*26 \(1500 px\)"):
        build_dataset(cfg, "val", False)[0]


def test_kitti_layouts_that_are_none_or_two_are_refused(tmp_path):
    (tmp_path / "inner/training/image").mkdir(parents=True)
    with refuses(r"no known KITTI layout: expected training/image_2 .*found inner; did you mean data.root=.*inner\?"):
        build_dataset(config("kitti", tmp_path), "train", False)
    with refuses("no known KITTI layout: .*found training"):
        build_dataset(config("kitti", tmp_path / "inner"), "train", False)
    for folder in ("training/image", "training/label", "training/image_2", "training/semantic"):
        (tmp_path / "two" / folder).mkdir(parents=True)
    with refuses(r"found more than one KITTI layout \(semantics, road\)"):
        build_dataset(config("kitti", tmp_path / "two"), "train", False)


def test_real_kitti(seg_data):
    root = seg_data / "kitti/seg_data"
    cfg = config("kitti", root, (96, 320))
    train, val, test = (build_dataset(cfg, s, False) for s in ("train", "val", "test"))
    assert [len(d) for d in (train, val, test)] == [4, 1, 5] and not test.labelled
    check_before_training([train]), check_before_training([val])
    with refuses("kitti test has no labels"):
        check_before_training([test])
    image, target = train[1]
    assert image.shape == (3, 96, 320) and {0, 8, 10, 255} <= set(target.unique().tolist())
    assert train.native_size(0) == (370, 1224) and test.native_size(0) == (375, 1242)
    assert np.array_equal(train.palette, CITYSCAPES.palette)  # from its colors.txt


def test_real_kitti_ids_give_the_train_ids(seg_data, tmp_path):
    """The same frames with ids, put into the layout of the archive: the same targets."""
    root = seg_data / "kitti/seg_data/training"
    (tmp_path / "training").mkdir()
    (tmp_path / "training/image_2").symlink_to(root / "image")
    (tmp_path / "training/semantic").symlink_to(root / "label_ids")
    by_id = build_dataset(config("kitti", tmp_path), "train", False)
    by_train_id = build_dataset(config("kitti", root.parent), "train", False)
    for i in range(len(by_id)):
        same = (by_id.load(i)[1] == by_train_id.load(i)[1]).float().mean()
        assert same > 0.999, by_id.names[i]


# --- Oxford-IIIT Pet --------------------------------------------------------------------------------------------------


def make_pets(root: Path, trainval: int = 10, test: int = 3) -> Path:
    names = [f"Bombay_{i}" for i in range(trainval + test)]
    draw(root / "images", root / "annotations/trimaps", names, (1, 2, 3), ".jpg")
    for split, part in (("trainval", names[:trainval]), ("test", names[trainval:])):
        rows = ["#Image CLASS-ID SPECIES BREED ID", *(f"{name} 6 1 5" for name in part)]
        (root / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    write_mask(root / "annotations/trimaps/._Bombay_1.png", (0, 9), HW)  # what a Mac leaves in the archive
    return root


def test_pets_layout(tmp_path):
    make_pets(tmp_path / "oxford-iiit-pet")
    for root in (tmp_path, tmp_path / "oxford-iiit-pet"):  # torchvision's root, and the folder itself
        cfg = config("pets", root, (64, 64))
        train, val, test = (build_dataset(cfg, s, False) for s in ("train", "val", "test"))
        assert [len(d) for d in (train, val, test)] == [8, 2, 3]
        assert sorted(train.names + val.names) == sorted(f"Bombay_{i}" for i in range(10))
    image, target = train[0]
    assert image.shape == (3, 64, 64) and set(target.unique().tolist()) == {0, 1, 2}
    assert train.class_names == ("pet", "background", "border") and train.load(0)[1][0, :3].tolist() == [0, 1, 2]
    cfg.data.labels = {"pet": "pet", "background": "background", "ignore": "border"}
    assert build_dataset(cfg, "train", False).load(0)[1][0, :3].tolist() == [0, 1, 255]
    (tmp_path / "oxford-iiit-pet/annotations/trimaps/Bombay_3.png").unlink()
    with refuses("Bombay_3.png: no such file, but trainval.txt names 'Bombay_3'"):
        [build_dataset(cfg, s, False) for s in ("train", "val")]
    with refuses("no such data folder; expected layout: images/NAME.jpg, .*tools.get_data pets"):
        build_dataset(config("pets", tmp_path / "gone"), "train", False)


def test_pets_without_a_list(tmp_path):
    (make_pets(tmp_path) / "annotations/test.txt").unlink()
    with refuses("annotations/test.txt: no such list of images"):
        build_dataset(config("pets", tmp_path), "test", False)
    (tmp_path / "annotations/test.txt").write_text("\n")
    with refuses("annotations/test.txt: the list names no image"):
        build_dataset(config("pets", tmp_path), "test", False)


def test_real_pets(seg_data):
    cfg = config("pets", seg_data / "oxford-iiit-pet", (64, 64), "standard")
    train, val, test = (build_dataset(cfg, s, s == "train") for s in ("train", "val", "test"))
    assert [len(d) for d in (train, val, test)] == [96, 24, 120]
    assert not set(train.names) & set(val.names) and not set(train.names) & set(test.names)
    for dataset in (train, val, test):
        check_before_training([dataset], most=4)
    image, target = train[0]
    assert image.shape == (3, 64, 64) and set(target.unique().tolist()) <= {0, 1, 2, 255}
    counts = torch.stack([torch.bincount(val[i][1].flatten(), minlength=3)[:3] for i in range(len(val))]).sum(0)
    pet, background, border = (counts / counts.sum()).tolist()
    assert background > pet > border > 0.03  # the paper's trimaps: an animal before a background, a thin strip between


# --- Pascal VOC -------------------------------------------------------------------------------------------------------


def make_voc(root: Path) -> Path:
    names = [f"2007_{i:06d}" for i in range(6)]
    draw(root / "JPEGImages", root / "SegmentationClass", names[:5], (0, 15, 20, 255), ".jpg", mode="P")
    draw(root / "JPEGImages", None, names[5:], (), ".jpg")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split, part in (("train", names[:3]), ("val", names[3:5]), ("test", names[5:])):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(part) + "\n")
    return root


def test_voc_layout(tmp_path):
    year = make_voc(tmp_path / "VOCdevkit/VOC2012")
    (tmp_path / "VOCdevkit/VOC2007").mkdir()
    for root in (tmp_path, tmp_path / "VOCdevkit", year):
        cfg = config("voc", root, (64, 64))
        assert [len(build_dataset(cfg, s, False)) for s in ("train", "val", "test")] == [3, 2, 1]
    train = build_dataset(cfg, "train", False)
    assert train.load(0)[1][0, :4].tolist() == [0, 15, 20, 255] and train.num_classes == 21
    assert not build_dataset(cfg, "test", False).labelled
    check_before_training([train])
    (year / "ImageSets/Segmentation/train.txt").write_text("2007_000000\n2008_000001\n")
    with refuses("2008_000001.jpg: no such file, but train.txt names"):
        build_dataset(cfg, "train", False)
    (year / "ImageSets/Segmentation/val.txt").unlink()
    with refuses("val.txt: no such list of images; expected layout: VOCdevkit"):
        build_dataset(cfg, "val", False)


def test_voc_colours_are_the_development_kits():
    """Known rows of its colour map, and a mask in those colours."""
    assert VOC.palette[[0, 1, 2, 3, 7, 15, 20]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [128, 128, 128], [192, 128, 128], [0, 64, 128],
    ]  # fmt: skip
    assert VOC.ignore_colours == ((224, 224, 192),)
    rgb = np.array([[[192, 128, 128], [224, 224, 192], [0, 0, 0]]], np.uint8)
    assert VOC.map_colours(rgb, "x").tolist() == [[15, 255, 0]] and VOC.class_names[15] == "person"


# --- ADE20K -----------------------------------------------------------------------------------------------------------


def test_ade20k_layout(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    draw(root / "images/training", root / "annotations/training", ["ADE_train_1", "ADE_train_2"], (0, 1, 150), ".jpg")
    draw(root / "images/validation", root / "annotations/validation", ["ADE_val_1"], (3, 7), ".jpg")
    draw(root / "images/testing", None, ["ADE_test_1"], (), ".jpg")
    for place in (tmp_path, root):
        cfg = config("ade20k", place, (64, 64))
        train, val, test = (build_dataset(cfg, s, False) for s in ("train", "val", "test"))
        assert [len(d) for d in (train, val, test)] == [2, 1, 1] and not test.labelled
    assert train.load(0)[1][0, :3].tolist() == [255, 0, 149]  # 0 is no class, 1 is class 0
    assert train.num_classes == 150 == len(set(train.class_names))
    assert [train.class_names[i] for i in (0, 2, 6, 12, 136, 149)] == [
        "wall", "sky", "road", "person", "traffic light", "flag",
    ]  # fmt: skip
    assert ADE20K.palette.shape == (150, 3) and ADE20K.palette[[0, 149]].tolist() == [[120, 120, 120], [92, 0, 255]]
    check_before_training([train])
    write_mask(root / "annotations/training/ADE_train_1.png", (0, 151), HW)
    with refuses(r"151 \(1500 px\)"):
        build_dataset(cfg, "train", False).load(0)


def test_every_data_set_wants_a_root_and_knows_its_splits(tmp_path):
    for name, make in (("pets", make_pets), ("voc", make_voc)):
        with refuses(f"data.root is not set: where is '{name}'"):
            build_dataset(config(name, None), "train", False)
        with refuses("unknown split 'dev'"):
            build_dataset(config(name, make(tmp_path / name)), "dev", False)
    assert PETS.ids == {1: 0, 2: 1, 3: 2}
    assert config_from({"data": {"size": [64, 64]}}).data.size == (64, 64)
