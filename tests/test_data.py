from __future__ import annotations

import hashlib
import io
import pickle
import re
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from data import DATASETS, build_dataset, data_hash
from data.check import check_pairs
from data.dataset import mix_seed, sample_rng
from data.files import image_size, read_image, read_mask
from data.folder import read_classes
from data.labels import CAMVID, CITYSCAPES, CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS
from data.loading import EpochBatchSampler, build_loader, clean_message
from data.transforms import denormalise
from engine.errors import UserError
from tests.helpers import config, make_camvid, make_cityscapes, make_folder, write_image, write_mask


def refuses(pattern: str):
    """Expects a UserError of one line that matches."""
    return pytest.raises(UserError, match=r"\A(?!.*\n.)(?s:.*)" + pattern)


# --- label tables ---------------------------------------------------------------------------------------------------


def test_cityscapes_table():
    assert CITYSCAPES.num_classes == 19 and len(CITYSCAPES_IDS) == 34
    assert (len(CITYSCAPES.ids), len(CITYSCAPES.ignore)) == (19, 15)
    raw = np.array([[7, 8, 11, 0, 33, 31, 26]])
    assert CITYSCAPES.map_raw(raw, "x").tolist() == [[0, 1, 2, 255, 18, 16, 13]]
    assert CITYSCAPES.class_names[13] == "car" and CITYSCAPES.palette[13].tolist() == [0, 0, 142]
    assert CITYSCAPES.palette[0].tolist() == [128, 64, 128] and CITYSCAPES.palette.dtype == np.uint8
    assert [CITYSCAPES_IDS[i][1] for i in CITYSCAPES.ids] == list(range(19))
    assert CITYSCAPES_TRAIN_IDS.map_raw(np.array([[18, 255]], np.uint8), "x").tolist() == [[18, 255]]
    assert CITYSCAPES.map_colours(np.array([[[220, 20, 60], [0, 0, 0], [111, 74, 0]]], np.uint8), "x").tolist() == [
        [11, 255, 255]
    ]


def test_camvid_table_and_colour_masks():
    assert CAMVID.num_classes == 11 and CAMVID.class_names[4] == "Pavement" and CAMVID.ids[10] == 10
    assert CAMVID.palette[[0, 7, 9]].tolist() == [[128, 128, 128], [64, 64, 128], [64, 64, 0]]
    for table in (CAMVID, CITYSCAPES):  # two classes of one colour could not be told apart
        assert len(np.unique(table.palette, axis=0)) == table.num_classes
    assert CAMVID.map_raw(np.array([[0, 10, 11]]), "x").tolist() == [[0, 10, 255]]
    rgb = CAMVID.palette[None, [3, 8, 10]]
    assert CAMVID.map_colours(rgb, "x").tolist() == [[3, 8, 10]]


def test_label_map_corrects_the_table():
    table = CAMVID.with_label_map({20: 3, 10: 255, 11: 10})
    assert table.map_raw(np.array([[20, 10, 11, 3]]), "x").tolist() == [[3, 255, 10, 3]]
    with refuses(r"label_map: \{20: 11\} names no class"):
        CAMVID.with_label_map({20: 11})
    with refuses("label_map: 300"):
        CAMVID.with_label_map({300: 1})


@pytest.mark.parametrize(
    "values, expected",
    [
        ([0, 3, 255], r"known: 0..11\): 255 \(2 px\); .*data.label_map: \{255: 255\}"),
        ([0, 77, 78], r"77 \(2 px\), 78 \(2 px\); .*data.label_map: \{77: 255, 78: 255\}"),
        ([0, 70000], r"70000 \(3 px\); likely cause: instance ids"),
        (list(range(60)), r"and 40 more; likely cause: a grey photograph"),
    ],
)
def test_unknown_values_are_counted_and_explained(values, expected):
    raw = np.resize(np.array(values), (1, max(6, len(values))))
    with refuses(r"some/mask.png: label values outside the table of 'camvid' .*" + expected):
        CAMVID.map_raw(raw, "some/mask.png")


