"""tools.check_data finds and explains every planted fault, with a line that fixes it; clean data has no findings."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageFilter

from common import command
from data import build_dataset
from data.check import before_training
from data.check.before_training import check_before_training
from data.check.file_rules import near_duplicates
from data.check.scan import scan
from data.check.whole_set import Checked, check_config
from data.labels import CITYSCAPES_IDS
from engine.config.keys import Config
from tests.helpers import config, make_cityscapes, refuses
from tools.check_data import __main__ as check_data

HW = (60, 80)
NAMES = ["ground", "house", "sky"]
COLOURS = [[200, 30, 30], [30, 200, 30], [30, 30, 200]]


def scene(seed: int, hw=HW) -> tuple[np.ndarray, np.ndarray]:
    """A textured picture (H, W, 3) and its mask (H, W): ground, sky and a house somewhere."""
    rng = np.random.default_rng(seed)
    h, w = hw
    mask = np.zeros(hw, np.uint8)
    mask[: rng.integers(h // 4, h // 2)] = 2
    left, wide = rng.integers(5, w // 2), rng.integers(w // 6, w // 3)
    mask[h // 5 : 4 * h // 5, left : left + wide] = 1
    rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
    texture = np.asarray(rough, np.int32) // 2 + rng.integers(0, 60, (h, w, 3))
    return np.clip(texture + 30 * mask[..., None], 0, 255).astype(np.uint8), mask


def city(root: Path, n: int = 6, **classes) -> Path:
    """A clean data set in the folder layout: n pairs in train, n // 2 in val."""
    for split, start, count in (("train", 0, n), ("val", 100, n // 2)):
        for side in ("images", "labels"):
            (root / side / split).mkdir(parents=True)
        for i in range(count):
            image, mask = scene(start + i)
            Image.fromarray(image).save(root / "images" / split / f"{i:02d}.png")
            Image.fromarray(mask).save(root / "labels" / split / f"{i:02d}.png")
    (root / "classes.yaml").write_text(yaml.safe_dump({"names": NAMES, "colours": COLOURS} | classes))
    return root


def masks(root: Path, split: str = "*") -> list[Path]:
    return sorted((root / "labels").glob(f"{split}/*.png"))


def images(root: Path, split: str = "*") -> list[Path]:
    return sorted((root / "images").glob(f"{split}/*"))


def each_mask(change):
    """A plant that maps every mask array."""

    def plant(root: Path) -> None:
        for path in masks(root):
            Image.fromarray(change(np.asarray(Image.open(path)))).save(path)

    return plant


def first_mask(change):
    def plant(root: Path) -> None:
        path = masks(root, "train")[0]
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)

    return plant


def colour(mask: np.ndarray) -> np.ndarray:
    return np.array(COLOURS, np.uint8)[mask]


# --- the plants: what a user does to a data set without knowing -----------------------------------------------------


def missing_label(root):
    masks(root, "train")[1].unlink()


def extra_label(root):
    images(root, "train")[1].unlink()


def two_files_one_name(root):
    Image.open(images(root, "train")[0]).save(root / "images" / "train" / "00.jpg")


def smaller_mask(root):
    path = masks(root, "train")[2]
    Image.open(path).resize((40, 30), Image.Resampling.NEAREST).save(path)


def exif_rotation(root):
    path = images(root, "train")[2]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def jpeg_mask(root):
    for path in masks(root, "train"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()


def bilevel_mask(root):
    path = masks(root, "train")[0]
    Image.open(path).point(lambda v: 255 * (v > 0)).convert("1").save(path)


def transparent_mask(root):
    path = masks(root, "train")[0]
    rgba = Image.fromarray(colour(np.asarray(Image.open(path)))).convert("RGBA")
    rgba.putalpha(100)
    rgba.save(path)


def empty_image(root):
    images(root, "train")[0].write_bytes(b"")


def truncated_image(root):
    path = images(root, "train")[3]
    path.write_bytes(path.read_bytes()[:-4000])


def truncated_mask(root):
    path = masks(root, "train")[3]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def text_as_image(root):
    images(root, "train")[3].write_text("<html>not found</html>")


def interpolated(root):
    for path in masks(root):
        mask = Image.fromarray(20 * np.asarray(Image.open(path)))
        small = mask.resize((40, 30), Image.Resampling.NEAREST)
        small.resize((80, 60), Image.Resampling.BILINEAR).save(path)


def interpolated_within_the_classes(root):
    """Twenty classes: the values that interpolation invents are classes too, so no loader objects."""
    (root / "classes.yaml").write_text(yaml.safe_dump({"names": [f"c{i}" for i in range(20)]}))
    for path in masks(root):
        mask = Image.fromarray(9 * np.asarray(Image.open(path)))
        mask.resize((40, 30), Image.Resampling.NEAREST).resize((80, 60), Image.Resampling.BILINEAR).save(path)


def smoothed_colours(root):
    for path in masks(root):
        mask = Image.fromarray(colour(np.asarray(Image.open(path))))
        mask.resize((160, 120)).filter(ImageFilter.GaussianBlur(2)).resize((80, 60)).save(path)


def unlisted_colour(root):
    for path in masks(root):
        rgb = colour(np.asarray(Image.open(path))).copy()
        rgb[:5] = (7, 8, 9)
        Image.fromarray(rgb).save(path)


def void_as_class_zero(root):
    spec = {"names": ["void", "house", "sky"], "colours": COLOURS}
    (root / "classes.yaml").write_text(yaml.safe_dump(spec))


def black_and_white(root):
    (root / "classes.yaml").write_text("names: [background, house]\n")
    each_mask(lambda m: (255 * (m == 1)).astype(np.uint8))(root)


def class_only_in_val(root):
    for path in masks(root, "train"):
        m = np.asarray(Image.open(path))
        Image.fromarray(np.where(m == 1, 0, m).astype(np.uint8)).save(path)


def class_nowhere(root):
    each_mask(lambda m: np.where(m == 1, 0, m).astype(np.uint8))(root)


def all_void(root):
    each_mask(lambda m: np.full_like(m, 255))(root)


def half_void(root):
    each_mask(lambda m: np.where(np.arange(HW[0])[:, None] % 10 < 7, 255, m).astype(np.uint8))(root)


def same_image_in_val(root):
    shutil.copy(images(root, "train")[0], images(root, "val")[0])
    shutil.copy(masks(root, "train")[0], masks(root, "val")[0])


def recompressed_in_val(root):
    source = Image.open(images(root, "train")[0]).point(lambda v: min(255, int(v * 0.9 + 12)))
    source.resize((160, 120)).resize((80, 60)).save(images(root, "val")[0])


def copied_within_train(root):
    shutil.copy(images(root, "train")[0], images(root, "train")[1])


def image_as_mask(root):
    path = masks(root, "train")[0]
    grey = Image.open(images(root, "train")[0]).convert("L").point(lambda v: v % 3)
    grey.save(path)
    grey.save(images(root, "train")[0])


def swapped(root):
    (root / "images").rename(root / "other")
    (root / "labels").rename(root / "images")
    (root / "other").rename(root / "labels")


def photographs_as_masks(root):
    for path in masks(root):
        Image.fromarray(scene(int(path.stem) + 500)[0]).convert("L").save(path)


def one_mask_for_all(root):
    for path in masks(root, "train")[1:]:
        shutil.copy(masks(root, "train")[0], path)


def grey_photograph(root):
    path = images(root, "train")[4]
    Image.open(path).convert("L").save(path)


def flat_photograph(root):
    path = images(root, "train")[4]
    Image.new("RGB", HW[::-1], (90, 90, 90)).save(path)


def giant(root):
    path = images(root, "train")[4]
    Image.open(path).resize((800, 600)).save(path)
    Image.open(masks(root, "train")[4]).resize((800, 600), Image.Resampling.NEAREST).save(masks(root, "train")[4])


def no_labels(root):
    shutil.rmtree(root / "labels" / "val")


SHIFTED = "data.label_map: {1: 0, 2: 1, 3: 2}"
# name in the docs: (plant, level, words of the explanation, words of the fix)
PLANTS = {
    "image without label": (missing_label, "error", ["01.png", "train"], "add the label"),
    "label without image": (extra_label, "error", ["01.png"], "add the image"),
    "two files, one name": (two_files_one_name, "error", ["00.jpg", "00.png"], "remove one"),
    "sizes differ": (smaller_mask, "error", ["02.png", "30x40", "60x80"], "nearest"),
    "unrotated mask": (exif_rotation, "error", ["EXIF", "02.png"], "turn the mask"),
    "JPEG mask": (jpeg_mask, "error", ["6 such files"], "PNG"),
    "1-bit mask": (bilevel_mask, "error", ["00.png"], "8 bits"),
    "transparent mask": (transparent_mask, "error", ["00.png"], "without alpha"),
    "empty file": (empty_image, "error", ["00.png", "0 bytes"], "get the file again"),
    "truncated file": (truncated_image, "error", ["03.png"], "get the file again"),
    "truncated file, mask": (truncated_mask, "error", ["03.png"], "get the file again"),
    "not an image": (text_as_image, "error", ["03.png"], "get the file again"),
    "counted from 1": (each_mask(lambda m: m + 1), "error", ["1..3"], SHIFTED),
    "void stored as 0": (
        each_mask(lambda m: np.where(np.arange(80) < 9, 0, m + 1).astype(np.uint8)), "error", ["0..3", "void"],
        "data.label_map: {0: 255, 1: 0, 2: 1, 3: 2}",
    ),
    "0/255 masks": (black_and_white, "error", ["0 and 255"], "data.label_map: {255: 1}"),
    "stretched values": (each_mask(lambda m: m * 100), "error", ["100"], "data.label_map: {0: 0, 100: 1, 200: 2}"),
    "unmapped values": (
        first_mask(lambda m: np.where(m == 1, 77, m).astype(np.uint8)), "error", ["77"], "data.label_map: {77: 255}",
    ),
    "instance ids": (each_mask(lambda m: m.astype(np.uint16) * 1000 + 3), "error", ["2003"], "value // 1000"),
    "interpolated masks": (interpolated, "error", ["interpolation"], "nearest"),
    "interpolated masks, all values known": (interpolated_within_the_classes, "error", ["interpolation"], "nearest"),
    "indices saved as RGB": (
        each_mask(lambda m: np.repeat(m[..., None], 3, 2)), "error", ["three equal channels"], "one channel",
    ),
    "smoothed colour masks": (smoothed_colours, "error", ["anti-aliased"], "without smoothing"),
    "unknown colours": (unlisted_colour, "error", ["[7, 8, 9]"], "ignore: [[7, 8, 9]]"),
    "void is a class": (void_as_class_zero, "warning", ["'void'"], "data.label_map: {0: 255}"),
    "class only in val": (class_only_in_val, "warning", ["house"], "eval.exclude: [house]"),
    "class never present": (class_nowhere, "note", ["house"], "eval.exclude: [house]"),
    "all masks void": (all_void, "error", ["every pixel"], "data.label_map: {255: CLASS}"),
    "void mask": (first_mask(lambda m: np.full_like(m, 255)), "warning", ["1 masks of train"], "leave"),
    "mostly void": (half_void, "warning", ["% of the pixels"], "data.label_map: {255: CLASS}"),
    "one-class mask": (first_mask(lambda m: np.ones_like(m)), "warning", ["1 of 9", "house"], "draw"),
    "image in two splits": (same_image_in_val, "error", ["train/00 = val/00"], "remove"),
    "near-duplicates across splits": (recompressed_in_val, "warning", ["train/00", "val/00"], "data.sample_by: group"),
    "image twice": (copied_within_train, "warning", ["more than once"], "remove"),
    "image is the mask": (image_as_mask, "error", ["the image itself"], "put the masks"),
    "folders swapped": (swapped, "error", ["photograph's many"], "swap the folders"),
    "masks are pictures": (photographs_as_masks, "error", ["9 of 9", "grey pictures"], "class indices"),
    "one mask for several images": (one_mask_for_all, "warning", ["6 masks"], "draw"),
    "grey among colour images": (grey_photograph, "warning", ["1 of 9"], "data.augment"),
    "blank image": (flat_photograph, "warning", ["one flat colour"], "remove"),
    "sizes far apart": (giant, "warning", ["60x80", "600x800"], "data.size: [60, 80]"),
    "no labels": (no_labels, "error", ["val has 3 images"], "data.sample"),
}  # fmt: skip


def checked(root: Path) -> Checked:
    return check_config(config("folder", root), ("train", "val"))


def found(result: Checked, fault: str):
    findings = [f for f in result.findings if f.fault == fault]
    assert findings, [f.fault for f in result.findings]
    return findings[0]  # a finding about a split comes once per split


def test_the_clean_city_raises_no_alarm(tmp_path):
    assert checked(city(tmp_path / "data")).findings == []


@pytest.mark.parametrize("fault", PLANTS)
def test_a_planted_fault_is_found_and_explained(tmp_path, fault):
    plant, level, words, fix = PLANTS[fault]
    root = city(tmp_path / "data")
    plant(root)
    finding = found(checked(root), fault.split(", all")[0].split(", mask")[0])
    assert finding.level == level
    for word in words:
        assert word in finding.text, finding
    assert fix in finding.fix, finding


@pytest.mark.parametrize("fault", [f for f in PLANTS if PLANTS[f][1] != "error"])
def test_a_warning_does_not_come_with_errors(tmp_path, fault):
    root = city(tmp_path / "data")
    PLANTS[fault][0](root)
    assert checked(root).count("error") == 0


def test_every_line_of_the_config_that_is_offered_does_fix_it(tmp_path):
    """The label_map of the fix, applied, leaves no finding."""
    for fault in ("counted from 1", "void stored as 0", "0/255 masks", "stretched values", "unmapped values"):
        root = city(tmp_path / fault.replace("/", "-"))
        PLANTS[fault][0](root)
        line = found(checked(root), fault).fix.split("   ")[0]
        cfg = config("folder", root, label_map=yaml.safe_load(line.removeprefix("data.label_map: ")))
        after = check_config(cfg, ("train", "val"))
        assert [f for f in after.findings if f.level == "error"] == [], fault


# --- Cityscapes' two kinds of ids -----------------------------------------------------------------------------------


def test_cityscapes_ids_of_the_wrong_kind(tmp_path):
    root = make_cityscapes(tmp_path / "a", n=2)
    for path in root.rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    finding = found(check_config(config("cityscapes", root), ("train",)), "labelIds read as trainIds")
    assert finding.level == "error" and finding.fix == "data.labels: labelIds"

    root = make_cityscapes(tmp_path / "b", n=2, kind="labelTrainIds")
    for path in root.rglob("*_labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    finding = found(check_config(config("cityscapes", root), ("train",)), "trainIds read as labelIds")
    assert finding.fix == "data.labels: labelTrainIds"


def test_label_ids_in_a_folder_of_nineteen_classes(tmp_path):
    root = city(tmp_path / "data")
    (root / "classes.yaml").write_text(yaml.safe_dump({"names": [f"c{i}" for i in range(19)]}))
    each_mask(lambda m: np.array([7, 11, 23], np.uint8)[m])(root)
    finding = found(checked(root), "labelIds read as trainIds")
    line = yaml.safe_load(finding.fix.removeprefix("data.label_map: "))
    assert line[7] == 0 and line[23] == 10 and line[4] == 255 and set(line) == set(CITYSCAPES_IDS)


def test_a_layout_without_single_pairs_says_what_its_loader_says(tmp_path):
    root = make_cityscapes(tmp_path / "data", n=2)
    make_cityscapes(root, n=2, split="val")
    next((root / "gtFine" / "val").rglob("*.png")).unlink()
    finding = found(check_config(config("cityscapes", root), ("train", "val")), "split cannot be read")
    assert finding.level == "error" and "val: " in finding.text and "without label" in finding.text


# --- no false alarm -------------------------------------------------------------------------------------------------


def alarms(result: Checked) -> list[str]:
    return [f"{f.level} {f.fault}: {f.text}" for f in result.findings if f.level != "note"]


def test_thin_things_and_trimaps_are_no_interpolation(tmp_path):
    root = city(tmp_path / "poles")
    for path in masks(root):
        m = np.array(Image.open(path))
        m[:, ::7] = 1  # a fence of one-pixel poles, whose value lies between ground and sky
        Image.fromarray(m).save(path)
    assert alarms(checked(root)) == []


def test_no_alarm_on_the_drawn_city():
    cfg = Config()  # streets
    assert alarms(check_config(cfg, limit=24)) == []


@pytest.mark.parametrize(
    ("name", "folder"), [("camvid", "camvid"), ("pets", "oxford-iiit-pet"), ("kitti", "kitti/seg_data")]
)
def test_no_alarm_on_real_data(seg_data, name, folder):
    assert alarms(check_config(config(name, seg_data / folder), limit=40)) == []


def test_near_duplicates_of_real_frames_copied_to_val(seg_data, tmp_path):
    """Frames of one drive, a third of a second apart and more, are no duplicates; a recompressed one is."""
    from data.files import Record
    from data.sets.camvid import camvid

    records, _ = camvid(seg_data / "camvid", "train")
    plain = [Record(r.image, None, r.group, r.name) for r in records[:30]]
    copy = tmp_path / "copy.jpg"
    Image.open(plain[3].image).resize((400, 300)).save(copy, quality=60)
    train = scan(plain[::2] + [plain[3]], "train")
    other = scan([*plain[5::4], Record(copy, None, "copy", "copy")], "val")
    assert [(a.name, b.name) for a, b in near_duplicates([*train, *other])] == [(plain[3].name, "copy")]


# --- the command ----------------------------------------------------------------------------------------------------


def run(*words) -> int:
    return command.run(check_data.main, check_data.build_parser(), [str(w) for w in words])


def write_config(path: Path, root: Path) -> Path:
    path.write_text(yaml.safe_dump({"name": "tiny", "data": {"name": "folder", "root": str(root), "size": [64, 64]}}))
    return path


def test_the_command_prints_tables_and_counts(tmp_path, capsys):
    cfg = write_config(tmp_path / "c.yaml", city(tmp_path / "data"))
    assert run(cfg, "--out", tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "train: 6 pairs read" in out and "no errors, no warnings" in out
    raw = [np.asarray(Image.open(p)) for p in masks(tmp_path / "data")]
    row = next(line.split() for line in out.splitlines() if line.split()[:2] == ["1", "house"])
    assert row[2] == f"{sum((m == 1).sum() for m in raw):,}" and row[4] == "9"  # pixels, masks
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"check.txt", "classes.png", "palette.png"}


def test_errors_are_exit_code_2_and_the_worst_file_comes_first(tmp_path, capsys):
    root = city(tmp_path / "data")
    cfg = write_config(tmp_path / "c.yaml", root)
    unlisted_colour(root)
    truncated_image(root)
    path = masks(root, "train")[3]
    Image.open(path).resize((40, 30), Image.Resampling.NEAREST).save(path)
    Image.new("L", (4, 4)).save(root / "images" / "train" / "03.bmp")
    assert run(cfg) == 2
    io = capsys.readouterr()
    assert io.err.startswith("error: ") and "errors" in io.err and io.err.count("\n") == 1
    worst = io.out.split("worst files first\n")[1].splitlines()[0]
    assert "03." in worst and worst.count(",") >= 1  # several faults in one file

    shutil.rmtree(root)
    assert run(cfg) == 2
    assert "no such data folder" in capsys.readouterr().err


def test_warnings_are_exit_code_0(tmp_path, capsys):
    root = city(tmp_path / "data")
    grey_photograph(root)
    assert run(write_config(tmp_path / "c.yaml", root)) == 0
    assert "no errors, 1 warning" in capsys.readouterr().out


# --- before a training ----------------------------------------------------------------------------------------------


def both(root: Path) -> list:
    return [build_dataset(config("folder", root), split, train=False) for split in ("train", "val")]


def test_the_check_before_training_is_one_line(tmp_path):
    line = check_before_training(both(city(tmp_path / "data")))
    assert line.startswith("data: 6 train and 3 val pairs, all looked at in ") and line.endswith(": nothing suspicious")
    recompressed_in_val(tmp_path / "data")
    line = check_before_training(both(tmp_path / "data"))
    assert "suspicious: near-duplicates across splits" in line and "tools.check_data" in line and "\n" not in line


def test_the_check_before_training_stops_at_what_the_loader_cannot_read(tmp_path):
    root = city(tmp_path / "data")
    datasets = both(root)
    truncated_image(root)
    with refuses(r"03\.png.*tools\.check_data"):
        check_before_training(datasets)


@pytest.mark.parametrize("plant", [bilevel_mask, transparent_mask, empty_image, truncated_mask, text_as_image])
def test_the_check_before_training_refuses_files_that_no_loader_reads(tmp_path, plant):
    root = city(tmp_path / "data")
    plant(root)
    with refuses(r"train/0[03]\.png: .*tools\.check_data"):
        check_before_training(both(root))


def test_the_check_before_training_claims_nothing_of_what_it_did_not_read(tmp_path):
    root = city(tmp_path / "data", n=12)
    class_only_in_val(root)
    assert "class only in val" in check_before_training(both(root))
    line = check_before_training(both(root), most=4)
    assert "8 looked at" in line and "nothing suspicious" in line


def test_the_check_before_training_keeps_to_its_time(tmp_path, monkeypatch):
    """However slow the disk, one batch per split is read, and no more once the time is over."""
    root = city(tmp_path / "data", n=40)
    monkeypatch.setattr(before_training.time, "perf_counter", iter(range(0, 10**6, 100)).__next__)  # 100 s a look
    assert " 16 looked at" in check_before_training(both(root), most=40)


@pytest.mark.parametrize("cache", [False, True])
def test_the_check_before_training_opens_no_file_twice(tmp_path, monkeypatch, cache):
    """One split is larger than the sample. A data set with a cache does not read the sample again for training."""
    opened, real = Counter(), Image.open

    def count(path, *args, **kwargs):
        opened[str(path)] += 1
        return real(path, *args, **kwargs)

    cfg = config("folder", city(tmp_path / "data", n=12), cache=cache)
    datasets = [build_dataset(cfg, split, train=split == "train") for split in ("train", "val")]
    fresh = build_dataset(cfg, "train", train=True)
    monkeypatch.setattr(Image, "open", count)
    check_before_training(datasets, most=8)
    assert len(opened) == 2 * (12 + 6) and set(opened.values()) == {1}
    samples = [datasets[0][i] for i in range(12)]
    assert sum(opened.values()) == 36 + 2 * (12 - 8 * cache)
    for i in range(12):
        assert all(torch.equal(a, b) for a, b in zip(samples[i], fresh[i]))
