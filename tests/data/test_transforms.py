from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from common.errors import UserError
from common.imagenet import MEAN
from data.augment import colour, geometry
from data.augment.draws import sample_rng
from data.augment.presets import AUGMENTS
from data.augment.transforms import build_transform, denormalise

SIZE = (64, 96)


def marked(colour: int = 250) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Dark picture with a bright block off-centre; the mask is 1 under the block and 0 elsewhere."""
    image, mask = torch.full((3, *SIZE), 10, dtype=torch.uint8), torch.zeros(SIZE, dtype=torch.uint8)
    image[:, 12:36, 20:52] = colour
    mask[12:36, 20:52] = 1
    return tv_tensors.Image(image), tv_tensors.Mask(mask)


def overlap(image: torch.Tensor, mask: torch.Tensor) -> float:
    """IoU of the bright pixels with the mask's class 1."""
    bright, inside = image.float().mean(0) > 130, mask == 1
    return ((bright & inside).sum() / (bright | inside).sum()).item()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (1.15, 1.2), (0.5, 0.6)])
@pytest.mark.parametrize("seed", range(4))
def test_zoom_moves_image_and_mask_together(scale, seed):
    with sample_rng(seed):
        image, mask = geometry.zoom(*marked(), scale=scale)
    assert image.shape == (3, *SIZE) and mask.shape == SIZE
    assert image.dtype == mask.dtype == torch.uint8
    assert overlap(image, mask) > 0.9
    area = (mask == 1).sum().item() / (24 * 32)
    assert 0.8 * scale[0] ** 2 < area < 1.2 * scale[1] ** 2  # it did zoom


def test_flip_and_elastic_move_image_and_mask_together():
    image, mask = geometry.flip(*marked())
    assert overlap(image, mask) == 1 and mask[12:36, 44:76].all() and mask.sum() == 24 * 32
    with sample_rng(1):
        image, mask = geometry.elastic(*marked(), sigma=(3, 3), alpha=(60, 60))
    assert overlap(image, mask) > 0.9
    assert len({tuple(row.tolist()) for row in mask[14:34]}) > 3  # the sides are wavy ...
    assert len({tuple(column.tolist()) for column in mask.T[22:50]}) > 3  # ... and so are top and bottom
    assert set(mask.unique().tolist()) == {0, 1}


def test_padding_is_ignored_and_never_class_0():
    with sample_rng(0):
        image, mask = geometry.zoom(*marked(), scale=(0.5, 0.5))
    outside = (image == torch.tensor(geometry.PAD_COLOUR).view(3, 1, 1)).all(0)
    assert torch.equal(outside, mask == 255)
    assert outside.float().mean().item() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_levels_keep_labels_and_types(augment):
    transform = build_transform(augment, SIZE)
    image, mask = marked()
    mask[:4] = 255
    for seed in range(40):
        with sample_rng(seed):
            x, y = transform(image, mask)
        assert x.dtype == torch.float32 and x.shape == (3, *SIZE) and type(x) is torch.Tensor
        assert y.dtype == torch.int64 and y.shape == SIZE and type(y) is torch.Tensor
        assert set(y.unique().tolist()) <= {0, 1, 255}  # nearest: no invented label
        assert torch.isfinite(x).all() and x.min() > -2.2 and x.max() < 2.7
    assert torch.equal(image, marked()[0])  # nothing works in place on the (cached) input


@pytest.mark.parametrize("augment", ["standard", "advanced"])
def test_mask_follows_image_through_a_whole_level(augment):
    """Colour steps may dim the block but never move it: its centre in image and mask stays the same to 2 px."""
    transform = build_transform(augment, SIZE)
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]).float(), torch.arange(SIZE[1]).float(), indexing="ij")
    flipped = 0
    for seed in range(60):
        with sample_rng(seed):
            x, y = transform(*marked())
        grey = denormalise(x).float().mean(0)
        bright = grey > (grey.max() + grey.min()) / 2
        for axis in (rows, columns):
            assert abs(axis[bright].mean() - axis[y == 1].mean()) < 2
        flipped += (columns[y == 1].mean() > 48).item()
    assert 18 < flipped < 42  # p = 0.5


