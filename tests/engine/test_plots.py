"""Plots: each is drawn, and no text is cut off or overlaps. Pages of samples: rows, colours, legend."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from engine.report import fold_plots, picture_pages, probability_plots, score_plots, training_plots
from tests import fake_run as fake
from tools.study import plots as study_plots

LONG = [f"class with a long name {k}" for k in range(34)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, with their final layout."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig

    def keep(self, *args, **kwargs):
        save(self, *args, **kwargs)
        saved.append(self)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def texts(fig) -> list:
    from matplotlib.text import Text

    renderer = fig.canvas.get_renderer()
    found = [t for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible()]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in found]


def assert_nothing_cut(fig) -> None:
    width, height = fig.canvas.get_width_height()
    for text, box in texts(fig):
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside or not shown(fig, box, text), f"{text!r} is cut off: {box}"


def shown(fig, box, text) -> bool:
    """Whether a text is drawn; tick labels beyond the axes' limits exist and are not."""
    for ax in fig.axes:
        for axis, low, high in ((ax.xaxis, *ax.get_xlim()), (ax.yaxis, *ax.get_ylim())):
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if tick.label1.get_text() == text and not min(low, high) <= tick.get_loc() <= max(low, high):
                    return False
    return True


def assert_disjoint(boxes) -> None:
    for i, (text, a) in enumerate(boxes):
        for other, b in boxes[i + 1 :]:
            over = min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5
            assert not over, f"{text!r} lies on {other!r}"


def labels_of(ax, axis: str) -> list:
    renderer = ax.figure.canvas.get_renderer()
    return [
        (t.get_text(), t.get_window_extent(renderer)) for t in getattr(ax, f"get_{axis}ticklabels")() if t.get_text()
    ]


def is_picture(path) -> bool:
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("L")))) > 20


NOTE = (
    "a-rather-long-run-name: deeplabv3plus_resnet101 | cityscapes val, 500 images, network input 512x1024, scored at "
)
NOTE += "the labels' own size, test-time scales 0.75, 1, 1.25, mirrored image averaged in, absent classes count 0"


def test_training_plots(tmp_path, drawn):
    logs = [fake.log_rows(12, "start", 0), *(fake.log_rows(8, f, s, 1, every=3) for s in (0, 1) for f in range(10))]
    rows = [row for log in logs for row in log]
    for log in (rows, fake.log_rows(1, None, None), fake.log_rows(20, None, None)):
        for function in (training_plots.curves, training_plots.learning_rate):
            assert is_picture(function(log, tmp_path / "x" / "a.png", NOTE))
            assert_nothing_cut(drawn[-1])


def test_timeline_puts_stages_after_each_other():
    rows = [*fake.log_rows(5, "start", 0), *fake.log_rows(4, 0, 0), *fake.log_rows(3, 1, 0), *fake.log_rows(2, 0, 1)]
    series, phases = training_plots.timeline(rows)
    assert phases == [("start", 0.5), ("stage 0", 5.5), ("stage 1", 9.5)]
    assert [x for x, _ in series[-1, "start"]] == [1, 2, 3, 4, 5]
    assert [x for x, _ in series[0, 1]] == [6, 7, 8] and [x for x, _ in series[1, 0]] == [10, 11]
    series, phases = training_plots.timeline(fake.log_rows(3, None, None))
    assert list(series) == [(None, None)] and len(phases) == 1


def test_the_curve_drawn_is_the_log(tmp_path, drawn):
    rows = fake.log_rows(6, None, None, every=2)
    training_plots.curves(rows, tmp_path / "c.png")
    (_, _), (_, right) = np.asarray(drawn[-1].axes[:4]).reshape(2, 2)
    lines = [line for line in right.get_lines() if len(line.get_xdata()) == 3]
    assert list(lines[0].get_xdata()) == [2, 4, 6]  # epochs without validation are left out, not drawn as zero
    assert np.allclose(lines[0].get_ydata(), [100 * rows[k]["val_miou"] for k in (1, 3, 5)])


