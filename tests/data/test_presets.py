"""Steps and presets of systems B and E: magnitudes, chances, borders. System D's are in test_transforms."""

from __future__ import annotations

import colorsys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from data.augment import colour, geometry
from data.augment.draws import sample_rng
from data.augment.geometry import affine, elastic, flip, scaled_crop, zoom
from data.augment.presets import AUGMENTS
from data.augment.transforms import apply, build_transform, denormalise
from engine.config.keys import DataConfig
from tests.helpers import config, make_folder, refuses

PAINT = torch.tensor([[200, 30, 30], [30, 190, 60], [40, 60, 220], [230, 220, 40]], dtype=torch.uint8)
ANY = torch.zeros(1, 1)  # a target for steps that leave it alone


def painted(height: int = 60, width: int = 90) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """A mask of four large regions, and the picture that has one colour for each of them."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, width // 2 :] += 1
    mask[height // 2 :] += 2
    return tv_tensors.Image(PAINT[mask.long()].permute(2, 0, 1).contiguous()), tv_tensors.Mask(mask)


def inside(mask: torch.Tensor, reach: int) -> torch.Tensor:
    """Labelled pixels all of whose neighbours within `reach` have the same label: no interpolation mixes colours."""
    x = mask.as_subclass(torch.Tensor).float()[None]
    size = 2 * reach + 1
    top = torch.nn.functional.max_pool2d(x, size, 1, reach)[0]
    low = -torch.nn.functional.max_pool2d(-x, size, 1, reach)[0]
    return (top == low) & (mask != 255)


def repaint_error(image: torch.Tensor, mask: torch.Tensor, reach: int = 2) -> int:
    """Largest difference between the image and the mask painted again, away from the regions' borders."""
    keep = inside(mask, reach)
    keep[[0, -1]] = False  # at the frame's edge the void that took part in the interpolation may lie outside it
    keep[:, [0, -1]] = False
    assert keep.float().mean() > 0.2
    again = PAINT[mask.clamp(max=3).long()].permute(2, 0, 1)
    return (image.int() - again.int()).abs().amax(0)[keep].max().item()


@pytest.mark.parametrize("step", [
    flip,
    partial(zoom, scale=(0.6, 1.8)),
    partial(affine, shift=0.1, scale=0.1, degrees=20),
    partial(elastic, sigma=(3.0, 7.0), alpha=(10.0, 30.0)),
    partial(scaled_crop, scale=0.5, size=(40, 40)),
    partial(scaled_crop, scale=1.0, size=(40, 40)),
    partial(scaled_crop, scale=1.75, size=(40, 40)),
    partial(apply, AUGMENTS["road"].before),
])  # fmt: skip
def test_image_and_mask_keep_each_other_through_geometry(step):
    for seed in range(12):
        with sample_rng(seed):
            image, mask = step(*painted())
        assert image.shape[1:] == mask.shape and image.dtype == mask.dtype == torch.uint8
        assert repaint_error(image, mask) <= 1
        assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 255}


def test_turned_masks_have_no_road_in_the_corners():
    """System B's defect: 0, the fill of the library, is road. Here nothing but class 3 and void comes out."""
    image = tv_tensors.Image(torch.full((3, 60, 90), 77, dtype=torch.uint8))
    mask = tv_tensors.Mask(torch.full((60, 90), 3, dtype=torch.uint8))
    corners = 0
    for seed in range(20):
        with sample_rng(seed):
            x, y = affine(image, mask, shift=0.1, scale=0.1, degrees=20)
        assert set(y.unique().tolist()) <= {3, 255}
        outside = y == 255
        border = geometry.PAD_COLOUR[0]
        deep = inside(outside.to(torch.uint8), 2) & outside
        assert (x[0][deep] == border).all()
        corners += outside[[0, 0, -1, -1], [0, -1, 0, -1]].sum().item()
    assert corners > 20


def centre(mask: torch.Tensor) -> np.ndarray:
    return (mask == 1).nonzero().double().mean(0).numpy()  # (row, column)