def test_chances_and_magnitudes_of_system_d():
    """The whole list of its augmentation levels, as its report and code give them."""
    rows = [(p, getattr(s, "func", s).__name__, getattr(s, "keywords", {})) for p, s in AUGMENTS["advanced"].before]
    standard = [
        (0.5, "flip", {}),
        (0.5, "zoom", {"scale": (1.0, 1.2), "random_window": 0.4}),
        (0.5, "jitter", {"amount": 0.2}),
        (0.25, "gamma", {"exponent": (0.7, 1.3)}),
        (0.3, "blur", {"radius": (0.1, 1.0)}),
    ]
    assert rows[:5] == standard
    assert sorted(rows[5:], key=str) == sorted([
        (0.1, "swap_channels", {}),
        (0.1, "grey", {}),
        (0.15, "blur", {"radius": (0.1, 1.0)}),
        (0.1, "sharpen", {"factor": (1.0, 2.0)}),
        (0.1, "balance", {"gain": (0.8, 1.2)}),
        (0.15, "jitter", {"amount": 0.3, "hue": 0.1}),
        (0.1, "noise", {"sigma": (5 / 255, 5 / 255)}),
        (0.1, "elastic", {"sigma": (3.0, 7.0), "alpha": (10.0, 30.0)}),
        (0.05, "self_mixup", {"keep": (0.6, 0.8)}),
    ], key=str)  # fmt: skip
    assert AUGMENTS["standard"].before == AUGMENTS["advanced"].before[:5]


def test_padding_is_the_mean_colour():
    assert geometry.PAD_COLOUR == [round(255 * m) for m in MEAN]


def test_none_only_resizes():
    image, mask = marked()
    x, y = build_transform("none", SIZE)(image, mask)
    assert torch.equal(denormalise(x), image) and torch.equal(y, mask.long())
    x, y = build_transform("none", (32, 48))(image, mask)
    assert x.shape == (3, 32, 48) and overlap(denormalise(x), y) > 0.95
    x, y = build_transform("none", (32, 48), native_target=True)(image, mask)
    assert x.shape == (3, 32, 48) and y.shape == SIZE


def test_resized_mask_takes_the_centre_of_each_cell():
    """As the image's own resampling does; taking each cell's corner would shift the mask by half a cell."""
    columns = torch.arange(64, dtype=torch.uint8).expand(64, 64).contiguous()
    image, mask = geometry.resize_pair(columns.expand(3, 64, 64).contiguous(), columns, (16, 16))
    assert mask[0].tolist() == list(range(2, 64, 4))
    assert (image[0, 8, 1:-1].int() - mask[8, 1:-1].int()).abs().max() <= 1


def test_colour_steps_compute_what_they_say():
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16).contiguous()
    mask = torch.zeros(16, 16)
    v = np.arange(256)
    out, _ = colour.gamma(image, mask, exponent=(0.5, 0.5))
    assert np.array_equal(out[1].flatten().numpy(), np.rint(255 * (v / 255) ** 0.5))
    out, _ = colour.balance(image, mask, gain=(0.8, 0.8))
    assert np.array_equal(out[2].flatten().numpy(), np.rint(v * 0.8))
    out, _ = colour.jitter(image, mask, amount=0.0)
    assert (out.int() - image.int()).abs().max() <= 1
    with sample_rng(3):
        out, _ = colour.noise(torch.full((3, 64, 64), 128, dtype=torch.uint8), mask, sigma=(5 / 255, 5 / 255))
    assert out.float().std().item() == pytest.approx(5, rel=0.05) and abs(out.float().mean().item() - 128) < 0.2
    out, _ = colour.grey(marked()[0] // torch.tensor([1, 2, 3]).view(3, 1, 1), mask)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])


def test_blur_is_a_gaussian():
    spike = torch.zeros(1, 41, 41)
    spike[0, 20, 20] = 1
    out = colour.gaussian(spike, 2.0)[0]
    d = torch.arange(41) - 20.0
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    assert (out.sum(0) * d**2).sum().item() == pytest.approx(4.0, rel=0.05)  # variance sigma**2, cut at 3 sigma
    assert torch.allclose(out, out.T, atol=1e-7)
    assert torch.allclose(colour.gaussian(torch.full((2, 5, 6), 7.0), 9.0), torch.tensor(7.0))


def test_randomness_is_torch_alone(monkeypatch):
    """The same torch seed gives the same picture, independent of the state of `random` and numpy."""
    transform = build_transform("advanced", SIZE)
    for seed in range(20):
        results = []
        for other in (1, 2):
            np.random.seed(other)
            with sample_rng(seed):
                results.append(transform(*marked()))
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_unknown_level_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'standard'"):
        build_transform("standart", SIZE)