@pytest.mark.parametrize("count", [2, 5, 10])
def test_fold_stage_and_line_plots(tmp_path, drawn, count):
    result = fake.stage_results(0, 1, count)
    result["folds"][1]["select_miou"] = None
    fold_plots.folds(result["folds"], result["fold_mean"], result["fold_sd"], tmp_path / "f.png", NOTE)
    fold_plots.folds(result["folds"], None, None, tmp_path / "f.png", NOTE)
    fold_plots.line(result["line"], tmp_path / "l.png", NOTE)
    rows = [dict(stage=s, winner="ensemble", miou=0.5 + s / 50, select_miou=0.5, fold_mean=0.4, fold_sd=None)
            for s in range(count)]  # fmt: skip
    assert is_picture(fold_plots.stages(rows, tmp_path / "s.png", NOTE))
    for fig in drawn:
        assert_nothing_cut(fig)
    assert_disjoint(labels_of(drawn[0].axes[0], "x"))


def test_candidates_plot(tmp_path, drawn):
    result = fake.stage_results(0, 1, 5)
    rows = result["candidates"]
    assert is_picture(fold_plots.candidates(rows, tmp_path / "c.png", NOTE))
    assert_nothing_cut(drawn[-1])
    left, right = drawn[-1].axes
    reported = next(line for line in left.get_lines() if line.get_label() == "val (reported)")
    assert np.allclose(reported.get_xdata(), [100 * r["miou"] for r in rows])
    rows[1] |= {"miou": None, "miou_raw": None, "bootstrap": None}  # nothing to score must not stop a report
    assert is_picture(fold_plots.candidates(rows[:2], tmp_path / "c.png", NOTE))


def test_nothing_to_draw_is_drawn_empty(tmp_path, drawn):
    """An mIoU that is undefined in every epoch, fold and image must not stop a report."""
    row = {"epoch": 1, "lr": 0.1, "fold": None, "stage": None}
    row |= dict.fromkeys(("train_loss", "val_loss", "train_miou", "val_miou"))
    none = dict.fromkeys(("miou", "select_miou", "val_miou", "fold_mean", "fold_sd"))
    path = tmp_path / "x.png"
    for rows in ([], [row]):
        training_plots.curves(rows, path)
        training_plots.learning_rate(rows, path)
        study_plots.epoch_curves({"a": rows}, path)
    fold_plots.folds([{"fold": 0, **none}], None, None, path)
    fold_plots.stages([{"stage": s, "winner": "best", **none} for s in (0, 1)], path)
    fold_plots.line({"folds": [0, 1], "t": [0, 1], "miou": [None, None]}, path)
    fold_plots.candidates([{"name": "best", **none}], path)
    score_plots.frequency_iou({"a": 0.0}, {"a": None}, [(1, 2, 3)], path)
    probability_plots.roc({"a": None}, {"a": None}, [(1, 2, 3)], path)
    assert len(drawn) == 12
    for fig in drawn:
        assert_nothing_cut(fig)


@pytest.mark.parametrize("names", [["pet", "background"], fake.NAMES, LONG])
def test_class_plots(tmp_path, drawn, names):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (len(names), 3)).tolist()
    scores = {c: {n: float(v) for n, v in zip(names, rng.random(len(names)))} for c in ("top3", "best", "mean")}
    scores["top3"][names[0]] = None
    matrix = rng.integers(0, 1000, (len(names), len(names))) ** 2 // 1000
    matrix[0] = 0
    for k in (1, 3):
        score_plots.class_iou(names, palette, dict(list(scores.items())[:k]), tmp_path / "i.png", NOTE)
        assert_nothing_cut(drawn[-1])
        order = [t for t, _ in labels_of(drawn[-1].axes[0], "y")]
        assert order == sorted(
            names, key=lambda n: -1 if scores["top3"][n] is None else scores["top3"][n], reverse=True
        )
        assert_disjoint(labels_of(drawn[-1].axes[0], "y"))
    assert is_picture(score_plots.confusion(matrix.tolist(), names, tmp_path / "m.png", NOTE))
    assert_nothing_cut(drawn[-1])
    assert_disjoint(labels_of(drawn[-1].axes[0], "y"))
    cells = drawn[-1].axes[0].images[0].get_array()
    assert np.allclose(cells[1:].sum(1), 100) and np.isnan(np.ma.filled(cells[0], np.nan)).all()


