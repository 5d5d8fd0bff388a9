"""Public files by id, URL and path, in the commands: from file:// and a local server only."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import eval as eval_command
import predict as predict_command
from common import command
from common.errors import UserError
from data import build_dataset
from data.augment.transforms import normalise
from data.labels import CITYSCAPES
from engine.config import load_config
from engine.evaluation.networks import AsPublished, open_network, open_networks
from models import ENCODERS, MODELS, build_model, load_public
from models.checkpoints import known as known_files
from models.checkpoints.convert import convert
from models.checkpoints.known import KNOWN, locate
from models.checkpoints.normalisation import HALF, IMAGENET, NONE, Normalisation, normalisation
from models.forms import FORMS
from tests.engine.test_pretrained import MIT_FILE, filled, public
from tests.helpers import make_folder, refuses, write_image
from tools import pretrained as pretrained_command


def call(module, *words: object) -> int:
    return command.run(module.main, module.build_parser(), [str(w) for w in words])


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_row_is_complete():
    assert len(KNOWN) > 100
    for row in KNOWN.values():
        assert row.architecture in (ENCODERS if row.classes is None else MODELS), row
        assert row.form in FORMS and row.licence and row.url.startswith("http"), row
        if not row.manual:
            assert row.url.startswith("https://") and " " not in row.url and row.path.suffix, row
    paths = [row.path for row in KNOWN.values()]
    assert len(set(paths)) == len(paths)  # no two files under one name


def test_hashes_come_from_the_file_names():
    prefix = {id: KNOWN[id].sha256_prefix for id in KNOWN}
    assert prefix["torchvision/resnet18-f37072fd"] == "f37072fd"
    assert prefix["mmseg/segformer_mit-b0_8x1_1024x1024_160k_cityscapes"] == "e7f88502"
    assert prefix["lukemelas/efficientnet-b3"] == "5fb5a3c3" and prefix["mateuszbuda/unet"] == "e012d006"
    assert prefix["nvidia/mit-b0"] is None and prefix["nvlabs/mit_b0"] is None
    mmseg = KNOWN["mmseg/segformer_mit-b0_8x1_1024x1024_160k_cityscapes"].url
    config = "segformer_mit-b0_8x1_1024x1024_160k_cityscapes"
    base = "https://download.openmmlab.com/mmsegmentation/v0.5/segformer"
    assert mmseg == f"{base}/{config}/{config}_20211208_101857-e7f88502.pth"


def test_lists(capsys):
    assert call(pretrained_command, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(KNOWN) + 2  # two lines of headings
    line = next(line for line in lines if line.startswith("nvidia/segformer-b0-finetuned-cityscapes-512-1024"))
    assert "segformer_b0" in line and "Hugging Face SegFormer" in line and "pytorch_model.bin" in line
    assert any("by hand: http://vmv.re/910Yk" in line for line in lines)
    assert call(pretrained_command, "--layouts") == 0
    assert "decode_head.linear_pred.weight" in capsys.readouterr().out
    assert call(pretrained_command) == 2 and call(pretrained_command, "nosuch/id") == 2


# --- fetching -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path):
    """A web server of the folder `served`, on this machine; (folder, address, list of requests)."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


def test_an_id_is_fetched_once_checked_and_read(server, hub, monkeypatch, capsys):
    folder, address, asked = server
    torch.save(public(MIT_FILE, "mit_b0"), folder / "mit.pth")
    digest = hashlib.sha256((folder / "mit.pth").read_bytes()).hexdigest()[:8]
    (folder / "mit.pth").rename(folder / f"mit-{digest}.pth")
    row = known_files._row("test/mit_b0", f"{address}/mit-{digest}.pth", "nvlabs", "mit_b0")
    monkeypatch.setitem(KNOWN, "test/mit_b0", row)
    assert row.sha256_prefix == digest
    assert call(pretrained_command, "test/mit_b0") == 0
    out = capsys.readouterr().out
    assert str(hub / f"mit-{digest}.pth") in out and "mit_b0" in out
    model, report = filled("test/mit_b0", list("abc"), "segformer_b0")
    assert report.part == "encoder" and report.source == "test/mit_b0" and len(asked) == 1
    assert load_public("test/mit_b0")[1].architecture == "mit_b0"
    wrong = replace(row, url=f"{address}/mit-00000000.pth")
    (folder / "mit-00000000.pth").write_bytes(b"x")
    monkeypatch.setitem(KNOWN, "test/mit_b0", wrong)
    with refuses("damaged or another file"):
        locate("test/mit_b0")


