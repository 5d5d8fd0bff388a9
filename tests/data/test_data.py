from __future__ import annotations

import hashlib
import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, build_dataset
from data.augment.transforms import denormalise
from data.check.before_training import check_before_training
from data.files import read_mask
from data.sets.folder import read_classes
from tests.helpers import config, make_camvid, make_cityscapes, make_folder, refuses, write_image, write_mask

# --- data sets --------------------------------------------------------------------------------------------------------


def test_cityscapes_layout(tmp_path):
    root = make_cityscapes(tmp_path)
    dataset = build_dataset(config("cityscapes", root), "train", True)
    assert len(dataset) == 6 and dataset.groups == ["aachen"] * 3 + ["bochum"] * 3
    assert dataset.names[0] == "aachen/aachen_000000_000019" and dataset.native_size(0) == (40, 60)
    image, target = dataset[0]
    assert image.shape == (3, 32, 48) and image.dtype == torch.float32
    assert target.shape == (32, 48) and target.dtype == torch.int64
    assert set(target.unique().tolist()) == {0, 2, 13, 255}
    assert dataset.num_classes == 19 and dataset.ignore_index == 255 and dataset.palette.shape == (19, 3)


def test_cityscapes_train_ids_give_the_same_targets(tmp_path):
    by_id = build_dataset(config("cityscapes", make_cityscapes(tmp_path / "a")), "train", False)
    root = make_cityscapes(tmp_path / "b", kind="labelTrainIds")
    by_train_id = build_dataset(config("cityscapes", root), "train", False)
    assert torch.equal(by_id[2][1], by_train_id[2][1])
    make_cityscapes(root)  # both kinds: labelIds first, unless the config asks
    assert build_dataset(config("cityscapes", root), "train", False).labels is not by_train_id.labels
    asked = build_dataset(config("cityscapes", root, labels="labelTrainIds"), "train", False)
    assert asked.records[0].label.name.endswith("labelTrainIds.png")


def test_streets_are_drawn_then_read_as_cityscapes(tmp_path, monkeypatch):
    def ensure(root, processes=None):
        return make_cityscapes(root or tmp_path / "cache")

    fake = types.ModuleType("data.streets")
    fake.ensure = ensure
    monkeypatch.setitem(sys.modules, "data.streets", fake)
    monkeypatch.setattr(sys.modules["data"], "streets", fake, raising=False)
    assert len(build_dataset(config("streets", None), "train", True)) == 6
    chosen = build_dataset(config("streets", tmp_path / "own"), "train", True)
    assert (tmp_path / "own") in chosen.records[0].image.parents


def test_splits_without_labels_predict_but_do_not_score(tmp_path):
    root = make_cityscapes(tmp_path)
    write_image(root / "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png")
    dataset = build_dataset(config("cityscapes", root), "test", False)
    assert not dataset.labelled and dataset.load(0)[0].shape == (3, 40, 60) and dataset.load(0)[1] is None
    for ask in (lambda: dataset[0], lambda: check_before_training([dataset])):
        with refuses("cityscapes test has no labels"):
            ask()


def test_folder_layouts(tmp_path):
    split = build_dataset(config("folder", make_folder(tmp_path / "split")), "val", False)
    assert split.names == ["00", "01", "02", "03"] == split.groups
    flat = make_folder(tmp_path / "flat", (), n=20)
    parts = [build_dataset(config("folder", flat), s, False).names for s in ("train", "val", "test")]
    assert [len(p) for p in parts] == [16, 2, 2] and sorted(sum(parts, [])) == [f"{i:02d}" for i in range(20)]
    few = make_folder(tmp_path / "few", (), n=3)
    assert [len(build_dataset(config("folder", few), s, False)) for s in ("train", "val", "test")] == [1, 1, 1]


def test_equal_stems_in_different_folders_stay_apart(tmp_path):
    root = make_folder(tmp_path, (), n=0)
    for i, place in enumerate(("north", "south/east", "south/west")):
        write_image(root / f"images/train/{place}/x.png", seed=i)
        write_mask(root / f"labels/train/{place}/x.png", (i,))
    dataset = build_dataset(config("folder", root), "train", False)
    assert dataset.names == ["north/x", "south/east/x", "south/west/x"]
    assert dataset.groups == ["north", "south/east", "south/west"]
    assert [dataset[i][1].unique().tolist() for i in range(3)] == [[0], [1], [2]]