# --- reading files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "LA"])
def test_index_masks_are_read_as_they_are(tmp_path, mode):
    """A palette mask's colours must play no part: its indices are the labels."""
    path = write_mask(tmp_path / "m.png", (0, 3, 10, 11), mode=mode)
    assert np.array_equal(read_mask(path, CAMVID)[5, :4], [0, 3, 10, 255])


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_masks_go_through_the_palette(tmp_path, mode):
    path = write_mask(tmp_path / "m.png", [(128, 64, 128), (0, 0, 0), (64, 0, 128)], mode=mode)
    assert read_mask(path, CAMVID)[0, :3].tolist() == [3, 255, 8]


def test_bad_masks_are_refused_by_name(tmp_path):
    odd = write_mask(tmp_path / "odd.png", [(128, 64, 128), (1, 2, 3), (1, 2, 4)], (2, 6), mode="RGB")
    with refuses(r"odd.png: colours outside .*\(1, 2, 4\) \(4 px\), \(1, 2, 3\) \(4 px\)"):
        read_mask(odd, CAMVID)
    with refuses("grey.png: .*class indices saved as RGB"):
        read_mask(write_mask(tmp_path / "grey.png", [(0, 0, 0), (3, 3, 3)], mode="RGB"), CAMVID)
    with refuses("bits.png: a 1-bit mask"):
        read_mask(write_mask(tmp_path / "bits.png", (0, 255), mode="1"), CAMVID)
    with refuses("cmyk.tif: a mask of mode CMYK"):
        read_mask(write_mask(tmp_path / "cmyk.tif", [(0, 0, 0)], mode="CMYK"), CAMVID)
    lossy = write_mask(tmp_path / "lossy.jpg", (0, 1))
    with refuses("lossy.jpg: JPEG masks are refused"):
        read_mask(lossy, CAMVID)
    with refuses("disguised.png: JPEG masks are refused"):
        read_mask(lossy.rename(tmp_path / "disguised.png"), CAMVID)
    clear = Image.new("RGBA", (4, 4), (128, 64, 128, 0))
    clear.save(tmp_path / "clear.png")
    with refuses("clear.png: the mask has transparent pixels"):
        read_mask(tmp_path / "clear.png", CAMVID)


def test_images_of_every_kind_become_rgb(tmp_path):
    grey16 = Image.fromarray(np.full((4, 6), 0x8040, np.uint16))
    for mode, image in {
        "L": Image.new("L", (6, 4), 128),
        "I;16": grey16,
        "RGBA": Image.new("RGBA", (6, 4), (128, 128, 128, 9)),
        "P": Image.new("RGB", (6, 4), (128, 128, 128)).quantize(4),
        "LA": Image.new("LA", (6, 4), (128, 255)),
    }.items():
        path = tmp_path / f"{mode.replace(';', '')}.png"
        image.save(path)
        pixels = read_image(path)
        assert pixels.shape == (4, 6, 3) and pixels.dtype == np.uint8 and (pixels == 128).all(), mode