def test_urls_and_paths(tmp_path, server, hub):
    folder, address, _ = server
    torch.save(public(MIT_FILE, "mit_b0"), folder / "a.pth")
    for source in (folder / "a.pth", (folder / "a.pth").as_uri(), f"{address}/a.pth"):
        assert filled(source, list("abc"), "segformer_b0")[1].part == "encoder"
    with refuses("404"):
        locate(f"{address}/none.pth")


def test_offline_says_what_to_fetch_and_where_to_put_it(hub, monkeypatch):
    row = known_files._row("test/x", "http://127.0.0.1:9/x.pth", "nvlabs", "mit_b0")
    monkeypatch.setitem(KNOWN, "test/x", row)
    monkeypatch.setattr("common.download.WAIT", 0.0)
    with refuses("127.0.0.1:9/x.pth") as e:
        locate("test/x")
    assert str(hub / "x.pth") in str(e.value)
    with refuses("fetched by hand: from https://github.com/NVlabs.* to be saved as .*mit_b0.pth"):
        locate("nvlabs/mit_b0")
    hub.mkdir(parents=True, exist_ok=True)
    torch.save(public(MIT_FILE, "mit_b0"), hub / "mit_b0.pth")
    assert filled("nvlabs/mit_b0", list("abc"), "segformer_b0")[1].part == "encoder"


# --- eval.py and predict.py -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of data with 3 classes, a config, images to segment, and public files."""
    place = tmp_path_factory.mktemp("public")
    root = make_folder(place / "data", n=4)
    (place / "c.yaml").write_text(f"data: {{name: folder, root: {root}, size: [64, 96]}}\nmodel: {{name: unet}}\n")
    for i, hw in enumerate([(80, 100), (40, 130)]):
        write_image(place / "images" / f"{i}.png", hw, seed=i)
    torch.save({"state_dict": public("NVlabs SegFormer", "segformer_b0", 3)}, place / "three.pth")
    torch.save({"state_dict": public("NVlabs SegFormer", "segformer_b0", 19)}, place / "city.pth")
    torch.save(public("mateuszbuda U-Net (its sigmoid is left to the caller)", "unet", 1), place / "one.pt")
    torch.save(public(MIT_FILE, "mit_b0"), place / "encoder.pth")
    return place


def test_eval_scores_a_public_file(place, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert call(eval_command, "--checkpoint", place / "three.pth", "--config", place / "c.yaml", "--json", out) == 0
    said = capsys.readouterr().out
    assert "NVlabs SegFormer" in said and "class names" in said
    result = json.loads(out.read_text())
    model, _ = load_public(place / "three.pth")
    confusion = np.zeros((3, 3), int)
    for image, target in build_dataset(load_config(place / "c.yaml"), "val", train=False):
        with torch.no_grad():
            pred = model(image[None])["out"].argmax(1)[0]
        for t, p in zip(target.flatten().tolist(), pred.flatten().tolist()):
            confusion[t, p] += t != 255
    assert result["confusion_matrix"] == confusion.tolist() and set(result["per_class"]) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "words, message",
    [
        (["city.pth", "--config", "c.yaml"], "segformer_b0 for 19 classes, the data (folder val) has 3"),
        (["encoder.pth", "--config", "c.yaml"], "an encoder (NVlabs Mix Transformer"),
        (["three.pth"], "--config"),
        (["c.yaml", "--config", "c.yaml"], "text, not weights"),
        (["none.pth", "--config", "c.yaml"], "not found"),
    ],
)
def test_eval_refuses_with_a_reason(place, monkeypatch, capsys, words, message):
    monkeypatch.chdir(place)
    assert call(eval_command, "--checkpoint", *words) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err


def test_predict_takes_a_public_file_at_the_images_size(place, tmp_path, capsys):
    assert call(predict_command, place / "images", "--checkpoint", place / "city.pth", "--out", tmp_path) == 0
    assert "road, sidewalk" in capsys.readouterr().out
    image = np.array(Image.open(place / "images" / "0.png"))
    model, _ = load_public(place / "city.pth")
    with torch.no_grad():
        pred = model(normalise(torch.from_numpy(image).permute(2, 0, 1))[None])["out"].argmax(1)[0].numpy()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "0_ids.png")), pred)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "0_color.png")), CITYSCAPES.palette[pred])
    assert np.asarray(Image.open(tmp_path / "1_ids.png")).shape == (40, 130)  # enlarged for the network, and back
    words = ["--checkpoint", place / "three.pth", "--out", tmp_path / "b", "--set", "data.size=64 64"]
    assert call(predict_command, place / "images" / "1.png", *words) == 0
    assert np.asarray(Image.open(tmp_path / "b" / "1_ids.png")).shape == (40, 130)
    assert call(predict_command, place / "images", "--checkpoint", place / "encoder.pth", "--out", tmp_path) == 2
    assert "segments nothing" in capsys.readouterr().err


