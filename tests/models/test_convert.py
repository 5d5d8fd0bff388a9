"""Our networks as files of other projects: their code loads them strictly and gives the same logits."""

from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
import transformers

from common import command
from engine import checkpoint as ckpt
from engine.config import config_from, to_dict
from models import build_model, load_public
from models.checkpoints.container import read
from models.checkpoints.convert import convert
from models.checkpoints.layouts import LAYOUTS
from tests.helpers import refuses
from tests.model_helpers import assert_close, perturb_norms
from tools import convert as convert_command


def ours(name: str, classes: int = 5, **options):
    torch.manual_seed(0)
    model = build_model(name, classes, **options)
    perturb_norms(model)
    return model.eval()


def write_run(path, name: str, classes: int = 5, **options):
    """A checkpoint as train.py writes it."""
    model = ours(name, classes, **options)
    checkpoint = {
        "model": ckpt.cpu_state(model),
        "config": to_dict(config_from({"model": {"name": name, **{k: str(v) for k, v in options.items()}}})),
        "class_names": [f"thing {i}" for i in range(classes)],
        "palette": [[i, i, i] for i in range(classes)],
    }
    ckpt.save(checkpoint, path)
    return model


def call(*words: object) -> int:
    return command.run(convert_command.main, convert_command.build_parser(), [str(w) for w in words])


SPELLINGS = ("Hugging Face SegFormer, names of", "system D DeepLabV3+, dropout")  # of layouts written in another one
BY_KEYS = [layout for layout in LAYOUTS if not layout.hint]  # the others are told by a file's name
WHOLE = [layout for layout in BY_KEYS if not layout.encoder and not layout.title.startswith(SPELLINGS)]


@pytest.mark.parametrize("layout", WHOLE, ids=[layout.title for layout in WHOLE])
def test_every_publishers_file_comes_back_by_itself(layout):
    """ours -> theirs -> load_public: the same network, recognised from its keys."""
    name = layout.names[0]
    model = ours(name, form=layout.form)
    found = convert(model.state_dict(), name, {"form": layout.form}, layout.form)
    again, report = load_public(found.state)
    assert found.layout.form == report.options["form"] == layout.form and report.architecture == name
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


# --- their code loads it --------------------------------------------------------------------------------------------

SMP = {
    "segformer_b0": lambda: smp.Segformer("mit_b0", encoder_weights=None, classes=5),
    "unet_resnet18": lambda: smp.Unet("resnet18", encoder_weights=None, classes=5),
    "deeplabv3_resnet18": lambda: smp.DeepLabV3("resnet18", encoder_weights=None, classes=5),
    "deeplabv3plus_resnet18": lambda: smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=5),
    "pspnet_resnet18": lambda: smp.PSPNet("resnet18", encoder_weights=None, classes=5),
    "segformer_efficientnet_b0": lambda: smp.Segformer("efficientnet-b0", encoder_weights=None, classes=5),
}


@pytest.mark.parametrize("name", SMP)
def test_smp_loads_it_strictly(tmp_path, name):
    model = write_run(tmp_path / "best.pt", name, form="smp")
    assert call(tmp_path / "best.pt", "--to", "smp", "--out", tmp_path / "a.pth") == 0
    peer = SMP[name]().eval()
    peer.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True))  # strict
    x = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        assert_close(model.double()(x)["out"], peer.double()(x), 1e-9)


def test_transformers_loads_the_folder(tmp_path):
    model = write_run(tmp_path / "best.pt", "segformer_b0", form="huggingface")
    assert call(tmp_path / "best.pt", "--to", "hf", "--out", tmp_path / "hub") == 0
    peer, said = transformers.SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "hub", output_loading_info=True
    )
    assert not said["missing_keys"] and not said["unexpected_keys"]
    assert peer.config.id2label[3] == "thing 3" and peer.config.decoder_hidden_size == 256
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs = torch.nn.functional.interpolate(peer.eval()(x).logits, (64, 96), mode="bilinear", align_corners=False)
        assert_close(model(x)["out"], theirs, 5e-5)
    again, report = load_public(tmp_path / "hub")
    assert report.architecture == "segformer_b0" and torch.equal(again(x)["out"], model(x)["out"])


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_torchvision_loads_it_strictly(tmp_path, name):
    model = write_run(tmp_path / "best.pt", name, aux=True, form="torchvision")
    assert call(tmp_path / "best.pt", "--to", "torchvision", "--out", tmp_path / "a.safetensors") == 0
    peer = getattr(torchvision.models.segmentation, name)(weights=None, weights_backbone=None, num_classes=5).eval()
    peer.load_state_dict(read(tmp_path / "a.safetensors").state)
    x = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        assert_close(model.double()(x)["out"], peer.double()(x)["out"], 1e-9)


