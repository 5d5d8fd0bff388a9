"""Strips, windows and flips give the same scores as the plain computation on whole maps."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.config import load_config
from engine.evaluation.evaluate import evaluate
from engine.evaluation.score_strips import axis_weights, classes, rows, strips
from engine.evaluation.views import Views, predict_classes, predict_scores, window_starts, window_weights
from tests.helpers import refuses

CPU = torch.device("cpu")


class Pointwise(nn.Module):
    """Sees one pixel at a time: the same for a mirrored image, a window or the whole."""

    def __init__(self, num_classes: int = 4, kernel: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, num_classes, kernel, padding=kernel // 2)

    def forward(self, images):
        return {"out": 3 * self.conv(images)}


SIZES = [((7, 9), (20, 31)), ((20, 31), (7, 9)), ((16, 16), (64, 64)), ((5, 8), (5, 19)), ((6, 4), (13, 4)),
         ((1, 1), (5, 3)), ((9, 9), (1, 1)), ((180, 240), (360, 480)), ((64, 96), (1024, 70))]  # fmt: skip


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("source, size", SIZES)
def test_strips_are_the_rows_of_the_interpolation(source, size, align):
    x = torch.randn(2, 3, *source, generator=torch.Generator().manual_seed(1))
    want = F.interpolate(x, size=size, mode="bilinear", align_corners=align)
    whole = rows(x, size, 0, size[0], align_corners=align)
    torch.testing.assert_close(whole, want, rtol=1e-6, atol=2e-6)
    for strip in (1, 3, 7, size[0]):
        parts = [part for _, _, part in strips(x, size, strip, align_corners=align)]
        assert torch.equal(torch.cat(parts, 2), whole)  # bit for bit


def test_resizing_a_crop_gives_other_values():
    """The fault that the explicit weights avoid."""
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    crop = F.interpolate(x[:, :, 2:4], size=(4, 16), mode="bilinear", align_corners=False)
    right = rows(x, (16, 16), 4, 8)
    assert (crop - right).abs().max() > 0.05


def test_weights_against_float64():
    for source, size, align in ((512, 1024, False), (135, 2048, False), (135, 2048, True), (1024, 300, False)):
        low, high, weight = axis_weights(source, size, align)
        i = torch.arange(size, dtype=torch.float64)
        place = i * (source - 1) / (size - 1) if align else ((i + 0.5) * source / size - 0.5).clamp(0, source - 1)
        assert ((low + weight.double() * (high - low)) - place).abs().max() < 2e-4
        assert low.min() >= 0 and high.max() < source and 0 <= weight.min() and weight.max() <= 1


@pytest.mark.parametrize("size", [(40, 56), (90, 131), (17, 23)])
@pytest.mark.parametrize("kind", ["random", "ties", "half", "constant", "channels_last"])
def test_predictions_do_not_depend_on_the_strip_height(size, kind):
    x = torch.randn(2, 5, 40, 56, generator=torch.Generator().manual_seed(2))
    x = (x * 2).round() if kind == "ties" else x.bfloat16() if kind == "half" else x
    x = torch.zeros_like(x) if kind == "constant" else x
    x = x.contiguous(memory_format=torch.channels_last) if kind == "channels_last" else x
    plain = x.float() if size == (40, 56) else F.interpolate(x.float(), size=size, mode="bilinear", align_corners=False)
    whole = classes(x, size, size[0])
    top2 = plain.topk(2, 1).values
    clear = top2[:, 0] - top2[:, 1] > 1e-5  # where rounding cannot decide
    assert torch.equal(whole[clear], plain.argmax(1)[clear]) and (clear.any() or kind == "constant")
    if size == (40, 56):
        assert torch.equal(whole, plain.argmax(1))  # ties included: the first class wins
    for strip in (1, 2, 5, 13, 1000):
        assert torch.equal(classes(x, size, strip), whole)


@pytest.mark.parametrize("mirrored", [False, True])
def test_softmax_strips_do_not_depend_on_their_height(mirrored):
    x = 4 * torch.randn(2, 19, 33, 37, generator=torch.Generator().manual_seed(3))
    for size in ((33, 37), (70, 91)):
        whole = rows(x, size, 0, size[0], softmax=True, mirrored=mirrored)
        want = x.flip(-1).softmax(1) if mirrored else x.softmax(1)
        want = F.interpolate(want, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(whole, want, rtol=1e-5, atol=1e-6)
        for strip in (1, 4, 17):
            parts = [p for _, _, p in strips(x, size, strip, softmax=True, mirrored=mirrored)]
            assert torch.equal(torch.cat(parts, 2), whole)


@pytest.mark.parametrize("blend", ["mean", "gaussian"])
def test_a_window_as_large_as_the_image_is_the_whole_image(blend):
    model, images = Pointwise(kernel=5).eval(), torch.randn(2, 3, 70, 90)
    for window in ((70, 90), (100, 90), (512, 1024)):
        assert torch.equal(predict_scores([model], images, Views(window=window, blend=blend)), model(images)["out"])
        for more in ({"flip": True}, {"scales": (1.0, 0.95)}):
            whole, wide = (predict_scores([model], images, Views(**more, **w)) for w in ({}, {"window": window}))
            assert torch.equal(whole, wide)


@pytest.mark.parametrize("blend", ["mean", "gaussian"])
@pytest.mark.parametrize("window", [(64, 64), (70, 64), (33, 90), (500, 64)])
def test_windows_cover_every_pixel_with_weights_that_sum_to_one(blend, window):
    """A network that sees one pixel gives the same scores with any windows."""
    model, images = Pointwise().eval(), torch.randn(1, 3, 70, 130)
    got = predict_scores([model], images, Views(window=window, blend=blend))
    torch.testing.assert_close(got, model(images)["out"].softmax(1), rtol=1e-5, atol=1e-6)


def test_gaussian_windows_against_a_slow_sum():
    model, images = Pointwise(kernel=7).eval(), torch.randn(1, 3, 64, 100)
    got = predict_scores([model], images, Views(window=(64, 64), blend="gaussian"))
    total, norm = torch.zeros(1, 4, 64, 100).double(), torch.zeros(64, 100).double()
    for left in (0, 32, 36):
        y, x = torch.meshgrid(torch.arange(64.0).double(), torch.arange(64.0).double(), indexing="ij")
        g = torch.exp(-((y - 31.5) ** 2) / (2 * 8.0**2) - (x - 31.5) ** 2 / (2 * 8.0**2))
        total[..., left : left + 64] += g * model(images[..., left : left + 64])["out"].softmax(1)
        norm[:, left : left + 64] += g
    torch.testing.assert_close(got.double(), total / norm, rtol=1e-5, atol=1e-6)
    plain = predict_scores([model], images, Views(window=(64, 64)))
    assert (plain - got).abs().max() > 1e-3  # it is not the mean


def test_the_importance_map():
    g = window_weights(48, 65, "gaussian")
    assert torch.equal(g, g.flip(0)) and torch.equal(g, g.flip(1)) and g.min() > 0 and g.max() <= 1
    assert g.argmax() in (23 * 65 + 32, 24 * 65 + 32)
    assert g[24, 32 - 8] / g[24, 32] == pytest.approx(torch.exp(torch.tensor(-0.5 * (8 / (65 / 8)) ** 2)).item())
    assert window_starts(100, 64, 32) == [0, 32, 36] and window_starts(64, 64, 42) == [0]
    assert Views(window=(64, 100)).steps() == (42, 66) and Views(window=(64, 100), blend="gaussian").steps() == (32, 50)


def test_flip_of_a_symmetric_model_is_exact():
    model, images = Pointwise().eval(), torch.randn(2, 3, 64, 81)
    want = rows(model(images)["out"].detach(), (64, 81), 0, 64, softmax=True)
    assert torch.equal(predict_scores([model], images, Views(flip=True)), want)  # (p + p) / 2 is p
    lopsided = Pointwise(kernel=3).eval()
    assert not torch.allclose(predict_scores([lopsided], images, Views(flip=True)), lopsided(images)["out"].softmax(1))


@pytest.mark.parametrize("views", [Views(), Views((0.9, 1.25), True), Views(window=(64, 64), blend="gaussian")])
def test_scores_of_a_set_do_not_depend_on_batches_strips_or_order(views, monkeypatch):
    generator = torch.Generator().manual_seed(5)
    model = Pointwise(kernel=1)
    data = []
    for _ in range(5):
        target = torch.randint(4, (96, 111), generator=generator)
        target[:5] = 255
        data.append((torch.randn(3, 70, 80, generator=generator), target))

    def score(order, batch):
        samples = [data[i] for i in order]
        batches = [samples[i : i + batch] for i in range(0, len(samples), batch)]
        loader = [tuple(torch.stack(x) for x in zip(*b)) for b in batches]
        names = [str(i) for i in order]
        return evaluate(model, loader, 4, CPU, views=views, groups=names, names=names)

    want = score(range(5), 2)
    assert want.confusion.counts.sum() == 5 * 91 * 111 and len(want.per_image.names) == 5
    for order, batch, values in ((range(5), 1, 2**20), ((4, 2, 0, 1, 3), 5, 2**20), ((1, 0, 3, 2, 4), 3, 2000)):
        monkeypatch.setattr("engine.evaluation.score_strips.STRIP_VALUES", values)
        got = score(order, batch)
        assert torch.equal(got.confusion.counts, want.confusion.counts)
        for name, matrix in want.groups.items():
            assert torch.equal(got.groups[name].counts, matrix.counts)


def test_predicted_classes_at_another_size():
    model, images = Pointwise(kernel=3).eval(), torch.randn(1, 3, 64, 64)
    pred = predict_classes([model], images, Views(), (150, 99))
    want = F.interpolate(model(images)["out"], size=(150, 99), mode="bilinear", align_corners=False)
    top2 = want.topk(2, 1).values
    clear = top2[:, 0] - top2[:, 1] > 1e-5
    assert pred.shape == (1, 150, 99) and torch.equal(pred[clear], want.argmax(1)[clear])


def test_the_stride_is_where_the_windows_are():
    starts = []

    class Seen(torch.nn.Module):
        def forward(self, x):
            starts.append((int(x[0, 0, 0, 0]), int(x[0, 1, 0, 0])))
            return {"out": x[:, :2]}

    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(256.0), indexing="ij")
    images = torch.stack([y, x, x])[None]
    predict_scores([Seen()], images, Views(window=(128, 128), stride=(96, 96)))
    assert starts == [(0, 0), (0, 96), (0, 128)]  # the published 1024, 768 on 1024x2048, eight times smaller
    config = Path(__file__).parents[2] / "configs" / "cityscapes" / "published.yaml"
    for item in ("eval.stride=[2000, 768]", "eval.window=[]"):
        with refuses("eval.stride must be"):
            load_config(config, [item])
