"""A public file's score beside its publisher's: whose file it is, what differs, and that the table says where from."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import eval as eval_command
from engine.config import load_config
from engine.evaluation.published import differing
from engine.evaluation.views import Views, predict_scores
from models import build_model, load_public
from models.checkpoints import known, published
from models.checkpoints.convert import convert
from models.checkpoints.known import KNOWN
from models.checkpoints.published import PUBLISHED, whose
from tests.helpers import make_cityscapes, refuses
from tools.pretrained import layout_of

CONFIG = Path(__file__).parents[2] / "configs" / "cityscapes" / "published.yaml"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """SegFormer-B0 with random weights, as NVIDIA's authors would publish it."""
    torch.manual_seed(0)
    model = build_model("segformer_b0", 19, form="nvlabs")
    found = convert(model.state_dict(), "segformer_b0", {"form": "nvlabs"}, "nvlabs")
    path = tmp_path_factory.mktemp("file") / "some.pth"
    torch.save({"state_dict": found.state}, path)
    return path


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return make_cityscapes(tmp_path_factory.mktemp("city"), split="val", n=1)


def score(path, city, *words) -> int:
    sets = [f"data.root={city}", "data.size=[64, 128]", "eval.window=[64, 64]", "eval.stride=[48, 48]", "device=cpu",
            "train.workers=0"]  # fmt: skip
    command = ["--checkpoint", str(path), "--config", str(CONFIG)]
    for item in sets:
        command += ["--set", item]
    return command.run(eval_command.main, eval_command.build_parser(), [*command, *map(str, words)])


def test_eval_prints_ours_beside_theirs(file, city, tmp_path, capsys):
    path = tmp_path / "segformer.b0.1024x1024.city.160k.pth"
    path.write_bytes(file.read_bytes())
    assert score(path, city, "--json", tmp_path / "s.json") == 0
    out, result = capsys.readouterr().out, json.loads((tmp_path / "s.json").read_text())
    ours = 100 * result["miou"]
    assert f"mIoU 76.2 % for nvlabs/segformer.b0.1024x1024.city.160k (told by its name alone); here {ours:.2f} %" in out
    assert f"difference {ours - 76.2:+.2f}" in out and "arXiv 2105.15203, table 1a" in out
    for line in (
        "network input: 1024x2048 there, 64x128 here",
        "sliding window: 1024x1024 there, 64x64 here",
        "stride: 768x768 there, 48x48 here",
        "images: 500 there, 2 here",
        published.LOGITS,
    ):
        assert f"differs  {line}\n" in out
    assert "--set data.size=[1024,2048] --set eval.window=[1024,1024] --set eval.stride=[768,768]" in out
    assert "absent classes:" not in out  # both leave them out
    [entry] = result["published"]["entries"]
    assert result["published"]["sure"] and entry["miou"] == pytest.approx(0.762)


def test_a_file_of_unknown_name_has_every_entry_that_fits(file, city, capsys):
    assert score(file, city) == 0
    out = capsys.readouterr().out
    assert "which file this is, is not sure, told by layout, architecture and classes alone" in out
    names = re.findall(r"published: mIoU \S+ % for (\S+);", out)
    assert names == [f"nvlabs/segformer.b0.{s}.city.160k" for s in ("1024x1024", "512x1024", "640x1280", "768x768")]


def test_a_network_nobody_published_says_so(city, tmp_path, capsys):
    model = build_model("unet", 19, form="milesial")
    found = convert(model.state_dict(), "unet", {"form": "milesial"}, "milesial")
    torch.save(found.state, tmp_path / "mine.pth")
    assert score(tmp_path / "mine.pth", city) == 0
    assert "published: no number known on cityscapes for a file of unet, 19 classes" in capsys.readouterr().out


