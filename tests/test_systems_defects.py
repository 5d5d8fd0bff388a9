"""Mistakes of systems B and D outside their losses (tests/losses/test_losses_defects.py), and the page with all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from data import build_dataset
from data.augment.transforms import build_transform
from engine.config import load_config
from engine.config.keys import ScheduleConfig
from engine.metrics import ConfusionMatrix
from engine.training.schedules import factor
from models import build_model
from tests.data.test_public_data import draw, frames

ROOT = Path(__file__).parent.parent
ROAD = sorted((ROOT / "configs/b_road/full").glob("*.yaml"))


# --- B ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ROAD, ids=lambda p: p.stem)
def test_b_chose_the_checkpoint_on_the_test_images(path, tmp_path):
    """The layout has the test images as val; our configs draw val from the training images instead."""
    draw(tmp_path / "training/image", tmp_path / "training/label", frames(150), (0, 2))
    draw(tmp_path / "testing/image", tmp_path / "testing/label", frames(50), (0, 2))
    cfg = load_config(path, [f"data.root={tmp_path}", "model.pretrained=null"])

    def files(split: str) -> set[Path]:
        return {record.image for record in build_dataset(cfg, split, False).records}

    assert len(files("val")) == 20 and len(files("test")) == 50
    assert not files("val") & files("test") and not files("val") & files("train")
    cfg.data.sample = []  # the original's way
    assert files("val") == files("test")


def test_b_resized_by_nearest_in_training_and_linear_in_testing():
    image = torch.randint(0, 256, (3, 90, 130), dtype=torch.uint8)
    target = torch.randint(0, 3, (90, 130), dtype=torch.uint8)
    training = build_transform("none", (64, 64), crop=None)(image, target)
    testing = build_transform("none", (64, 64), native_target=True)(image, target)
    assert torch.equal(training[0], testing[0])
    crude = F.interpolate(image[None].float(), (64, 64), mode="nearest")
    smooth = F.interpolate(image[None].float(), (64, 64), mode="bilinear", antialias=True)
    assert (crude - smooth).abs().mean() > 20  # what the original trained on, and what it tested on


@pytest.mark.parametrize("size", [(75, 109), (96, 109), (75, 128), (65, 67)])
def test_b_odd_heights_come_out_one_row_taller(size):
    """Skips restore every size except that of the first ceil-mode pool, which is doubled, so odd sides grow by one."""
    network = build_model("better_seg_network", 3).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, *size))["out"].shape[-2:] == size
    pooled = F.max_pool2d(torch.zeros(1, 1, *size), 2, ceil_mode=True)
    doubled = F.interpolate(pooled, scale_factor=2).shape[-2:]
    assert doubled == tuple(side + side % 2 for side in size) and doubled != size


# --- D ----------------------------------------------------------------------------------------------------------------


def test_d_classes_with_iou_0_raised_the_mean():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 1, 2, 2]]]))  # (prediction, target)
    iou = confusion.iou()
    assert iou.tolist() == [1.0, pytest.approx(1 / 3), 0.0]  # class 2 is present but never found
    assert iou[iou > 0].mean().item() == pytest.approx(2 / 3)  # the original's mean
    assert confusion.miou("nan") == pytest.approx(4 / 9)


def test_d_one_cycle_never_left_its_warm_up():
    epochs, per_epoch = 20, 50
    iters = epochs * per_epoch
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=iters, pct_start=0.3)
    original = []
    for _ in range(epochs):  # the original steps once per epoch in a cycle that counts iterations
        original.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert max(original) < 0.06
    s = ScheduleConfig(name="one_cycle", percent_up=0.3)
    ours = [factor(s, i, iters, per_epoch) for i in range(iters)]
    assert max(ours) == pytest.approx(1.0) and ours[-1] < 0.01


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_a_test_for_every_defect():
    page = (ROOT / "docs" / "differences.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) >= 20
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").rglob("test_*.py"))
    missing = sorted(name for name in named if f"def {name}(" not in tests)
    assert not missing
    for heading in "ABDE":
        assert re.search(rf"^\| {heading} \|", page, re.M), f"no defect of system {heading} is listed"
