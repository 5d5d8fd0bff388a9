"""Receptive fields by hand: small networks, ResNet, holes of dilation, padding, resizing, pooling, windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common import command
from engine.analysis.receptive_field import extent, theoretical
from engine.analysis.stage_maps import effective, share_within, stage_maps, stages_of
from models import build_model
from tests.helpers import write_image
from tests.models.test_models import FAMILIES
from tests.tools.test_export_command import write_checkpoint
from tools import receptive_field as tool


class Net(nn.Module):
    """Parts in a row; each is a stage."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.stages:
            x = part(x)
        return {"out": x}


def conv(kernel, stride=1, dilation=1):
    return nn.Conv2d(3, 3, kernel, stride, dilation * (kernel // 2), dilation)


def sizes(model, size=(256, 256)) -> list[int]:
    return [extent(rows)[1] for rows, _ in theoretical(model, size).values()][:-1]


@pytest.mark.parametrize(
    "net, expected",
    [
        (Net(conv(3), conv(3), conv(3)), [3, 5, 7]),  # 1 + 2 a layer
        (Net(conv(7, 2), nn.MaxPool2d(3, 2, 1), conv(3)), [7, 11, 19]),  # ResNet's start: 7, + 2 * 2, + 2 * 4
        (Net(conv(3), conv(3, dilation=2), conv(3, dilation=4)), [3, 7, 15]),  # 1 + 2 (1 + 2 + 4)
        (Net(conv(3, 2), conv(1), conv(5, 2)), [3, 3, 11]),  # 3 + 4 * 2
        (Net(nn.AvgPool2d(4), nn.AvgPool2d(2, 2)), [4, 8]),
        (Net(nn.Conv2d(3, 3, 2, 2), nn.ConvTranspose2d(3, 3, 2, 2)), [2, 2]),  # one cell of two, back where it was
        (Net(nn.Conv2d(3, 3, 4, 4), nn.Upsample(scale_factor=4, mode="nearest")), [4, 4]),
    ],
)  # fmt: skip
def test_by_hand(net, expected):
    assert sizes(net) == expected


def test_resnet_by_hand():
    """The recurrence of Araujo et al.: r += (kernel - 1) * stride so far, over the 3x3 of every block."""

    def recurrence(blocks, convs):
        r, jump, found = 1 + 6 + 2 * 2, 4, []
        for stage, n in enumerate(blocks):
            for block in range(n):
                for i in range(convs):
                    r += 2 * jump
                    jump *= 2 if stage and block == 0 and i == 0 else 1
            found.append(r)
        return found

    for name, blocks, convs in [("resnet18", (2, 2, 2, 2), 2), ("resnet50", (3, 4, 6, 3), 1)]:
        found = theoretical(build_model("fcn", 3, encoder=name, fcn_channels=8), (512, 512))
        expected = recurrence(blocks, convs)
        for axis in (0, 1):
            assert [extent(found[f"stage {i}"][axis])[1] for i in (1, 2, 3, 4)] == expected
    assert expected == [35, 91, 267, 427]


def test_where_the_field_lies():
    rows, columns = theoretical(Net(conv(3, 2), conv(3)), (64, 96))["stages 2"]
    assert extent(rows) == (2 * 16 - 3, 7) and extent(columns) == (2 * 24 - 3, 7)  # around unit (16, 24)


def test_holes_of_dilation_are_not_read():
    rows, _ = theoretical(Net(conv(3, dilation=8)), (64, 64))["stages 1"]
    assert np.flatnonzero(rows).tolist() == [24, 32, 40]


def test_padding_is_not_read():
    rows, _ = theoretical(Net(conv(3, dilation=40)), (64, 64))["stages 1"]
    assert np.flatnonzero(rows).tolist() == [32]  # -8 and 72 are padding
    rows, _ = theoretical(Net(nn.AvgPool2d(16), nn.ConvTranspose2d(3, 3, 4, 2, 1)), (64, 64))["stages 2"]
    assert extent(rows) == (16, 32)  # row 4 of 8 gets cells 1 and 2 of 4


def test_pooled_branches_see_the_whole_image():
    for name in ("deeplabv3_resnet18", "pspnet_resnet18"):
        found = theoretical(build_model(name, 3), (512, 512))
        assert all(mask.all() for mask in found["out"]) and not found["stage 4"][0].all()


@pytest.mark.parametrize(
    "size, align_corners, cells",
    [
        (32, False, [7, 8]),  # (16 + .5) / 2 - .5 = 7.75
        (31, True, [7]),  # 15 * 15 / 30 = 7.5: between 7 and 8
        (17, True, [7]),  # 8 * 15 / 16 = 7.5
        (46, True, [7]),  # 23 * 15 / 45 = 7.67
    ],
)
def test_bilinear_reads_neighbours_with_a_weight(size, align_corners, cells):
    """Cells of 4 rows, resized; the centre row reads the cells around its place."""
    resize = nn.Upsample(size=(size, size), mode="bilinear", align_corners=align_corners)
    rows, _ = theoretical(Net(nn.AvgPool2d(4), resize), (64, 64))["stages 2"]
    place = size // 2 * 15 / (size - 1) if align_corners else (size // 2 + 0.5) * 16 / size - 0.5
    expected = sorted({int(np.floor(place)), int(np.ceil(place))})
    assert np.flatnonzero(rows).tolist() == [4 * c + i for c in expected for i in range(4)] and expected[0] == cells[0]


def test_max_pooling_reads_its_whole_window():
    rows, _ = theoretical(Net(nn.MaxPool2d(3, 2, 1)), (64, 64))["stages 1"]
    assert np.flatnonzero(rows).tolist() == [31, 32, 33]  # cell 16 of 32: 2 * 16 - 1 and two more


def test_windows_of_swin():
    """Patches of 4 pixels, windows of 7 patches; the second block's windows lie 3 patches further down and right."""
    model = build_model("segformer_swin_t", 3, decoder_dim=8)
    rows, columns = theoretical(model, (224, 336))["stage 1"]
    # 56 rows of patches: the shifted window of patch 28 holds 24..30, which lie in the windows 21..27 and 28..34
    assert extent(rows) == (4 * 21, 4 * 14)
    # 84 columns: the shifted window of patch 42 holds 38..44, which lie in the windows 35..41 and 42..48
    assert extent(columns) == (4 * 35, 4 * 14)


def test_mix_transformer_sees_everything_from_the_first_stage():
    found = theoretical(build_model("segformer_b0", 3, decoder_dim=16), (128, 192))
    assert all(mask.all() for masks in found.values() for mask in masks)


# --- effective --------------------------------------------------------------------------------------------------------


def test_effective_field_of_a_known_filter():
    """One 3x3 convolution: the gradient is the kernel, so the field is its root mean square over channels."""
    torch.manual_seed(0)
    net = Net(nn.Conv2d(3, 1, 3, padding=1))
    field = effective([net], [torch.zeros(1, 3, 16, 16)])["stages 1"]
    kernel = net.stages[0].weight[0].detach().square().sum(0).sqrt().numpy()
    assert np.allclose(field[7:10, 7:10], kernel / kernel.max(), atol=1e-6)
    field[7:10, 7:10] = 0
    assert not field.any()


def test_effective_field_thins_out_inside_the_theoretical_one():
    """Luo et al.: a stack of n 3x3 convolutions of random weights reaches 2 n + 1 pixels, mostly within far fewer."""
    models = [Net(*[conv(3) for _ in range(20)]) for _ in range(6)]
    field = effective(models, [torch.randn(1, 3, 64, 64) for _ in models])["stages 20"]
    assert share_within(field, 1.0, (32, 32)) == 41
    assert share_within(field, 0.5, (32, 32)) < 18
    assert field.max() == 1


def test_share_within_squares():
    field = np.zeros((9, 9))
    field[4, 4], field[4, 6] = 3, 1
    assert share_within(field, 0.75, (4, 4)) == 1 and share_within(field, 0.76, (4, 4)) == 5


def test_layer_norm_does_not_hide_the_gradient():
    model = build_model("segformer_b0", 3, decoder_dim=16)
    fields = effective([model], [torch.randn(1, 3, 64, 96)])
    assert all(np.isfinite(f).all() and f.max() == 1 for f in fields.values())
    assert (fields["stage 1"] > 0).mean() > 0.9  # all pixels, through the keys


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_named_stages(name):
    model = build_model(name, 3, **FAMILIES[name])
    with torch.no_grad():
        maps = stage_maps(model.eval(), torch.randn(1, 3, 64, 96))
    assert list(maps)[-1] == "out" and len(maps) >= 3
    assert [n for n, _, _ in stages_of(model)] == list(maps)[:-1]
    if name in ("unet", "segformer_b0", "pspnet_resnet18"):
        assert list(theoretical(model, (64, 96))) == list(maps)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_canvas(monkeypatch):
    monkeypatch.setattr(tool, "CANVAS", 512)  # larger than the fields of the networks below, and faster


def call(*words) -> int:
    return command.run(tool.main, tool.build_parser(), [str(w) for w in words])


def test_command_by_name(tmp_path, capsys):
    out = tmp_path / "field.png"
    assert call("unet", "--set", "base_channels=4", "--size", 64, 96, "--images", 2, "--out", out) == 0
    said = capsys.readouterr().out
    assert "down 4" in said and "140 x 140" in said and out.stat().st_size > 1000
    state = out.read_bytes()
    assert call("unet", "--set", "base_channels=4", "--size", 64, 96, "--images", 2, "--out", out) == 0
    assert out.read_bytes() == state  # seeded


def test_command_with_weights_of_a_file_and_an_image(tmp_path, capsys):
    path, image = write_checkpoint(tmp_path / "best.pt"), write_image(tmp_path / "photo.png", (50, 70))
    assert call("--checkpoint", path, "--image", image, "--out", tmp_path / "field.png") == 0
    assert "weights of best.pt, 1 image of 64 x 96" in capsys.readouterr().out


def test_command_refuses(tmp_path, capsys):
    assert call() == 2 and call("unet", "--run", tmp_path) == 2
    assert call("unett") == 2
    assert "did you mean 'unet'" in capsys.readouterr().err
    assert call("unet", "--size", 32, 32) == 2 and call("unet", "--out", tmp_path) == 2
