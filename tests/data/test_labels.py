from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data import build_dataset
from data.check.before_training import check_before_training
from data.files import image_size, read_image, read_mask
from data.labels import CAMVID, CITYSCAPES, CITYSCAPES_IDS, CITYSCAPES_TRAIN_IDS
from tests.helpers import config, make_folder, refuses, write_mask

# --- label tables -----------------------------------------------------------------------------------------------------


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
        ([0, 3, 255], r"known: 0..11\): 255 \(2 px\); .*data.label_map .*: \{255: 255\}"),
        ([0, 77, 78], r"77 \(2 px\), 78 \(2 px\); .*data.label_map .*: \{77: 255, 78: 255\}"),
        ([0, 70000], r"70000 \(3 px\); data.label_map gives them a class or ignores them; .*tools.check_data"),
        (list(range(60)), r"19 \(1 px\), and 40 more; .*tools.check_data"),
    ],
)
def test_unknown_values_are_counted(values, expected):
    raw = np.resize(np.array(values), (1, max(6, len(values))))
    with refuses(r"some/mask.png: values that are no class of 'camvid' .*" + expected):
        CAMVID.map_raw(raw, "some/mask.png")


# --- reading files ----------------------------------------------------------------------------------------------------


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
    with refuses(r"odd.png: colours that are no class of .*\(1, 2, 3\) \(4 px\), \(1, 2, 4\) \(4 px\)"):
        read_mask(odd, CAMVID)
    with refuses(r"grey.png: colours .*\(3, 3, 3\) .*classes.yaml .*tools.check_data"):
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
    for ask in (lambda: dataset[0], lambda: check_before_training([dataset])):
        with refuses(r"00.png: label is 40x60 but its image 00.jpg is 60x40 \(H x W\) \(sides swapped"):
            ask()


def test_damaged_images_are_named(tmp_path):
    root = make_folder(tmp_path, ("train",), n=2)
    path = root / "images/train/01.png"
    path.write_bytes(path.read_bytes()[:3000])
    dataset = build_dataset(config("folder", root), "train", True)
    for ask in (lambda: dataset[1], lambda: check_before_training([dataset])):
        with refuses("01.png: the image is damaged or truncated"):
            ask()
    check_before_training([dataset], most=1)  # outside the sample only headers are read, and its header is whole
    path.write_bytes(b"not an image at all")
    with refuses("01.png: not a readable image"):
        check_before_training([dataset])
