"""The drawn city: the same seed draws the same pixels, every split has every class, the cache is complete or absent."""

import dataclasses
import hashlib
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from common.errors import UserError
from data import streets
from data.labels import CITYSCAPES
from data.sets.cityscapes import cityscapes
from data.streets.canvas import CAR, LIGHT, POLE, SIGN, SKY, Camera, Canvas, disc
from data.streets.signs import FACES, MIN_PX, lamp_post, post, sign_post, traffic_light
from tools.streets_sheet import sheet

REPOSITORY = Path(__file__).parents[2]
FRAME = (streets.SEED, "train", "larkspur", 3)


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def labels_by_split() -> dict[str, list[np.ndarray]]:
    """Class indices of one or two frames of every city."""
    found = {}
    for split, cities in streets.CITIES.items():
        frames = range(1 if split == "train" else 2)
        pairs = [streets.draw_frame(streets.SEED, split, city, i) for city in cities for i in frames]
        assert all(p.shape == (256, 512, 3) and p.dtype == np.uint8 for p, _ in pairs)
        assert all(t.shape == (256, 512) and t.dtype == np.uint8 for _, t in pairs)
        found[split] = [CITYSCAPES.map_raw(t, split) for _, t in pairs]
    return found


def test_the_same_frame_again_and_in_another_process():
    picture, labels = streets.draw_frame(*FRAME)
    streets._city.cache_clear()
    again = streets.draw_frame(*FRAME)
    assert np.array_equal(picture, again[0]) and np.array_equal(labels, again[1])
    code = (
        "import hashlib; from data import streets\n"
        f"for a in streets.draw_frame(*{FRAME}): print(hashlib.sha256(a.tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [digest(picture), digest(labels)]


def test_labels_are_those_of_this_version():
    # A change here is a change of the data set: raise streets.VERSION, and only then write the new numbers down.
    labels = streets.draw_frame(*FRAME)[1]
    pixels = {
        7: 41812,
        8: 4037,
        11: 12269,
        12: 915,
        13: 6885,
        17: 6511,
        20: 736,
        21: 14962,
        22: 2257,
        23: 23646,
        24: 746,
        25: 2666,
        27: 4195,
        28: 5197,
        33: 4238,
    }
    assert streets.VERSION == 1
    assert set(np.unique(labels)) == set(pixels)
    for label, count in pixels.items():  # Pillow's releases differ at up to three pixels of a frame (10.2 to 13 tried)
        assert abs(int((labels == label).sum()) - count) <= 4, label
    if int(PIL.__version__.split(".")[0]) >= 12:
        assert digest(labels) == "72cb845692b611d6ac362adf4b66617b3015faad10cc67b2575b32f81ca2a18d"


def test_seed_city_and_frame_all_matter():
    seed, split, city, frame = FRAME
    base = streets.draw_frame(*FRAME)[1]
    for other in ((seed + 1, split, city, frame), (seed, split, "quillon", frame), (seed, split, city, frame + 1)):
        assert (streets.draw_frame(*other)[1] != base).mean() > 0.1


def test_splits_have_the_promised_sizes_and_share_no_city():
    counts = {split: len(cities) * streets.FRAMES[split] for split, cities in streets.CITIES.items()}
    assert counts == {"train": 240, "val": 40, "test": 40}
    assert len(streets.CITIES["train"]) >= 10 and len(streets.CITIES["val"]) >= 4 and len(streets.CITIES["test"]) >= 4
    names = [city for cities in streets.CITIES.values() for city in cities]
    assert len(set(names)) == len(names)
    towns = [repr(streets._city(streets.SEED, split, c)) for split, cities in streets.CITIES.items() for c in cities]
    assert len(set(towns)) == len(towns)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_holds_the_classes_in_sensible_shares(labels_by_split, split):
    pixels = np.concatenate([t.ravel() for t in labels_by_split[split]])
    share = np.bincount(pixels, minlength=256)[:19] / pixels.size
    seen = {name for name, s in zip(CITYSCAPES.class_names, share) if s >= 0.0025}
    assert len(seen) >= 15, sorted(seen)
    assert {"fence", "car", "vegetation", "pole", "traffic sign", "traffic light"} <= seen
    assert share.max() < 0.5 and (pixels == 255).mean() < 0.05


def _camera() -> Camera:
    return Camera(256, 512, focal=330, center=256, horizon=118, above=1.5, x=0, curve=0)


def _widths(mask: np.ndarray) -> np.ndarray:
    """Pixels per row, of the rows that have any."""
    rows = mask.sum(axis=1)
    return rows[rows > 0]


@pytest.mark.parametrize("z", [6, 15, 25, 45])
def test_poles_are_never_thinner_than_promised(z):
    town = streets._city(streets.SEED, "train", "larkspur")
    canvas = Canvas(_camera())
    post(canvas, town, 0.0, z, 3.0)
    assert _widths(canvas.layers()[1] == POLE).min() >= MIN_PX
    for lamp in ("arm", "double", "lantern"):
        canvas = Canvas(_camera())
        lamp_post(canvas, dataclasses.replace(town, lamp=lamp), 0.0, z)
        assert _widths(canvas.layers()[1] == POLE).min() >= MIN_PX, lamp


@pytest.mark.parametrize("seed", range(12))
def test_signs_and_lights_are_never_smaller_than_promised(seed):
    town, far = streets._city(streets.SEED, "train", "larkspur"), 45.0
    canvas = Canvas(_camera())
    sign_post(canvas, town, rng(seed), 0.0, far)
    sign = canvas.layers()[1] == SIGN
    assert _widths(sign).max() >= MIN_PX and _widths(sign.T).max() >= MIN_PX
    canvas = Canvas(_camera())
    traffic_light(canvas, town, rng(seed), 0.0, far, arm=True, state=seed % 3)
    assert _widths(canvas.layers()[1] == LIGHT).min() >= MIN_PX


def test_thin_things_in_whole_frames(labels_by_split):
    """Most runs of pole pixels have the full width; thinner ones are half hidden or cut by the border."""
    pole, runs = CITYSCAPES.class_names.index("pole"), []
    for target in labels_by_split["val"]:
        padded = np.pad((target == pole).astype(np.int8), ((0, 0), (1, 1)))
        step = np.diff(padded, axis=1)
        runs.append(np.nonzero(step == -1)[1] - np.nonzero(step == 1)[1])
    runs = np.concatenate(runs)
    assert (runs >= MIN_PX).mean() > 0.75


def test_every_sign_face_is_drawn_inside_its_outline():
    town = streets._city(streets.SEED, "train", "larkspur")
    for face in FACES:
        canvas = Canvas(_camera())
        canvas.background(np.full((256, 512, 3), 7, np.uint8))
        face(canvas, town, rng(), 200.0, 100.0, 20.0, 10.0)
        picture, label, _, _ = canvas.layers()
        painted = (np.abs(picture - 7) > 1).any(axis=2)
        assert painted.any() and not (painted & (label != SIGN) & ~_near(label == SIGN)).any()


def _near(mask: np.ndarray) -> np.ndarray:
    """The mask and its eight neighbours."""
    return np.max([np.roll(mask, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], axis=0).astype(bool)


def test_picture_and_labels_have_the_same_edges():
    canvas = Canvas(_camera())
    canvas.background(np.zeros((256, 512, 3), np.uint8))
    for i, center in enumerate([(60.3, 50.7), (200.2, 120.9), (400.6, 200.1)]):
        canvas.poly(disc(*center, 30.5 + i, 20.25), (255, 255, 255), CAR, 10.0)
    picture, label, depth, shines = canvas.layers()
    bright, car = picture[..., 0] > 127, label == CAR
    edge = _near(car) & _near(~car)
    assert car.sum() > 5000 and not ((bright != car) & ~edge).any() and (bright != car).sum() < 0.05 * car.sum()
    assert (depth[car] == 10.0).all() and not shines[car].any() and (label[~car] == SKY).all()


@pytest.fixture
def hamlet(monkeypatch):
    """A data set of six frames."""
    monkeypatch.setattr(
        streets, "CITIES", {"train": streets.CITIES["train"][:4], "val": ["ashmere"], "test": ["vellmar"]}
    )
    monkeypatch.setattr(streets, "FRAMES", {"train": 1, "val": 1, "test": 1})
    streets._city.cache_clear()
    yield
    streets._city.cache_clear()


def _files(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*.*")}


def test_ensure_draws_what_the_cityscapes_loader_reads(hamlet, tmp_path, capsys):
    one, two = streets.ensure(tmp_path / "one", processes=1), streets.ensure(tmp_path / "two", processes=2)
    assert _files(one) == _files(two) and len(_files(one)) == 2 * 6 + 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".one.lock", ".two.lock", "one", "two"]  # no temporary folder
    records, _ = cityscapes(one, "train", "labelIds")
    assert len(records) == 4
    with Image.open(one / "gtFine/val/ashmere/ashmere_000000_000019_gtFine_labelIds.png") as image:
        assert image.mode == "L" and image.size == (512, 256)
        written = np.array(image)
    assert np.array_equal(written, streets.draw_frame(streets.SEED, "val", "ashmere", 0)[1])
    capsys.readouterr()
    before = (one / streets._MARK).stat().st_mtime_ns
    assert streets.ensure(one) == one and (one / streets._MARK).stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""  # there already: nothing is drawn, nothing is said


def test_a_draw_that_fails_leaves_nothing_and_the_next_one_succeeds(hamlet, tmp_path, monkeypatch):
    root, draw, drawn = tmp_path / "city", streets._draw_file, []

    def fail_on_third(job):
        drawn.append(job)
        if len(drawn) == 3:
            raise RuntimeError("killed")
        draw(job)

    monkeypatch.setattr(streets, "_draw_file", fail_on_third)
    with pytest.raises(RuntimeError):
        streets.ensure(root, processes=1)
    assert not root.exists() and [p.name for p in tmp_path.iterdir()] == [".city.lock"]
    (tmp_path / ".city-left").mkdir()  # what kill -9 leaves behind
    monkeypatch.setattr(streets, "_draw_file", draw)
    assert (streets.ensure(root, processes=1) / streets._MARK).is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".city.lock", "city"]


def test_two_processes_at_once_draw_one_city(hamlet, tmp_path, capfd):
    root = tmp_path / "city"
    # Children inherit the small CITIES only by forking; where there is no fork they would draw the whole set.
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=streets.ensure, args=(root, 1)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert capfd.readouterr().err.count("drawn in") == 1 and len(_files(root)) == 13


def test_default_root_is_in_the_cache_and_named_by_version(hamlet, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = streets.ensure(processes=1)
    assert root == tmp_path / "segmentation-streets" / f"v{streets.VERSION}-256x512"


def test_a_folder_with_something_else_is_refused(hamlet, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no drawn city") as error:
        streets.ensure(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    old = tmp_path / "old"
    old.mkdir()
    (old / streets._MARK).write_text("streets v0 256x512\n")
    with pytest.raises(UserError, match="streets v0 256x512.*delete it"):
        streets.ensure(old)
    with pytest.raises(UserError, match="cannot draw the streets"):
        streets.ensure(tmp_path / "notes.txt" / "city")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_sheet_shows_pictures_over_their_labels():
    page = np.array(sheet((("val", 0, 0), ("val", 1, 0)), columns=2, width=128))
    assert page.shape == (2 * 64 + 18, 2 * 134 + 6, 3)
    colours = {tuple(c) for c in page[6 + 64 + 2 : 6 + 128, 6 : 6 + 128].reshape(-1, 3)}
    palette = {tuple(c) for c in CITYSCAPES.palette} | {(0, 0, 0)}
    assert len(colours & palette) > 6 and colours <= palette