def test_classes_yaml(tmp_path):
    path = tmp_path / "classes.yaml"
    path.write_text(
        "names: [off, on, no]\ncolours: [[0,0,0],[9,9,9],[1,2,3]]\nignore: [0, [5,5,5]]\nids: {7: on, 8: 2}\n"
    )
    table = read_classes(path)
    assert table.class_names == ("off", "on", "no") and table.ids == {7: 1, 8: 2}  # words stay words
    assert table.ignore == (0,) and table.ignore_colours == ((5, 5, 5),) and table.palette[2].tolist() == [1, 2, 3]
    path.write_text("names: [a, b, c, d, e, f]")
    assert len(np.unique(read_classes(path).palette, axis=0)) == 6 and read_classes(path).ignore == (255,)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("names: [a, b", "not valid YAML .line 1"),
        ("[a, b]", "expected keys names"),
        ("colours: []", "names: expected a list"),
        ("names: [a]", "at least two"),
        ("names: [a, a]", "'a' is listed twice"),
        ("names: [a, b]\ncolors: []", "unknown key in .*'colors': did you mean 'colours'"),
        ("names: [a, b]\ncolours: [[0, 0, 0]]", "for each of the 2 names, got 1"),
        ("names: [a, b]\ncolours: [[0, 0, 0], [0, 0, 0]]", "is listed for two classes"),
        ("names: [a, b]\ncolours: [[0, 0, 0], [0, 256, 0]]", "expected a whole number 0..255, got '256'"),
        ("names: [a, b]\nignore: void", "ignore: expected a whole number"),
        ("names: [a, b]\nids: {7: 2}", "ids: 7: class 2 is not among"),
        ("names: [a, b]\nids: {7: c}", "ids: 7: expected a whole number"),
        ("names: [a, b]\nignore: 1", "raw value 1 is also class 'b'"),
    ],
)
def test_malformed_classes_yaml(tmp_path, text, expected):
    (tmp_path / "classes.yaml").write_text(text)
    with refuses("classes.yaml.*" + expected if "unknown" not in expected else expected):
        read_classes(tmp_path / "classes.yaml")


# --- faults of a data set ---------------------------------------------------------------------------------------------


def test_missing_folders_say_what_is_expected(tmp_path):
    with refuses("data.root is not set"):
        build_dataset(config("camvid", None), "train", True)
    with refuses("nowhere: no such data folder; .*trainannot/.*python -m tools.get_data camvid"):
        build_dataset(config("camvid", tmp_path / "nowhere"), "train", True)
    with refuses("leftImg8bit/val: no such data folder; .*gtFine/<split>"):
        build_dataset(config("cityscapes", make_cityscapes(tmp_path)), "val", True)
    with refuses("unknown data set .data.name. 'camvit': did you mean 'camvid'"):
        build_dataset(config("camvit", tmp_path), "train", True)
    assert set(DATASETS) >= {"streets", "cityscapes", "camvid", "folder"}


def test_empty_splits_and_orphans(tmp_path):
    root = make_folder(tmp_path, ("train", "val"))
    (root / "labels/train/02.png").unlink()
    with refuses("images/train/02.png: image without label: expected '02' under .*labels/train"):
        build_dataset(config("folder", root), "train", True)
    write_mask(root / "labels/train/02.png", (0,))
    (root / "images/train/00.png").unlink()
    (root / "images/train/01.png").unlink()
    with refuses(r"labels/train/00.png: label without image: .*\(2 such files\)"):
        build_dataset(config("folder", root), "train", True)
    write_image(root / "images/val/00.jpg")
    with refuses("00.png: two files for one name"):
        build_dataset(config("folder", root), "val", True)
    (root / "images/test").mkdir()
    with refuses("images/test: no images found"):
        build_dataset(config("folder", root), "test", True)
    with refuses("the subset is empty"):
        build_dataset(config("camvid", make_camvid(tmp_path / "c", {"a": 2})), "train", True).subset([])