def test_magnitudes_of_the_affine_step():
    mask = torch.zeros(100, 200, dtype=torch.uint8)
    mask[40:60, 60:140] = 1  # a bar through the middle
    image, mask = tv_tensors.Image(mask.repeat(3, 1, 1) * 200), tv_tensors.Mask(mask)
    moved, areas, angles = [], [], []
    for seed in range(150):
        with sample_rng(seed):
            moved.append(centre(affine(image, mask, shift=0.1, scale=0, degrees=0)[1]) - centre(mask))
            areas.append((affine(image, mask, shift=0, scale=0.1, degrees=0)[1] == 1).sum().item() / 1600)
            bar = (affine(image, mask, shift=0, scale=0, degrees=20)[1] == 1).nonzero().double().numpy()
        angles.append(np.rad2deg(np.arctan(np.polyfit(bar[:, 1], bar[:, 0], 1)[0])))
    low, high = np.min(moved, 0), np.max(moved, 0)
    assert np.allclose(high, [10, 20], atol=1.6) and np.allclose(low, [-10, -20], atol=1.6)
    assert min(areas) == pytest.approx(0.81, abs=0.04) and max(areas) == pytest.approx(1.21, abs=0.04)
    assert 15 < max(angles) < 20.5 and -20.5 < min(angles) < -15


def test_crop_tries_again_while_one_class_fills_it(monkeypatch):
    image, mask = painted(64, 256)
    mask[:, :200] = 2
    mask[::2, 200:] = 1
    shares = {most: [] for most in (1.0, 0.75)}
    for most, seen in shares.items():
        for seed in range(60):
            with sample_rng(seed):
                seen.append(geometry.largest_share(scaled_crop(image, mask, 1.0, (64, 64), most)[1]))
    assert np.mean(np.array(shares[1.0]) > 0.75) > 0.5  # left alone, most windows show one class
    assert np.mean(np.array(shares[0.75]) > 0.75) < 0.1
    drawn = []
    monkeypatch.setattr(geometry, "below", lambda n: drawn.append(n) or 0)
    scaled_crop(image, tv_tensors.Mask(torch.full_like(mask, 2)), 1.0, (64, 64), 0.75)
    assert len(drawn) == 2 * 11  # a first window and 10 more, then it goes on with what it has


def test_share_of_the_commonest_class_counts_labelled_pixels():
    mask = torch.tensor([[255, 255, 255, 1], [2, 2, 2, 255]], dtype=torch.uint8)
    assert geometry.largest_share(mask) == pytest.approx(0.75)
    assert geometry.largest_share(torch.full((4, 4), 255, dtype=torch.uint8)) == 1


def test_system_e_sees_windows_of_one_size_padded_with_void():
    transform = build_transform("kitti_transfer", (60, 200), crop=(64, 64))
    image, mask = painted(60, 200)
    seen = {}
    for seed in range(300):
        with sample_rng(seed):
            x, y = transform(image, mask)
        assert x.shape == (3, 64, 64) and y.shape == (64, 64) and set(y.unique().tolist()) <= {0, 1, 2, 3, 255}
        rows = int((y != 255).any(1).sum())
        assert (y[rows:] == 255).all() and (y[:rows] != 255).any(1).all()  # padded at the bottom
        assert (x[:, rows:].abs() < 0.02).all()  # the mean colour, undistorted: about zero once normalised
        seen[rows] = seen.get(rows, 0) + 1
    # scales .5, .75, 1: of 60 rows 30, 45, 60 are left; from 1.25 on the window is full
    assert set(seen) == {30, 45, 60, 64}
    assert all(30 < seen[rows] < 70 for rows in (30, 45, 60)) and 110 < seen[64] < 190


def test_crop_is_for_training_alone(tmp_path):
    from data import build_dataset

    cfg = config("folder", make_folder(tmp_path), size=(80, 96), augment="none", crop=(64, 72))
    train, val = build_dataset(cfg, "train", True), build_dataset(cfg, "val", False)
    assert train[0][0].shape == (3, 64, 72) and val[0][0].shape == (3, 80, 96)
    assert train.subset([0], augment="standard")[0][1].shape == (64, 72)  # a stage with another preset
    assert train.plain()[0][1].shape == (80, 96)  # how training images are scored
    first = train[(1, 0)][1]
    assert any(not torch.equal(first, train[(e, 0)][1]) for e in range(2, 6))  # another window in another epoch


