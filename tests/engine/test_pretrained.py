"""model.pretrained: what fits is loaded, the report lists it, and frozen weights stay as they are."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from torch import nn

import train as train_command
from common import command
from data.labels import CITYSCAPES
from engine import checkpoint as ckpt
from engine.config import config_from, load_config, to_dict
from engine.evaluation.class_lists import class_names, palette, shared_classes
from engine.evaluation.networks import build_network
from engine.folds.batchnorm import reestimate_batchnorm
from engine.folds.cross_validation import cross_validate
from engine.training import train as train_loop
from engine.training.optim import build_optimizer, set_lr
from engine.training.pretrained import transfer
from engine.training.single_run import train_single
from models import build_encoder, build_model, load_public
from models.checkpoints.identify import Identity
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.rename import to_theirs
from tests.engine.test_training import equal_runs, run_in
from tests.helpers import make_folder, refuses
from tests.model_helpers import perturb_norms

CPU = torch.device("cpu")
RESNET_FILE = "torchvision ResNet (timm and smp use the same names)"
MIT_FILE = "NVlabs Mix Transformer (or smp's, of the same names)"
STREETS = CITYSCAPES.class_names


def public(title: str, name: str, classes: int = 19, **options) -> dict[str, torch.Tensor]:
    """A file's weights: a random network in a publisher's form, under the publisher's names."""
    layout = next(layout for layout in LAYOUTS if layout.title == title)
    torch.manual_seed(1)
    if layout.encoder:
        ours = build_encoder(name, form=layout.form, **options)
    else:
        ours = build_model(name, classes, form=layout.form, **options)
    perturb_norms(ours)
    return to_theirs(ours.state_dict(), Identity(layout, name, classes, options).table)


def filled(source, classes, name: str, reuse: bool = False, **options):
    torch.manual_seed(2)
    model = build_model(name, len(classes), **options)
    return model, transfer(model, source, classes, reuse, name=name, options=options)


# --- what fits ------------------------------------------------------------------------------------------------------


def test_the_same_network_is_filled_whole():
    source = public("NVlabs SegFormer", "segformer_b0")
    model, report = filled(source, STREETS, "segformer_b0")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model.eval()(x)["out"], load_public(source)[0](x)["out"])
    assert report.part == "whole model" and report.loaded == len(model.state_dict()) and not report.initialised
    assert "loaded" in report.classes and not any("numerics" in note for note in report.notes)
    assert "segformer_b0 for 19 classes" in str(report)


def test_other_classes_get_a_new_classifier():
    source = public("NVlabs SegFormer", "segformer_b0")
    fresh = build_model("segformer_b0", 19).state_dict()
    for classes in (["a", "b", "c"], [f"class {i}" for i in range(19)]):  # 19 others are others too
        model, report = filled(source, classes, "segformer_b0")
        assert set(report.initialised) == {"head.classifier.weight", "head.classifier.bias"}
        assert report.classes.startswith("new") and "reuse_classes" in report.classes
        assert report.loaded == len(fresh) - 2
    _, report = filled(public("NVlabs SegFormer", "segformer_b0", 7), list("abcdefg"), "segformer_b0")
    assert "in number" in report.classes and not report.initialised  # 7 classes of unknown names


def test_rows_of_classes_are_copied_by_name():
    source = public("NVlabs SegFormer", "segformer_b0")
    weight, bias = (source[f"decode_head.linear_pred.{leaf}"] for leaf in ("weight", "bias"))
    classes = ["nothing", "Road", "person", "traffic_light"]
    model, report = filled(source, classes, "segformer_b0", reuse=True)
    torch.manual_seed(2)
    new = build_model("segformer_b0", 4).head.classifier
    head = model.head.classifier
    for ours, theirs in ((1, 0), (2, 11), (3, 6)):
        assert torch.equal(head.weight[ours], weight[theirs]) and torch.equal(head.bias[ours], bias[theirs])
    assert torch.equal(head.weight[0], new.weight[0])
    assert "3 of 4" in report.classes and "Road" in report.classes
    _, report = filled(source, ["x", "y"], "segformer_b0", reuse=True)
    assert "0 of 2" in report.classes and len(report.initialised) == 2


def test_every_dimension_that_counts_classes_is_copied_by_name():
    source = public("system E basic network", "basic_seg_network", base_channels=4)
    classes = ["car", "elsewhere", "road"]
    model, report = filled(source, classes, "basic_seg_network", reuse=True, base_channels=4)
    theirs = source["decode_head.upsample_cov1.weight"]  # (classes, classes, 4, 4)
    assert torch.equal(model.up[0].weight[0, 2], theirs[13, 0]) and torch.equal(model.up[0].weight[2, 0], theirs[0, 13])
    assert "2 of 3" in report.classes
    assert load_public(source, num_classes=3)[1].reinitialised  # and there all of these are new