def test_jpeg_labels_and_size_mismatch(tmp_path):
    root = make_folder(tmp_path, ("train",))
    write_mask(root / "labels/train/03.png", (0, 1), (40, 61))
    dataset = build_dataset(config("folder", root), "train", True)
    for ask in (lambda: dataset[3], lambda: check_before_training([dataset], most=1)):
        with refuses("03.png: label is 40x61 but its image 03.png is 40x60"):
            ask()
    (root / "labels/train/03.png").unlink()
    write_mask(root / "labels/train/03.jpg", (0, 1))
    with refuses("03.jpg: JPEG masks are refused"):
        build_dataset(config("folder", root), "train", True)


def test_black_and_white_masks(tmp_path):
    """255 as foreground: refused whether 255 is ignored (it would count nowhere) or unknown, with the fix."""
    root = make_folder(tmp_path, ("train",), values=(0, 255), names=("background", "thing"))
    with refuses(r"hold only 0 and 255 \(4800 px, 50.0 %, are 255\), and 255 is ignored, .*data.label_map: \{255: 1\}"):
        check_before_training([build_dataset(config("folder", root), "train", True)])
    fixed = build_dataset(config("folder", root, label_map={255: 1}), "train", True)
    check_before_training([fixed])
    assert set(fixed[0][1].unique().tolist()) == {0, 1}
    on_purpose = config("folder", root, label_map={255: 255})
    check_before_training([build_dataset(on_purpose, "train", True)])

    (root / "classes.yaml").write_text("names: [background, thing]\nignore: 9\n")
    with refuses(r"hold only 0 and 255 \(4800 px, 50.0 %, are 255\), and 255 is unknown; data.label_map: \{255: 1\}"):
        check_before_training([build_dataset(config("folder", root), "train", True)])

    write_mask(root / "labels/train/03.png", (0, 1, 255))  # a class 1 in a mask outside the sample: 255 is void
    (root / "classes.yaml").write_text("names: [background, thing]\n")
    check_before_training([build_dataset(config("folder", root), "train", True)], most=2)


def test_masks_of_nothing_but_void_are_refused(tmp_path):
    root = make_cityscapes(tmp_path)
    for label in (root / "gtFine").rglob("*.png"):
        write_mask(label, (0,))
    with refuses("every pixel of every mask .* is ignored"):
        check_before_training([build_dataset(config("cityscapes", root), "train", True)])


# --- real photographs -------------------------------------------------------------------------------------------------


def test_real_camvid(seg_data):
    cfg = config("camvid", seg_data / "camvid", size=(360, 480), augment="standard")
    train, val = (build_dataset(cfg, split, split == "train") for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101) and train.native_size(0) == (360, 480)
    check_before_training([train])
    check_before_training([val])
    assert {g.split("-")[0] for g in train.groups} == {"0001TP", "0006R0", "0016E5"}
    image, target = train.load(0)
    assert image.shape == (3, 360, 480) and set(target.unique().tolist()) <= {*range(11), 255}
    x, y = train.subset([0], augment="none")[0]
    assert torch.equal(denormalise(x), image) and torch.equal(y, target.long())
    counts = sum(torch.bincount(val.load(i)[1].flatten(), minlength=256) for i in range(0, 101, 20))
    assert counts[3] > counts[9] > 0  # more road than pedestrians: the order of the classes is right


def test_real_camvid_labels_match_their_published_shares(seg_data):
    """Pixel shares over train as measured for this copy (%): every class index means what its name says."""
    train = build_dataset(config("camvid", seg_data / "camvid"), "train", False)
    counts = np.zeros(256, np.int64)
    for record in train.records:
        counts += np.bincount(read_mask(record.label, train.labels).ravel(), minlength=256)
    expected = [16.85, 23.26, 0.98, 31.66, 4.49, 9.72, 1.17, 1.13, 5.87, 0.64, 0.29]
    assert np.allclose(100 * counts[:11] / counts.sum(), expected, atol=0.01)
    assert 100 * counts[255] / counts.sum() == pytest.approx(3.95, abs=0.01)


def test_helpers_write_what_they_say(tmp_path):
    """Every test here trusts these factories: check their output without our readers."""
    mask = Image.open(io.BytesIO(write_mask(tmp_path / "m.png", (0, 3), (2, 4), mode="P").read_bytes()))
    assert mask.mode == "P" and np.asarray(mask).tolist() == [[0, 3, 0, 3]] * 2
    a, b = (hashlib.sha256(write_image(tmp_path / "i.png", seed=s).read_bytes()).digest() for s in (0, 1))
    assert a != b
