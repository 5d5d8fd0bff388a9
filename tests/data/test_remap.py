from __future__ import annotations

import numpy as np
import pytest

from data import build_dataset
from data.labels import CAMVID, CITYSCAPES, CITYSCAPES_TRAIN_IDS
from data.remap import remap
from engine.config import config_from, dump, load_config
from tests.helpers import config, make_camvid, make_cityscapes, make_folder, refuses, write_mask

FINE = {
    "background": "rest", "fence": "fence", "car": "car", "vegetation": "vegetation", "pole": "pole",
    "traffic sign": "traffic sign", "traffic light": "traffic light",
}  # fmt: skip


def test_system_a_classes_from_either_kind_of_label_file():
    """fence 13, car 26, vegetation 21, pole 17, sign 20, light 19 (ids); road and sky are background, void is void."""
    by_id, by_train_id = remap(CITYSCAPES, FINE), remap(CITYSCAPES_TRAIN_IDS, FINE)
    assert by_id.class_names == tuple(FINE) == by_train_id.class_names
    raw = np.array([[7, 23, 13, 26, 21, 17, 20, 19, 0, 18]], np.uint8)
    assert by_id.map_raw(raw, "x").tolist() == [[0, 0, 1, 2, 3, 4, 5, 6, 255, 255]]
    raw = np.array([[0, 10, 4, 13, 8, 5, 7, 6, 255]], np.uint8)
    assert by_train_id.map_raw(raw, "x").tolist() == [[0, 0, 1, 2, 3, 4, 5, 6, 255]]
    assert by_id.palette[:3].tolist() == [[0, 0, 0], [190, 153, 153], [0, 0, 142]]


def test_background_ignored_keeps_the_classes_and_their_numbers():
    table = remap(CITYSCAPES, FINE, background="ignore")
    assert table.class_names == tuple(FINE)
    assert table.map_raw(np.array([[7, 13, 19, 0]]), "x").tolist() == [[255, 1, 6, 255]]
    rgb = CITYSCAPES.palette[None, [0, 4, 6]]
    assert table.map_colours(rgb, "x").tolist() == [[255, 1, 6]]
    with refuses("data.background: ignore: no class of data.labels takes `rest`"):
        remap(CAMVID, {"a": list(CAMVID.class_names[:5]), "b": list(CAMVID.class_names[5:])}, "ignore")
    with refuses("data.background: ignore: .*needs a mapping"):
        build_dataset(config("streets", None, background="ignore"), "train", True)


def test_lists_ignored_classes_and_void():
    table = remap(CAMVID, {"vehicle": ["Car", "Bicyclist"], "ignore": ["Sky", "Tree"], "other": ["rest", "void"]})
    assert table.class_names == ("vehicle", "other") and table.num_classes == 2
    assert table.map_raw(np.array([[8, 10, 0, 5, 3, 11]]), "x").tolist() == [[0, 0, 255, 255, 1, 1]]
    assert table.palette.tolist() == [[64, 0, 128], [0, 0, 0]]
    rgb = np.concatenate([CAMVID.palette[[8, 10, 0, 3]], [[0, 0, 0]]])[None].astype(np.uint8)
    assert table.map_colours(rgb, "x").tolist() == [[0, 0, 255, 1, 1]]
    with refuses("values that are no class"):
        table.map_raw(np.array([[12]]), "x")


@pytest.mark.parametrize(
    "classes, expected",
    [
        ({"a": "Sky", "b": "rest", "c": "Tre"}, r"unknown class .*data.labels: c\) 'Tre': did you mean 'Tree'"),
        ({"a": "Sky", "b": ["Tree", "Sky"], "c": "rest"}, "'Sky' is listed under both 'a' and 'b'"),
        ({"a": "Sky", "b": "Tree"}, "data.labels does not name Building, Pole, .*background: rest"),
        ({"a": "rest", "b": "rest"}, "'rest' is listed under both"),
        ({"a": list(CAMVID.class_names), "b": "rest"}, "nothing is left for 'b'"),
        ({"all": "rest"}, "at least two classes"),
        ({"a": "rest", "ignore": "Sky"}, "at least two classes"),
    ],
)  # fmt: skip
def test_impossible_mappings_are_refused(classes, expected):
    with refuses(expected):
        remap(CAMVID, classes)


def test_every_data_set_can_be_remapped(tmp_path):
    root = make_cityscapes(tmp_path / "city")  # road, building, car, void
    dataset = build_dataset(config("cityscapes", root, labels={"rest": "rest", "car": "car"}), "train", True)
    assert set(dataset[0][1].unique().tolist()) == {0, 1, 255} and dataset.class_names == ("rest", "car")
    root = make_camvid(tmp_path / "camvid", {"0001TP": 2})
    dataset = build_dataset(config("camvid", root, labels={"w": "Road", "ignore": "rest", "s": "Sky"}), "train", True)
    assert set(dataset[0][1].unique().tolist()) == {0, 1, 255}
    root = make_folder(tmp_path / "own", mode="L")
    write_mask(root / "labels/train/00.png", (0, 1, 2, 255))
    cfg = config("folder", root, labels={"x": ["a", "c"], "y": "b"}, label_map={0: 1})
    raw = build_dataset(cfg, "train", False).load(0)[1]
    assert raw[0, :4].tolist() == [1, 1, 0, 255]  # label_map first (value 0 is b), then classes by name


def test_the_mapping_in_a_config_keeps_its_order_and_the_words_still_work(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data:\n  labels: {no: rest, fence: fence, car: [car, truck]}\n")
    cfg = load_config(path)
    assert cfg.data.labels == {"no": "rest", "fence": "fence", "car": ["car", "truck"]}
    path.write_text(dump(cfg))
    assert list(load_config(path).data.labels) == ["no", "fence", "car"]
    assert config_from({}, ["data.labels={b: rest, a: car}"]).data.labels == {"b": "rest", "a": "car"}
    assert config_from({}, ["data.labels=labelids"]).data.labels == "labelIds"
    with refuses("unknown value 'trainIds': .*valid: auto, labelIds, labelTrainIds"):
        config_from({"data": {"labels": "trainIds"}})