# --- colour -----------------------------------------------------------------------------------------------------------


def random_colours(n: int = 400) -> torch.Tensor:
    """(3, n, 1) uint8, with greys, black, white and pure colours among them."""
    x = torch.randint(0, 256, (3, n, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[:, :20] = torch.arange(0, 200, 10, dtype=torch.uint8)[None, :, None]
    special = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255], [1, 1, 2]], dtype=torch.uint8)
    x[:, 20:25, 0] = special.T
    return x


def by_colorsys(image: torch.Tensor, change) -> np.ndarray:
    """(n, 3): `change(h, s, v)`, all in 0..1, applied pixel by pixel by Python's own conversions."""
    pixels = image[:, :, 0].T.numpy() / 255
    return np.array([colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in pixels]) * 255


def assert_same_colours(image: torch.Tensor, expected: np.ndarray, tolerance: float = 1.01) -> None:
    assert np.abs(image[:, :, 0].T.numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_saturation_is_that_of_hsv(factor):
    image = random_colours()
    expected = by_colorsys(image, lambda h, s, v: (h, min(1, s * factor), v))
    assert_same_colours(colour.scale_saturation(image, factor), expected)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.07, 0.4])
def test_hue_is_that_of_hsv(turns):
    image = random_colours()
    assert_same_colours(colour.turn_hue(image, turns), by_colorsys(image, lambda h, s, v: ((h + turns) % 1, s, v)))


@pytest.mark.parametrize("hue, saturation, value", [(0, 0.12, 0), (0, -0.12, 0.1), (0, 0, -0.2), (0.1, 0.2, 0.1)])
def test_hsv_shifts(monkeypatch, hue, saturation, value):
    image = random_colours()
    draws = iter([hue, saturation, value])
    monkeypatch.setattr(colour, "uniform", lambda low, high: next(draws))
    out, _ = colour.hue_saturation(image, ANY, 1, 1, 1)

    def change(h, s, v):
        return (h + hue) % 1, np.clip(s + saturation, 0, 1) if s > 0 else 0, np.clip(v + value, 0, 1)

    expected = by_colorsys(image, change)
    assert_same_colours(out, expected)


def test_brightness_contrast(monkeypatch):
    ramp = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[:, :, None]
    seen = []
    for seed in range(200):
        with sample_rng(seed):
            out = colour.brightness_contrast(ramp, ANY, 0.2, 0.2)[0][0, :, 0].double()
        free = (out > 5) & (out < 250)
        seen.append(np.polyfit(np.arange(256)[free], out[free], 1))
    slope, offset = np.array(seen).T
    assert 0.79 < slope.min() < 0.83 and 1.17 < slope.max() < 1.21
    assert -52 < offset.min() < -45 and 45 < offset.max() < 52


def test_photometric_distortion_does_each_part_half_the_time(monkeypatch):
    """Which parts ran, in which order, and with what magnitude, over many draws."""
    log: list[list] = []
    monkeypatch.setattr(colour, "by_table", lambda x, t: log[-1].append(("table", t[0], t[255] - t[0])) or x)
    monkeypatch.setattr(colour, "scale_saturation", lambda x, f: log[-1].append(("saturation", f)) or x)
    monkeypatch.setattr(colour, "turn_hue", lambda x, f: log[-1].append(("hue", f)) or x)
    for seed in range(800):
        log.append([])
        with sample_rng(seed):
            colour.photometric(ANY, ANY)
    parts = [[("brightness" if c[2] == 255 else "contrast") if c[0] == "table" else c[0] for c in run] for run in log]
    for name in ("brightness", "contrast", "saturation", "hue"):
        assert 0.44 < np.mean([name in run for run in parts]) < 0.56
    both = [run for run in parts if "contrast" in run and "hue" in run]
    assert 0.4 < np.mean([run.index("contrast") < run.index("hue") for run in both]) < 0.6
    order = {"brightness": 0, "saturation": 1, "hue": 2}
    assert all([order[n] for n in run if n in order] == sorted(order[n] for n in run if n in order) for run in parts)
    shifts = [c[1] for run in log for c in run if c[0] == "table" and c[2] == 255]
    gains = [c[2] / 255 for run in log for c in run if c[0] == "table" and c[2] != 255]
    factors, turns = ([c[1] for run in log for c in run if c[0] == k] for k in ("saturation", "hue"))
    for values, low, high in ((shifts, -32, 32), (gains, 0.5, 1.5), (factors, 0.5, 1.5), (turns, -0.1, 0.1)):
        assert low <= min(values) < low + 0.05 * (high - low) and high - 0.05 * (high - low) < max(values) <= high