def test_an_encoder_fills_the_encoder():
    source = public(RESNET_FILE, "resnet18")
    source["fc.weight"], source["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    torch.manual_seed(2)
    fresh = build_model("fcn", 3, encoder="resnet18").state_dict()
    model, report = filled(source, list("abc"), "fcn", encoder="resnet18")
    assert report.part == "encoder" and "head" in report.classes and "fc.weight" in report.ignored
    for key, value in model.state_dict().items():
        if key.startswith("encoder."):
            assert torch.equal(value, source[key.removeprefix("encoder.")]), key
        else:
            assert key in report.initialised and torch.equal(value, fresh[key])


def test_a_whole_model_with_another_head_gives_its_encoder():
    source = public("VainF DeepLabV3+", "deeplabv3plus_resnet18")
    model, report = filled(source, STREETS, "pspnet_resnet18")
    assert report.part == "encoder" and "deeplabv3plus_resnet18 for 19" in report.found
    assert torch.equal(model.encoder.conv1.weight, source["backbone.conv1.weight"])
    assert any(key.startswith("head.aspp.") for key in report.ignored)
    wide = public("NVlabs SegFormer", "segformer_b0", decoder_dim=64)  # the same name, another width
    assert filled(wide, STREETS, "segformer_b0")[1].part == "encoder"
    with refuses("reuse_classes.*no classifier"):
        filled(wide, STREETS, "segformer_b0", reuse=True)


def test_the_encoder_alone_can_be_taken_from_the_same_network():
    source = public("NVlabs SegFormer", "segformer_b0")
    torch.manual_seed(2)
    fresh = build_model("segformer_b0", 19)
    torch.manual_seed(2)
    model = build_model("segformer_b0", 19)
    report = transfer(model, source, STREETS, name="segformer_b0", options={}, take="encoder")
    whole = load_public(source)[0].state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, (whole if key.startswith("encoder.") else fresh.state_dict())[key]), key
    assert report.part == "encoder" and report.loaded == sum(k.startswith("encoder.") for k in whole)
    with refuses("no encoder apart from its head"):
        unet = public("milesial U-Net, transposed convolutions", "unet", 5, base_channels=4)
        small = build_model("unet", 5, base_channels=4)
        transfer(small, unet, list("abcde"), name="unet", options={"base_channels": 4}, take="encoder")


def test_fewer_stages_and_an_auxiliary_head_load():
    encoder = public(RESNET_FILE, "resnet18")
    _, report = filled(encoder, list("abc"), "pspnet_resnet18", form="smp")
    assert "encoder.layer3.0.conv1.weight" in report.ignored
    whole = public("VainF DeepLabV3+", "deeplabv3plus_resnet18")
    _, report = filled(whole, STREETS, "deeplabv3plus_resnet18", form="vainf", aux=True)
    assert report.part == "whole model" and all(key.startswith("aux_head.") for key in report.initialised)


def test_options_of_the_config_decide_and_the_report_says_so():
    source = public("Hugging Face SegFormer", "segformer_b0")
    model, report = filled(source, STREETS, "segformer_b0")
    norms = [m.eps for m in model.encoder.modules() if isinstance(m, nn.LayerNorm)]
    assert 1e-6 in norms
    text = str(report)
    assert "norm_eps 1e-06 (there 1e-05)" in text and "model.form=huggingface" in text
    assert "numerics" not in str(filled(source, STREETS, "segformer_b0", form="huggingface")[1])
    encoder = public(RESNET_FILE, "resnet18")
    text = str(filled(encoder, STREETS, "fcn", encoder="resnet18", output_stride=8)[1])
    assert "output_stride 8 (there 32)" in text and "model.form" not in text