def test_one_channel_is_a_class_against_the_rest(place, tmp_path):
    network = open_networks(place / "one.pt").network
    x = torch.randn(1, 3, 64, 64)
    standard = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
    with torch.no_grad():
        logits, theirs = network(x * 3 - 1)["out"], network.model(standard)["out"]
    assert logits.shape == (1, 2, 64, 64)
    torch.testing.assert_close(logits.softmax(1)[:, 1:], theirs.sigmoid(), rtol=0, atol=1e-4)
    assert torch.equal(logits.argmax(1), (logits[:, 1] > 0).long())
    assert call(predict_command, place / "images" / "0.png", "--checkpoint", place / "one.pt", "--out", tmp_path) == 0
    assert set(np.unique(np.asarray(Image.open(tmp_path / "0_ids.png")))) <= {0, 1}


@pytest.mark.parametrize("wanted", [IMAGENET, NONE, HALF])
def test_images_reach_a_network_as_its_publisher_normalised_them(wanted):
    class Sees(nn.Module):
        def forward(self, images):
            return {"out": images}

    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None] for v in (wanted.mean, wanted.std))
    got = AsPublished(Sees(), wanted)(normalise(image)[None])["out"][0]
    torch.testing.assert_close(got, (image / 255 - mean) / std, rtol=0, atol=1e-5)


def test_a_network_that_takes_blue_first():
    class Sees(nn.Module):
        def forward(self, images):
            return {"out": images}

    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    wanted = Normalisation((0.1, 0.2, 0.3), (1.0, 2.0, 4.0), bgr=True)
    got = AsPublished(Sees(), wanted)(normalise(image)[None])["out"][0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (wanted.mean, wanted.std))
    torch.testing.assert_close(got, (image.flip(0) / 255 - mean) / std, rtol=0, atol=1e-5)


# --- settings of public files ---------------------------------------------------------------------------------------