def test_motion_blur_is_a_mean_along_a_line():
    for length in (3, 5, 7):
        for angle in np.linspace(0, np.pi, 9):
            kernel = colour.line_kernel(length, angle)
            assert kernel.sum().item() == pytest.approx(1) and kernel[length // 2, length // 2] > 0
            assert 0.7 * (length - 1) <= (kernel > 0).sum() <= 2 * length
    assert torch.equal(colour.line_kernel(5, 0.0)[2], torch.full((5,), 0.2))
    spike = torch.zeros(3, 15, 15, dtype=torch.uint8)
    spike[:, 7, 7] = 210
    with sample_rng(0):
        out, _ = colour.motion_blur(spike, ANY, lengths=(7,))
    assert 4 < (out[0] > 0).sum() <= 14 and abs(out[0].sum().item() - 210) < 10


def test_one_of_several_has_equal_chances():
    seen = []
    steps = tuple(partial(lambda k, x, y: seen.append(k) or (x, y), k) for k in range(3))
    with sample_rng(0):
        for _ in range(600):
            colour.one_of(ANY, ANY, steps)
    assert all(160 < seen.count(k) < 240 for k in range(3))


def test_chances_of_system_b():
    rows = [*AUGMENTS["road"].before, *AUGMENTS["road"].after]
    chances = {getattr(step, "func", step).__name__: p for p, step in rows}
    assert chances == {
        "flip": 0.5, "affine": 0.4, "brightness_contrast": 0.3, "jitter": 0.3, "hue_saturation": 0.3, "one_of": 0.2
    }  # fmt: skip
    counts = dict.fromkeys(chances, 0)

    def counted(name, x, y):
        counts[name] += 1
        return x, y

    spied = [(p, partial(counted, getattr(step, "func", step).__name__)) for p, step in rows]
    with sample_rng(0):
        for _ in range(2000):
            apply(spied, ANY, ANY)
    assert all(abs(counts[name] / 2000 - p) < 0.04 for name, p in chances.items())


def test_mean_change_of_a_real_looking_picture_stays_sensible():
    """No preset turns pictures black, white or grey: contrast is left in every sample."""
    image = painted(64, 96)[0]
    mask = tv_tensors.Mask(torch.zeros(64, 96, dtype=torch.uint8))
    for name in AUGMENTS:
        transform = build_transform(name, (64, 96))
        for seed in range(30):
            with sample_rng(seed):
                x, y = transform(image, mask)
            kept = denormalise(x).float()[:, y != 255]
            assert 40 < kept.mean() < 230 and kept.std() > 15


def test_the_page_on_augmentation_names_every_preset_and_key():
    page = (Path(__file__).parents[2] / "docs/augmentation.md").read_text()
    assert all(f"`{name}`" in page for name in AUGMENTS)
    keys = [
        f for f in DataConfig.__dataclass_fields__ if f.startswith(("augment", "crop", "copy_", "paste", "sampling"))
    ]
    assert len(keys) == 8 and all(f"data.{key}" in page for key in keys)


def test_crop_must_be_sensible():
    from engine.config import check

    cfg = config("streets", None, size=(128, 256), crop=(32, 64))
    with refuses("data.crop must be at least 64x64"):
        check(cfg)