@pytest.mark.parametrize(
    "title, name, target, options, words",
    [
        (MIT_FILE, "mit_b0", "segformer_b1", {}, ["mit_b0", "segformer_b1", "shape"]),
        ("NVlabs SegFormer", "segformer_b0", "unet", {}, ["segformer_b0 for 19 classes", "unet", "not in the file"]),
        ("milesial U-Net, bilinear", "unet", "segformer_b0", {}, ["milesial", "not in the file"]),
        ("MMSegmentation ResNetV1c", "resnet18", "fcn", {"encoder": "resnet18"}, ["stem_form=v1c"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_what_it_is(title, name, target, options, words):
    with refuses("the config builds") as e:
        filled(public(title, name), STREETS, target, **options)
    assert all(word in str(e.value) for word in words), str(e.value)


def test_unusable_sources(tmp_path):
    for source, words in ((tmp_path / "none.pth", "not found"), ("nvidia/mit-b7", "did you mean 'nvidia/mit-b[0-5]'"),
                          ({"x.y": torch.zeros(1)}, "no known layout")):  # fmt: skip
        with refuses(words):
            filled(source, ["a", "b"], "segformer_b0")


# --- class names ----------------------------------------------------------------------------------------------------


def test_names_come_from_the_file_or_from_the_number_of_classes():
    for meta in (
        {"meta": {"CLASSES": ["a", "b"], "PALETTE": [[1, 2, 3], [4, 5, 6]]}},
        {"meta": {"dataset_meta": {"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]}}},
    ):
        assert class_names(meta, 2)[0] == ("a", "b") and palette(meta, 2) == [(1, 2, 3), (4, 5, 6)]
        assert class_names(meta, 3)[0] is None  # they are not this classifier's
    assert class_names({"config.json": {"id2label": {"0": "a", "1": "b"}}}, 2)[0] == ("a", "b")
    assert class_names({"config.json": {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}}, 2)[0] is None
    assert class_names({}, 19)[0] == STREETS and class_names({}, 21)[0][0] == "background"
    for n in (2, 19, 151, 256):
        colours = palette({}, n)
        assert len(set(colours)) == n and all(0 <= v < 256 for c in colours for v in c)
    assert shared_classes(["Traffic_Light", "x"], ["road", "traffic light"]) == [(0, 1)]


def test_names_in_the_file_decide(tmp_path):
    names = [f"thing {i}" for i in range(19)]
    state = public("MMSegmentation SegFormer", "segformer_b0")
    torch.save({"meta": {"CLASSES": tuple(names)}, "state_dict": state}, tmp_path / "a.pth")
    options = {"form": "mmseg"}
    assert not filled(tmp_path / "a.pth", names, "segformer_b0", **options)[1].initialised
    assert len(filled(tmp_path / "a.pth", STREETS, "segformer_b0", **options)[1].initialised) == 2
    _, report = filled(tmp_path / "a.pth", ["thing 4", "x"], "segformer_b0", reuse=True, **options)
    assert "1 of 2" in report.classes


# --- frozen ---------------------------------------------------------------------------------------------------------


def tiny(root, *sets: str):
    base = {
        "name": "tiny",
        "model": {"name": "fcn", "encoder": "resnet18"},
        "data": {"name": "folder", "root": str(root), "size": [64, 64], "augment": "none"},
        "optim": {"lr": 1e-2},
        "train": {"epochs": 2, "batch_size": 3},
        "log": {"plots": False, "samples": 0},
    }
    return config_from(base, sets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"), n=7)


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(public(RESNET_FILE, "resnet18"), path)
    return path


def test_a_frozen_encoder_gets_no_gradient_and_no_statistics():
    cfg = config_from({"model": {"name": "segformer_b0", "freeze": "encoder", "drop_path_rate": 0.5}})
    model = build_network(cfg, 3).train()
    assert model.training and model.head.training and not any(m.training for m in model.encoder.modules())
    ids = {id(p) for group in build_optimizer(model, cfg.optim).param_groups for p in group["params"]}
    assert ids == {id(p) for p in model.head.parameters()}
    model(torch.randn(2, 3, 64, 64))["out"].sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters()) and model.head.classifier.weight.grad is not None
    assert not nn.Sequential(model).train()[0].encoder.training  # from outside too, as DistributedDataParallel does it
    with refuses("unet is a whole network"):
        build_network(config_from({"model": {"name": "unet", "freeze": "encoder"}}), 3)


def test_statistics_of_a_frozen_encoder_are_not_reestimated():
    torch.manual_seed(0)
    model = build_network(config_from({"model": {"name": "fcn", "encoder": "resnet18", "freeze": "encoder"}}), 3)
    before = ckpt.cpu_state(model)
    reestimate_batchnorm(model, [(torch.randn(4, 3, 64, 64), None)] * 2, CPU)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith("head.") for k in changed)


@pytest.mark.parametrize("freeze", ["none", "encoder"])
def test_training_from_an_encoder(tmp_path, folder, encoder_file, freeze):
    cfg = tiny(folder, f"model.pretrained={encoder_file}", f"model.freeze={freeze}")
    run = run_in(tmp_path, cfg, "run")
    train_single(cfg, run, CPU)
    source, state = torch.load(encoder_file), ckpt.load(run / "last.pt")["model"]
    moved = [k for k, v in source.items() if not torch.equal(v, state[f"encoder.{k}"])]
    assert bool(moved) == (freeze == "none"), moved[:3]


def test_a_frozen_run_that_was_killed_goes_on_bit_for_bit(tmp_path, folder, encoder_file, monkeypatch):
    cfg = tiny(folder, f"model.pretrained={encoder_file}", "model.freeze=encoder")
    whole, broken = (run_in(tmp_path, cfg, name) for name in ("whole", "broken"))
    train_single(cfg, whole, CPU)

    steps = iter(range(9))

    def kill(optimizer, lr):
        if next(steps) == 3:  # two steps an epoch: this is in the second one
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(train_loop, "set_lr", lambda *a: kill(*a) or set_lr(*a))
        with pytest.raises(KeyboardInterrupt):
            train_single(cfg, broken, CPU)
    assert ckpt.load(broken / "last.pt")["progress"]["epoch"] == 1
    train_single(cfg, broken, CPU)
    equal_runs(whole, broken)


def test_folds_on_a_frozen_encoder_are_averaged_and_keep_it(tmp_path, folder, encoder_file):
    sets = [
        "cv.folds=2",
        "cv.start=pretrained",
        "cv.line_points=0",
        "cv.group=none",
        "train.epochs=1",
        "cv.bn_images=8",
    ]
    cfg = tiny(folder, f"model.pretrained={encoder_file}", "model.freeze=encoder", *sets)
    run = run_in(tmp_path, cfg, "cv")
    cross_validate(cfg, run, CPU)
    source, mean = torch.load(encoder_file), ckpt.load(run / "aggregate" / "mean.pt")["model"]
    for key, value in source.items():
        assert torch.equal(mean[f"encoder.{key}"], value), key
    folds = [ckpt.load(run / "stage0" / f"fold{i}" / "best.pt")["model"]["head.classifier.weight"] for i in range(2)]
    assert not torch.equal(*folds)


def test_our_own_checkpoint_goes_on_with_other_classes(tmp_path, folder):
    cfg = tiny(folder, "train.epochs=1")
    run = run_in(tmp_path, cfg, "run")
    train_single(cfg, run, CPU)
    best = ckpt.load(run / "best.pt")["model"]
    model, report = filled(run / "best.pt", ["c", "new", "a"], "fcn", reuse=True, encoder="resnet18")
    assert report.loaded == len(best) and "2 of 3" in report.classes and "this project" in report.found
    assert torch.equal(model.head.classifier.bias[0], best["head.classifier.bias"][2])
    model, report = filled(run / "best.pt", ["a", "b", "c"], "deeplabv3", encoder="resnet18")
    assert report.part == "encoder" and torch.equal(model.encoder.bn1.running_mean, best["encoder.bn1.running_mean"])


def test_norms_of_swins_maps_may_be_new(tmp_path):
    state = build_model("segformer_swin_t", 3, out_norms=False).state_dict()
    cfg = to_dict(config_from({"model": {"name": "segformer_swin_t", "out_norms": "false"}}))
    ckpt.save({"model": state, "config": cfg, "class_names": list("abc")}, tmp_path / "a.pt")
    model, report = filled(tmp_path / "a.pt", list("abc"), "segformer_swin_t")
    assert {key.split(".")[1] for key in report.initialised if key.startswith("encoder.")} == {"out_norms"}
    assert torch.equal(model.encoder.stages[0].blocks[0].norm1.weight, state["encoder.stages.0.blocks.0.norm1.weight"])


# --- the command ----------------------------------------------------------------------------------------------------


def test_train_prints_and_saves_what_it_loaded(tmp_path, folder, encoder_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cfg = tiny(folder, "train.epochs=1", f"model.pretrained={encoder_file}", "model.freeze=encoder")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(to_dict(cfg)))
    assert load_config(tmp_path / "c.yaml") == cfg
    assert command.run(train_command.main, train_command.build_parser(), ["c.yaml"]) == 0
    out = capsys.readouterr().out
    assert out.count("the file is") == 1 and "resnet18" in out and "encoder, 120 tensors" in out, out
    (run,) = tmp_path.glob("runs/*")
    kept = json.loads((run / "environment.json").read_text())["pretrained"]
    assert kept["part"] == "encoder" and kept["source"] == str(encoder_file)
    assert (
        command.run(train_command.main, train_command.build_parser(), ["c.yaml", "--set", "model.pretrained=a.pth"])
        == 2
    )
    assert "a.pth: not found" in capsys.readouterr().err
    with refuses("needs model.pretrained"):
        config_from({"model": {"reuse_classes": "true"}})