def classes_of(opened, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return opened.network(normalise(image)[None])["out"].argmax(1)[0]


def test_a_setting_of_a_public_file_counts_in_every_command(place, tmp_path, capsys):
    options = {"form": "vainf", "output_stride": 8}
    model = build_model("deeplabv3plus_resnet18", 3, **options).eval()
    state = convert(model.state_dict(), "deeplabv3plus_resnet18", options, "vainf", accept_differences=True).state
    path = tmp_path / "v8.pth"
    torch.save({"model_state": state}, path)
    words = ["--set", "model.output_stride=8"]
    image = place / "images" / "0.png"
    assert call(predict_command, image, "--checkpoint", path, "--out", tmp_path / "a", "--write", "ids", *words) == 0
    said = capsys.readouterr().out
    assert "output_stride=8" in said and "settles" not in said
    with torch.no_grad():
        pixels = normalise(torch.from_numpy(np.array(Image.open(image))).permute(2, 0, 1))[None]
        expected = model(pixels)["out"].argmax(1)[0].numpy()
    assert (np.asarray(Image.open(tmp_path / "a" / "0_ids.png")) != expected).mean() < 0.001
    assert call(eval_command, "--checkpoint", path, "--config", place / "c.yaml", *words) == 0
    assert "output_stride=8" in capsys.readouterr().out
    args = argparse.Namespace(run=None, checkpoint=str(path), set=words[1:], device=None, weights=None)
    assert open_network(args).report.options["output_stride"] == 8  # export, look, receptive_field
    assert "settles" not in capsys.readouterr().out
    args.set = []
    assert open_network(args) and "--set model.output_stride=8" in capsys.readouterr().out
    assert call(predict_command, image, "--checkpoint", path, "--out", tmp_path / "b") == 0
    assert "--set model.output_stride=8" in capsys.readouterr().out  # the remedy that was applied above
    torch.save({"model_state": state}, tmp_path / "best_deeplabv3plus_resnet18_voc_os8.pth")
    assert open_networks(tmp_path / "best_deeplabv3plus_resnet18_voc_os8.pth").report.options["output_stride"] == 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.output_stride=8", "unknown option 'output_stride'"),
        ("model.decoder_dim=64", "does not fit"),
        ("model.align_corners=maybe", "align_corners: expected true or false"),
        ("model.dropout=0.5", "model.dropout changes nothing"),
        ("model.aux=true", "model.aux changes nothing"),
        ("model.pretrained=x.pth", "model.pretrained changes nothing"),
        ("model.threshold=0.4", "the file has 19 classes"),
        ("model.std=0", "std: expected three numbers above 0"),
        ("model.mean=1,2", "mean: expected three numbers"),
        ("optim.lr=1", "is trained; only model, data, eval, train, device keys count"),
        ("model.weights=ema", "no weights under 'ema'"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(place, setting, message):
    with pytest.raises(UserError) as e:
        open_networks(place / "city.pth", [setting])
    assert message in str(e.value) and "\n" not in str(e.value)


def test_mean_std_bgr_and_threshold_can_be_set(place, tmp_path):
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    settings = ["model.mean=0.2 0.3 0.4", "model.std=0.5", "model.bgr=true"]
    opened = open_networks(place / "city.pth", settings)
    assert "by --set" in str(opened.report) and "blue first" in str(opened.report)
    mean = torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    with torch.no_grad():
        expected = opened.inner(((image.flip(0) / 255 - mean) / 0.5)[None])["out"].argmax(1)[0]
    assert (classes_of(opened, image) != expected).float().mean() < 0.001
    one = open_networks(place / "one.pt", ["model.threshold=0.8"])
    with torch.no_grad():
        x = normalise(image)[None]
        standard = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
        sure = one.inner(standard)["out"][0, 0].sigmoid() > 0.8
    assert (classes_of(one, image) != sure.long()).float().mean() < 0.001
    assert (classes_of(one, image) != classes_of(open_networks(place / "one.pt"), image)).any()


def test_weights_of_a_file_with_several_sets(place, tmp_path, capsys):
    first, second = (public("NVlabs SegFormer", "segformer_b0", 3) for _ in range(2))
    second["decode_head.linear_pred.bias"] = second["decode_head.linear_pred.bias"] + torch.tensor([0.0, 9e9, 0.0])
    torch.save({"student": first, "teacher": second}, tmp_path / "a.pth")
    words = [place / "images" / "0.png", "--checkpoint", tmp_path / "a.pth", "--write", "ids", "--out"]
    assert call(predict_command, *words, tmp_path / "teacher") == 0
    assert "took teacher, the averaged ones" in capsys.readouterr().out
    assert call(predict_command, *words, tmp_path / "student", "--weights", "student") == 0
    found = [set(np.unique(np.asarray(Image.open(tmp_path / n / "0_ids.png")))) for n in ("teacher", "student")]
    assert found[0] == {1} != found[1]
    assert call(eval_command, *words[1:3], "--config", place / "c.yaml", "--weights", "student") == 0
    assert call(pretrained_command, tmp_path / "a.pth", "--weights", "student") == 0
    ours = build_model("unet", 2, base_channels=2).state_dict()
    torch.save({"model": ours, "config": {"model": {"name": "unet"}}, "class_names": ["a", "b"]}, tmp_path / "o.pt")
    capsys.readouterr()
    assert call(eval_command, "--checkpoint", tmp_path / "o.pt", "--weights", "ema") == 2
    assert "holds one set of weights" in capsys.readouterr().err


def test_normalisation_of_each_publisher():
    assert normalisation("milesial") == NONE and normalisation("mateuszbuda").per_image
    assert normalisation("timm_tf", "timm--tf_efficientnet_b3.ap_in1k/model.safetensors").same_as(HALF)
    assert normalisation("timm_tf", "timm--tf_efficientnet_b3.aa_in1k/model.safetensors") == IMAGENET
    assert normalisation("lukemelas", "adv-efficientnet-b3-cdd7c0f4.pth").same_as(HALF)
    assert normalisation("mmseg") == IMAGENET
    source = public("milesial U-Net, bilinear", "unet", 2)
    assert "normalised otherwise" in str(filled(source, ["a", "b"], "unet", form="milesial_bilinear")[1])


def test_our_own_checkpoint_is_recognised(tmp_path):
    state = build_model("unet", 2, base_channels=2).state_dict()
    torch.save({"model": state, "config": {"model": {"name": "unet"}}, "class_names": ["a", "b"]}, tmp_path / "a.pt")
    with refuses("a checkpoint of this project"):
        load_public(tmp_path / "a.pt")


def test_the_real_trunk_is_read_as_an_encoder(real_trunk):
    """A real file in lukemelas' names without the classifier: every tensor is used, and the maps are finite."""
    model, report = load_public(real_trunk)
    assert report.architecture == "efficientnet_b0" and report.options["form"] == "lukemelas"
    assert report.loaded == 352 and not report.ignored and not report.reinitialised
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 97, 161))
    assert [m.shape[1] for m in maps] == [24, 40, 112, 320] and all(m.isfinite().all() for m in maps)


@pytest.fixture
def real_trunk(seg_data):
    return seg_data / "weights" / "efficientnet_b0_trunk.pth"
