"""tools.show_batch: the picture and the table are of the very samples that a run trains on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from common import command
from data.augment.transforms import denormalise
from engine.config import Config, dump, load_config
from engine.folds.cross_validation import fold_job
from engine.folds.roles import open_study
from engine.report.picture_pages import IGNORED_IN_BATCH, batch_page
from engine.training.job import build_parts
from engine.training.single_run import train_single
from tests.helpers import config, make_folder, write_mask
from tools import show_batch


def write_config(tmp_path, **data) -> tuple[str, Config]:
    cfg = config("folder", make_folder(tmp_path / "set", n=8), size=(64, 64), **data)
    cfg.model.name, cfg.model.options, cfg.train.batch_size, cfg.train.epochs = "unet", {"base_channels": 2}, 4, 1
    (tmp_path / "c.yaml").write_text(dump(cfg))
    return str(tmp_path / "c.yaml"), cfg


def run(*argv: str) -> int:
    return command.run(show_batch.main, show_batch.build_parser(), list(argv))


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_it_shows_what_a_run_trains_on(tmp_path, monkeypatch):
    path, cfg = write_config(tmp_path, augment="advanced", copy_paste=0.5)
    seen = []
    monkeypatch.setattr(
        "engine.training.train.train_one_epoch", lambda m, bar, *a, **k: seen.extend(bar) or {"loss": 0.0}
    )
    (tmp_path / "run").mkdir()
    train_single(load_config(path), tmp_path / "run", torch.device("cpu"))
    shown = list(show_batch.samples(show_batch.first_job(load_config(path)), 6, 0))
    assert same([torch.cat([x for x, _ in seen])[:6]], [torch.stack([x for _, x, _ in shown])])
    assert same([torch.cat([y for _, y in seen])[:6]], [torch.stack([y for *_, y in shown])])


def test_of_a_cross_validation_it_shows_the_first_fold(tmp_path):
    path, cfg = write_config(tmp_path, augment="standard", sampling="rare_class")
    cfg.cv.folds, cfg.cv.start = 2, "none"
    (tmp_path / "c.yaml").write_text(dump(cfg))
    cfg = load_config(path)
    (tmp_path / "run").mkdir()
    job = fold_job(open_study(cfg, tmp_path / "run", torch.device("cpu")), 0, 0, None)
    loader = build_parts(job, torch.device("cpu")).loader
    loader.batch_sampler.set_epoch(2)
    images = next(iter(loader))[0]
    mine = show_batch.first_job(cfg)
    assert mine.train.names == job.train.names
    shown = list(show_batch.samples(mine, len(images), 2))
    assert same(images, [x for _, x, _ in shown])
    assert "drawn for" in show_batch.captions(["a"], [shown[0][0]], "abc")[0]


def test_command_writes_a_page_and_prints_values(tmp_path, capsys):
    path, cfg = write_config(tmp_path)
    for label in (tmp_path / "set/labels/train").iterdir():
        write_mask(label, np.repeat([[7, 7, 9, 255]], 4, 0).repeat(10, 0).repeat(15, 1))
    (tmp_path / "set/classes.yaml").write_text("names: [a, b, c]\nids: {7: a, 9: c}\n")
    assert run(path, "--images", "3", "--out", str(tmp_path / "out/page.png")) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0", "a", "7", "50.00", "50.00"] in rows and ["2", "c", "9", "25.00", "25.00"] in rows
    assert ["1", "b", "-", "0.00", "0.00"] in rows and ["255", "ignored", "255", "25.00", "25.00"] in rows
    page = np.asarray(Image.open(tmp_path / "out/page.png").convert("RGB"))
    assert page.shape[0] > 3 * 320 and page.shape[1] == 3 * 320 + 4 * 8
    assert run(path, "--images", "0") == 2 and "--images: expected at least 1" in capsys.readouterr().err
    assert run(path, "--set", "data.augment=raod") == 2 and "did you mean 'road'" in capsys.readouterr().err


def test_colour_masks_list_their_colours(tmp_path, capsys):
    path, _ = write_config(tmp_path)
    (tmp_path / "set/classes.yaml").write_text("names: [a, b]\ncolours: [[0, 0, 0], [255, 0, 0]]\n")
    for label in (tmp_path / "set/labels/train").iterdir():
        write_mask(label, [(0, 0, 0), (255, 0, 0)], mode="RGB")
    assert run(path, "--out", str(tmp_path / "page.png")) == 0
    assert "(255, 0, 0)" in next(line for line in capsys.readouterr().out.splitlines() if " b " in line)


def test_page_paints_image_mask_and_both(tmp_path):
    image = np.full((320, 320, 3), 100, np.uint8)
    target = np.zeros((320, 320), np.int64)
    target[:, 160:] = 255
    path = batch_page([image], [target], ["one"], [(200, 0, 0)], ["a"], tmp_path / "p.png")
    page = np.asarray(Image.open(path)).astype(int)
    middle, (x1, x2, x3) = 26 + 160, (8, 8 + 328, 8 + 2 * 328)
    assert page[middle, x1 + 80].tolist() == [100, 100, 100]
    assert page[middle, x2 + 80].tolist() == [200, 0, 0]
    assert page[middle, x2 + 240].tolist() == list(IGNORED_IN_BATCH)
    assert np.abs(page[middle, x3 + 80] - [150, 50, 50]).max() <= 1


@pytest.mark.parametrize("augment", ["road", "kitti_transfer"])
def test_real_photographs_keep_their_labels(seg_data, augment):
    """CamVid through the presets: no label that was not there, and void comes only from outside the picture."""
    cfg = config("camvid", seg_data / "camvid", size=(360, 480), augment=augment, crop=(320, 320))
    job = show_batch.first_job(cfg)
    for key, x, y in show_batch.samples(job, 6, 0):
        raw = set(np.unique(job.train.load(key[1])[1].numpy()).tolist())
        assert x.shape == (3, 320, 320) and set(y.unique().tolist()) <= raw | {255}
        assert denormalise(x).float().std() > 10