def test_exif_rotation_turns_the_image_and_a_mask_beside_it_is_reported(tmp_path):
    root = make_folder(tmp_path, ("train",), n=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "images/train/00.jpg"
    Image.open(root / "images/train/00.png").save(path, exif=exif)
    (root / "images/train/00.png").unlink()
    assert read_image(path).shape[:2] == image_size(path) == (60, 40)
    dataset = build_dataset(config("folder", root), "train", False)
    assert dataset.native_size(0) == (60, 40)
    for ask in (lambda: dataset[0], lambda: check_pairs(dataset)):
        with refuses(r"00.png: label is 40x60 but its image 00.jpg is 60x40 \(H x W\) \(sides swapped"):
            ask()


def test_damaged_images_are_named(tmp_path):
    root = make_folder(tmp_path, ("train",), n=2)
    path = root / "images/train/01.png"
    path.write_bytes(path.read_bytes()[:3000])
    dataset = build_dataset(config("folder", root), "train", True)
    check_pairs(dataset)  # its header is whole
    with refuses("01.png: the image is damaged or truncated"):
        dataset[1]
    path.write_bytes(b"not an image at all")
    with refuses("01.png: not a readable image"):
        check_pairs(dataset)


# --- data sets ------------------------------------------------------------------------------------------------------


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
    for ask in (lambda: dataset[0], lambda: check_pairs(dataset)):
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
        ("names: [a, a]", "'a' stands there twice"),
        ("names: [a, b]\ncolors: []", "unknown key in .*'colors': did you mean 'colours'"),
        ("names: [a, b]\ncolours: [[0, 0, 0]]", "for each of the 2 names, got 1"),
        ("names: [a, b]\ncolours: [[0, 0, 0], [0, 0, 0]]", "stands for two classes"),
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


# --- faults of a data set -------------------------------------------------------------------------------------------


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
    for ask in (lambda: dataset[3], lambda: check_pairs(dataset, thorough=1)):
        with refuses("03.png: label is 40x61 but its image 03.png is 40x60"):
            ask()
    (root / "labels/train/03.png").unlink()
    write_mask(root / "labels/train/03.jpg", (0, 1))
    with refuses("03.jpg: JPEG masks are refused"):
        build_dataset(config("folder", root), "train", True)


def test_black_and_white_masks(tmp_path):
    """255 as foreground: refused whether 255 is ignored (it would count nowhere) or unknown, with the line to add."""
    root = make_folder(tmp_path, ("train",), values=(0, 255), names=("background", "thing"))
    with refuses(r"hold only 0 and 255, and 255 is ignored, .*\(4800 px\).*data.label_map: \{255: 1\}"):
        check_pairs(build_dataset(config("folder", root), "train", True))
    mended = build_dataset(config("folder", root, label_map={255: 1}), "train", True)
    check_pairs(mended)
    assert set(mended[0][1].unique().tolist()) == {0, 1}
    check_pairs(build_dataset(config("folder", root, label_map={255: 255}), "train", True))  # void on purpose

    (root / "classes.yaml").write_text("names: [background, thing]\nignore: 9\n")
    with refuses(r"255 \(1200 px\); likely cause: a black and white mask.*data.label_map: \{255: 1\}"):
        check_pairs(build_dataset(config("folder", root), "train", True))

    write_mask(root / "labels/train/02.png", (0, 1, 255))  # one true class 1 anywhere: 255 is a real void
    (root / "classes.yaml").write_text("names: [background, thing]\n")
    check_pairs(build_dataset(config("folder", root), "train", True), thorough=2)


def test_masks_of_nothing_but_void_are_refused(tmp_path):
    root = make_cityscapes(tmp_path)
    for label in (root / "gtFine").rglob("*.png"):
        write_mask(label, (0,))
    with refuses("every pixel of every mask .* is ignored"):
        check_pairs(build_dataset(config("cityscapes", root), "train", True))


# --- randomness, cache, loading -------------------------------------------------------------------------------------


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
    assert re.fullmatch(r".*00\.png: label values outside the table of '.*: 77 \(1200 px\).*\{77: 255\}", line)


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


# --- real photographs -----------------------------------------------------------------------------------------------


def test_real_camvid(seg_data):
    cfg = config("camvid", seg_data / "camvid", size=(360, 480), augment="standard")
    train, val = (build_dataset(cfg, split, split == "train") for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101) and train.native_size(0) == (360, 480)
    check_pairs(train)
    check_pairs(val)
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
    """The factories above are trusted by every test here: one look at their output, independent of our readers."""
    mask = Image.open(io.BytesIO(write_mask(tmp_path / "m.png", (0, 3), (2, 4), mode="P").read_bytes()))
    assert mask.mode == "P" and np.asarray(mask).tolist() == [[0, 3, 0, 3]] * 2
    a, b = (hashlib.sha256(write_image(tmp_path / "i.png", seed=s).read_bytes()).digest() for s in (0, 1))
    assert a != b