def test_names_in_the_frequency_plot_do_not_overlap(tmp_path, drawn):
    frequency, iou = {}, {}
    for k, name in enumerate(fake.NAMES):  # crowded on purpose
        frequency[name], iou[name] = 0.01 * (1 + k % 4 / 10), 0.6 + k / 150
    frequency["train"], iou["bus"] = 0.0, None  # cannot be placed on a log axis; has no IoU
    score_plots.frequency_iou(frequency, iou, fake.PALETTE, tmp_path / "f.png", NOTE)
    assert_nothing_cut(drawn[-1])
    names = [(t, box) for t, box in texts(drawn[-1]) if t in fake.NAMES]
    assert len(names) == len(fake.NAMES) - 2
    assert_disjoint(names)


def sample(hw=(20, 30)):
    rng = np.random.default_rng(0)
    target = rng.integers(0, 19, hw).astype(np.uint8)
    target[:5] = 255
    return rng.integers(0, 256, (*hw, 3), dtype=np.uint8), target, target.copy()


def test_error_map_marks_wrong_and_ignored_pixels():
    image, target, pred = sample()
    pred[10, 10] = (pred[10, 10] + 1) % 19
    pred[0, 0] = 3  # ignored: neither right nor wrong
    out = picture_pages.error_map(image, target, pred)
    assert tuple(out[10, 10]) == picture_pages.WRONG and (out[:5] == 0).all()
    wrong = (out == picture_pages.WRONG).all(2)
    assert wrong.sum() == 1 and (out[5:][~wrong[5:]] >= 128).all()


def test_samples_page_holds_every_row_and_the_legend(tmp_path):
    rows = [sample(), sample((40, 30)), sample()]
    rows[1][2][20:] = 0
    path = picture_pages.samples_page(*map(list, zip(*rows)), fake.PALETTE, fake.NAMES, tmp_path / "p" / "samples.png")
    page = np.asarray(Image.open(path))
    width = (page.shape[1] - 5 * picture_pages.GAP) // 4
    assert page.shape[0] > width * (20 / 30) * 2 + width * 40 / 30  # three rows, each in its own proportions
    first = page[
        picture_pages.TITLE : picture_pages.TITLE + 3, 2 * picture_pages.GAP + width : 2 * picture_pages.GAP + 2 * width
    ]
    assert (first == 0).all()  # the target's ignored pixels are black
    legend = page[-3 * picture_pages.LINE :].reshape(-1, 3)
    for colour in fake.PALETTE:
        assert (legend == colour).all(1).any(), colour
    with pytest.raises(ValueError, match="sizes differ"):
        picture_pages.samples_page(
            [rows[0][0]], [rows[1][1]], [rows[0][2]], fake.PALETTE, fake.NAMES, tmp_path / "x.png"
        )
    with pytest.raises(ValueError, match="got 1 images, 0 targets"):
        picture_pages.samples_page([rows[0][0]], [], [], fake.PALETTE, fake.NAMES, tmp_path / "x.png")


def test_many_long_class_names_fit_on_the_page(tmp_path):
    image, target, pred = sample()
    palette = np.random.default_rng(0).integers(0, 256, (34, 3))
    path = picture_pages.samples_page([image], [target], [pred], palette, LONG, tmp_path / "s.png")
    page = np.asarray(Image.open(path))
    assert (page[:, -4:] == 255).all()  # nothing runs into the margin


@pytest.mark.parametrize("networks, classes", [(1, fake.NAMES[:1]), (13, fake.NAMES)])
def test_probabilities_of_several_networks(tmp_path, networks, classes):
    """From one panel to more than a row is wide, with a class that has no curve and a last row that is not full."""
    found = {f"network {k}": fake.extra_scores(0.6, k) for k in range(networks)}
    matrices = {name: fake.confusion(0.6, k) for k, name in enumerate(found)}
    for path in (
        study_plots.roc_panels(found, classes, tmp_path / "roc.png"),
        study_plots.confusion_panels(matrices, fake.NAMES, tmp_path / "confusion.png"),
    ):
        assert Image.open(path).size[0] > 700
    assert Image.open(tmp_path / "roc.png").size[1] > (1000 if len(classes) > 1 else 300)