def test_an_encoder_goes_to_timm(tmp_path, capsys):
    model = write_run(tmp_path / "best.pt", "fcn", encoder="resnet18")
    assert call(tmp_path / "best.pt", "--to", "timm", "--out", tmp_path / "a.pth") == 0
    assert "the encoder alone" in capsys.readouterr().out
    peer = timm.create_model("resnet18", pretrained=False, features_only=True, out_indices=(4,)).eval()
    peer.load_state_dict(torch.load(tmp_path / "a.pth", weights_only=True))
    x = torch.randn(1, 3, 64, 64).double()
    with torch.no_grad():
        assert_close(model.double().encoder(x)[-1], peer.double()(x)[0], 1e-9)


# --- containers, refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form, name, wrapper, beside",
    [
        ("mmseg", "segformer_b0", "state_dict", "thing 3"),
        ("nvlabs", "segformer_b0", "state_dict", "thing 3"),
        ("vainf", "deeplabv3plus_resnet18", "model_state", "best_score"),
        ("hszhao", "pspnet_resnet50", "state_dict", "epoch"),
        ("milesial_bilinear", "unet", "", "mask_values"),
    ],
)
def test_publishers_containers(tmp_path, form, name, wrapper, beside):
    model = write_run(tmp_path / "best.pt", name, form=form)
    assert call(tmp_path / "best.pt", "--to", form, "--out", tmp_path / "a.pth") == 0
    found = read(tmp_path / "a.pth")
    assert found.wrapper == wrapper and beside in str(found.meta)
    again, report = load_public(tmp_path / "a.pth")
    assert report.options["form"] == form
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again(x)["out"], model(x)["out"])


def test_a_pair_by_its_parts_is_the_pair_by_its_name():
    model = ours("all_mlp", encoder="mit_b0")
    found = convert(model.state_dict(), "all_mlp", {"encoder": "mit_b0"}, "nvlabs")
    assert found.name == "segformer_b0" and load_public(found.state)[1].architecture == "segformer_b0"


def test_other_functions_are_refused_unless_one_insists(tmp_path, capsys):
    write_run(tmp_path / "best.pt", "segformer_b0")
    words = [tmp_path / "best.pt", "--to", "hf", "--out", tmp_path / "a.pth"]
    assert call(*words) == 2 and not (tmp_path / "a.pth").exists()
    err = capsys.readouterr().err
    assert "norm_eps 1e-06 (there 1e-05)" in err and "--accept-differences" in err and err.count("\n") == 1
    assert call(*words, "--accept-differences") == 0
    assert "differs there: norm_eps" in capsys.readouterr().out
    assert load_public(tmp_path / "a.pth")[1].options["form"] == "huggingface"


def test_what_they_do_not_have_is_refused(tmp_path):
    state = ours("segformer_b0").state_dict()
    with refuses("other parameters: .*head linear .there conv"):
        convert(state, "segformer_b0", {}, "mmseg", accept_differences=True)
    with refuses("milesial has no segformer_b0 here; .*huggingface.*nvlabs"):
        convert(state, "segformer_b0", {}, "milesial")
    with refuses("unknown publisher 'nvlab': did you mean 'nvlabs'"):
        convert(state, "segformer_b0", {}, "nvlab")
    deep = ours("fcn", encoder="resnet18", stem_form="v1c")
    with refuses("other parameters: stem_form v1c .there conv7x7"):
        convert(deep.state_dict(), "fcn", {"encoder": "resnet18", "stem_form": "v1c"}, "timm")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    write_run(tmp_path / "best.pt", "segformer_b0")
    for words, message in (
        (["--to", "nvlabs", "--out", tmp_path / "a.zip"], "give a name in .pth"),
        (["--to", "nvlabs", "--out", tmp_path / "folder"], "as a folder"),
    ):
        assert call(tmp_path / "best.pt", *words) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert not (tmp_path / "folder").exists()
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    assert call(tmp_path / "x.pt", "--to", "nvlabs", "--out", tmp_path / "a.pth") == 2
    assert "not written by this project" in capsys.readouterr().err
    checkpoint = ckpt.load(tmp_path / "best.pt")
    ckpt.save({**checkpoint, "ensemble": [checkpoint["model"]] * 2}, tmp_path / "ensemble.pt")
    assert call(tmp_path / "ensemble.pt", "--to", "nvlabs", "--out", tmp_path / "a.pth") == 2
    assert "ensemble of 2" in capsys.readouterr().err