def test_a_sha256_tells_a_file_by_any_name_and_a_name_with_another_sha256_is_not_it(tmp_path, monkeypatch):
    model = build_model("segformer_b0", 19, form="mmseg")
    found = convert(model.state_dict(), "segformer_b0", {"form": "mmseg"}, "mmseg")
    real = KNOWN["mmseg/segformer_mit-b0_8x1_1024x1024_160k_cityscapes"]
    path = tmp_path / real.path.name
    torch.save(found.state, path)
    _, report = load_public(path)
    told = whose(path, path, report)
    assert not told.sure and real.id not in told.ids and "none of the known ones'" in told.how
    prefix = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    url = real.url.replace("e7f88502", prefix)
    assert known.Known.sha256_prefix.fget(replace(real, url=url)) == prefix
    monkeypatch.setitem(KNOWN, real.id, replace(real, url=url))
    renamed = path.rename(tmp_path / "mine.pth")
    assert whose(renamed, renamed, report) == published.Whose((real.id,), f"told by its sha256, {prefix}..", True)
    assert whose(real.id, renamed, report).how == "asked for by its id"


@pytest.mark.parametrize(
    "folder", ["segformer-b0-finetuned-cityscapes-640-1280",
               "models--nvidia--segformer-b0-finetuned-cityscapes-640-1280/snapshots/a1",
               "nvidia--segformer-b0-finetuned-cityscapes-640-1280"],
)  # fmt: skip
def test_hub_files_are_told_by_their_folder(file, tmp_path, folder):
    _, report = load_public(file)
    report = replace(report, options={"form": "huggingface"})
    path = tmp_path / folder / "pytorch_model.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert whose(path, path, report).ids == ("nvidia/segformer-b0-finetuned-cityscapes-640-1280",)


def test_what_differs_is_what_differs():
    cfg = load_config(CONFIG)
    views = Views.of(cfg.eval)
    row = PUBLISHED["mmseg/segformer_mit-b0_8x1_1024x1024_160k_cityscapes"]
    ours = row.protocol() | {"data": "cityscapes"}
    assert (tuple(cfg.data.size), cfg.eval.native, cfg.eval.absent) == ((1024, 2048), True, "nan")
    assert differing(ours, views, row) == ([published.LOGITS], [])  # the config is that protocol
    cnn = PUBLISHED["mmseg/fcn_r50-d8_512x1024_40k_cityscapes"]
    lines, keys = differing(ours, views, cnn)
    assert lines == ["sliding window: none there, 1024x1024 here"] and keys == ["eval.window=[]", "eval.stride=[]"]
    whole = load_config(CONFIG, keys)  # the advice can be followed, and helps
    assert differing(ours | {"window": None, "stride": None}, Views.of(whole.eval), cnn) == ([], [])
    large = load_config(CONFIG, ["eval.window=[1024, 2048]", "eval.stride=[]"])
    assert differing(ours | {"window": [1024, 2048]}, Views.of(large.eval), cnn)[0] == []  # it covers the image
    other = differing(ours | {"absent": "zero", "flip": True, "blend": "gaussian"}, views, row)
    assert "absent classes: nan there, zero here" in other[0]
    assert other[1] == ["eval.blend=mean", "eval.flip=false", "eval.absent=nan"]


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
    with refuses("eval.stride must be"):
        load_config(CONFIG, ["eval.stride=[2000, 768]"])
    with refuses("eval.stride must be"):
        load_config(CONFIG, ["eval.window=[]"])


def test_the_table_is_of_known_files_and_says_where_from():
    assert set(PUBLISHED) <= set(KNOWN)
    for id, row in PUBLISHED.items():
        assert (
            30 < row.miou < 90
            and row.source
            and KNOWN[id].classes == {"cityscapes": 19, "ade20k": 150}.get(row.data, 21)
        )
        assert (row.window is None) == (row.stride is None)
        assert layout_of(KNOWN[id]), id  # a file of it is recognised as what the table says it is
    converted = PUBLISHED["nvidia/segformer-b3-finetuned-cityscapes-1024-1024"]
    assert converted.miou == PUBLISHED["nvlabs/segformer.b3.1024x1024.city.160k"].miou == 81.7
    assert published.SAME_WEIGHTS in converted.notes


def test_torchvisions_numbers_are_those_in_torchvision():
    from torchvision.models import segmentation

    for name, miou in published.TORCHVISION.items():
        weights = segmentation.__dict__[
            {"fcn": "FCN_ResNet", "deeplabv3": "DeepLabV3_ResNet"}[name.split("_")[0]]
            + re.search(r"resnet(\d+)", name)[1] + "_Weights"
        ].COCO_WITH_VOC_LABELS_V1  # fmt: skip
        assert name in weights.url and weights.meta["_metrics"]["COCO-val2017-VOC-labels"]["miou"] == miou
