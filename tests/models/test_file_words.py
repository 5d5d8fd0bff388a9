"""The file's own words: config.json, preprocessor_config.json, mmseg's config, names; several sets of weights."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from common.errors import UserError
from models import build_model, load_public
from models.checkpoints.convert import convert
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.load import open_container
from models.checkpoints.normalisation import HALF, IMAGENET, normalisation
from models.checkpoints.python_config import config_of, parse_config
from models.checkpoints.safetensors import write_safetensors
from models.checkpoints.words import threshold_of, told
from tests.helpers import refuses


def trained(name: str, classes: int = 3, **options) -> nn.Module:
    """Our model with BatchNorm statistics that show a wrong eps."""
    torch.manual_seed(0)
    model = build_model(name, classes, **options).eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.001, 0.01)
    return model


def theirs(model: nn.Module, name: str, form: str, options: dict) -> dict[str, torch.Tensor]:
    return convert(model.state_dict(), name, {"form": form, **options}, form, accept_differences=True).state


def folder(path, state: dict, config: dict | None = None, **words):
    """A hub folder of weights, config.json and others."""
    write_safetensors(path / "model.safetensors", state, {"format": "pt"})
    for name, content in {"config": config, **words}.items():
        if content is not None:
            (path / f"{name}.json").write_text(json.dumps(content))
    return path


def same_logits(a: nn.Module, b: nn.Module) -> bool:
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
        a, b = a(x)["out"], b(x)["out"]
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())


# --- smp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "config", "options"),
    [
        ("unet_resnet18", "Unet", {"decoder_interpolation": "bicubic"}, {"interpolation": "bicubic"}),
        ("deeplabv3plus_resnet18", "DeepLabV3Plus", {"encoder_output_stride": 8}, {"output_stride": 8}),
        ("deeplabv3plus_resnet18", "DeepLabV3Plus", {"decoder_atrous_rates": [2, 4, 6]}, {"atrous_rates": (2, 4, 6)}),
        ("deeplabv3_resnet18", "DeepLabV3", {"encoder_output_stride": 16},
         {"output_stride": 16, "atrous_rates": (12, 24, 36)}),
    ],
)  # fmt: skip
def test_smp_config_decides_what_keys_do_not_tell(tmp_path, name, kind, config, options):
    model = trained(name, form="smp", **options)
    state = theirs(model, name, "smp", options)
    ours, report = load_public(folder(tmp_path, state, {"_model_class": kind, "in_channels": 3, **config}))
    assert same_logits(ours, model)
    assert not any("output stride" in note for note in report.notes) == (
        "encoder_output_stride" in config or "Unet" in kind
    )
    assert not same_logits(load_public(state)[0], model)  # the keys alone give another network


def test_smp_stays_in_doubt_without_a_config_and_an_option_settles_it(tmp_path):
    model = trained("deeplabv3_resnet18", form="smp", output_stride=16, atrous_rates=(12, 24, 36))
    state = theirs(model, "deeplabv3_resnet18", "smp", {"output_stride": 16})
    _, report = load_public(state)
    assert "output_stride=16 settles it (in commands: --set model.output_stride=16)" in report.notes[-1]
    ours, report = load_public(state, output_stride=16)  # smp keeps its rates at every stride
    assert same_logits(ours, model) and not report.notes
    assert load_public(state, dropout=0.0)[1].notes  # another option settles nothing


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"decoder_use_norm": {"type": "batchnorm", "eps": 1e-3}}, "decoder_use_norm says eps=0.001"),
        ({"decoder_use_norm": {"type": "instancenorm", "track_running_stats": True}}, "decoder_use_norm=instancenorm"),
        ({"decoder_interpolation": "cubic"}, "interpolation"),
    ],
)
def test_smp_words_that_cannot_be_built_are_refused(tmp_path, config, words):
    state = theirs(trained("unet_resnet18", form="smp"), "unet_resnet18", "smp", {})
    with refuses(words):
        load_public(folder(tmp_path, state, config))


def test_smp_activation_and_upsampling_are_said(tmp_path):
    state = theirs(trained("segformer_b0", form="smp"), "segformer_b0", "smp", {})
    config = {"_model_class": "Segformer", "activation": "sigmoid", "upsampling": 1, "encoder_weights": None}
    notes = load_public(folder(tmp_path, state, config))[1].notes
    assert "activation=sigmoid" in notes[0] and "upsampling=1" in notes[1]


# --- transformers, timm -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hugging():
    return theirs(trained("segformer_b0", form="huggingface"), "segformer_b0", "huggingface", {})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_attention_heads": [2, 4, 10, 16]}, r"num_attention_heads=\[2, 4, 10, 16\]"),
        ({"hidden_act": "gelu_new"}, "hidden_act=gelu_new"),
        ({"strides": [2, 2, 2, 2]}, r"strides=\[2, 2, 2, 2\]"),
    ],
)
def test_transformers_words_that_cannot_be_built_are_refused(tmp_path, hugging, config, words):
    with refuses(words):
        load_public(folder(tmp_path, hugging, config))


@pytest.mark.parametrize(
    ("own", "mean", "std", "bgr"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25, 0.5, 1.0]}, (0.5,) * 3, (0.25, 0.5, 1.0), False),
        ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3, False),
        ({"do_normalize": False, "do_rescale": False}, (0.0,) * 3, (1 / 255,) * 3, False),
        ({"image_mean": [127.5] * 3, "image_std": [127.5] * 3, "do_rescale": False}, (0.5,) * 3, (0.5,) * 3, False),
        ({"image_mean": [0] * 3, "image_std": [1] * 3, "rescale_factor": 1 / 127.5}, (0.0,) * 3, (0.5,) * 3, False),
        ({"do_flip_channel_order": True}, IMAGENET.mean, IMAGENET.std, True),
    ],
)
def test_preprocessor_config_decides_the_normalisation(tmp_path, hugging, own, mean, std, bgr):
    report = load_public(folder(tmp_path, hugging, {}, preprocessor_config=own))[1]
    found = report.normalisation
    assert found.mean == pytest.approx(mean) and found.std == pytest.approx(std) and found.bgr == bgr
    assert "from preprocessor_config.json" in str(report)


def test_a_resizing_preprocessor_is_said_and_a_std_of_zero_refused(tmp_path, hugging):
    own = {"size": {"height": 512, "width": 640}}
    notes = load_public(folder(tmp_path, hugging, {}, preprocessor_config=own))[1].notes
    assert "512x640" in notes[0]
    for bad in (0, [1, 2], ["a"] * 3):
        with refuses("image_std|std: expected three numbers above 0"):
            load_public(folder(tmp_path, hugging, {}, preprocessor_config={"image_mean": 0, "image_std": bad}))


def test_other_words_about_normalisation():
    timm = {"config.json": {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}}
    assert normalisation("torchvision", meta=timm).mean == (0.1, 0.2, 0.3)
    step = {
        "__class_fullname__": "albumentations.Normalize",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
        "max_pixel_value": 1.0,
    }
    nested = {"albumentations_config_eval.json": {"transform": {"transforms": [{"p": 1}, step]}}}
    assert normalisation("smp", meta=nested).std == pytest.approx((1 / 255,) * 3)
    assert normalisation("smp", meta={"config.json": {"encoder_weights": "advprop"}}).same_as(HALF)
    assert "file does not say" in str(normalisation("smp", meta={"config.json": {"encoder_weights": "imagenet"}}))


def test_a_timm_network_of_the_same_keys_is_refused(tmp_path):
    state = {k: v for k, v in build_model("unet_resnet18", 2).state_dict().items() if k.startswith("encoder.")}
    state = {k.removeprefix("encoder."): v for k, v in state.items()}
    for architecture in ("resnet18", "tv_resnet18", "gluon_resnet18_v1b"):
        load_public(folder(tmp_path, state, {"architecture": architecture}))
    with refuses("config.json says resnetblur18: its keys are those of resnet18"):
        load_public(folder(tmp_path, state, {"architecture": "resnetblur18"}))
    torch.save(state, tmp_path / "resnet18_caffe.pth")
    assert "caffe" in load_public(tmp_path / "resnet18_caffe.pth")[1].notes[0]


# --- mmseg ------------------------------------------------------------------------------------------------------------


def mmseg_file(path, model: nn.Module, name: str, options: dict, text, key: str = "cfg"):
    torch.save({"meta": {key: text}, "state_dict": theirs(model, name, "mmseg", options)}, path)
    return path


@pytest.mark.parametrize(
    ("text", "mean", "std", "bgr"),
    [
        ("img_norm_cfg = dict(mean=[0, 0, 0], std=[1, 1, 1], to_rgb=True)", 0.0, 1.0, False),
        ("img_norm_cfg = dict(\n    mean=[127.5, 127.5, 127.5], std=[51.0], to_rgb=False)", 127.5, 51, True),
        ("p = [dict(type='Pad'), dict(type='Normalize', mean=[51.0] * 3, std=[1])]\n"
         "n = dict(mean=[2, 2, 2], std=[4, 4, 4])\ntest_pipeline = [dict(type='Normalize', **n)]", 2, 4, False),
        ("data_preprocessor = dict(type='SegDataPreProcessor', mean=[1, 1, 1], std=[2, 2, 2], bgr_to_rgb=False)",
         1, 2, True),
        ("model = dict(data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True, mean=None, std=None))",
         0, 1, False),
    ],
)  # fmt: skip
def test_mmseg_config_decides_the_normalisation(text, mean, std, bgr):
    for key in ("cfg", "config"):
        found = normalisation("mmseg", meta={"meta": {key: text}})
        assert found.mean == pytest.approx((mean / 255,) * 3) and found.std == pytest.approx((std / 255,) * 3)
        assert found.bgr == bgr and "config in meta" in str(found)


def test_mmseg_config_decides_the_stride_and_its_name_too(tmp_path):
    text = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(type='EncoderDecoder', backbone=dict(type='ResNetV1c', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2),
    norm_cfg=norm_cfg, contract_dilation=True), decode_head=dict(type='PSPHead', align_corners=True,
    pool_scales=(1, 2, 4, 8), norm_cfg=norm_cfg), test_cfg=dict(mode='slide', crop_size=(96, 64), stride=(48, 32)))
"""
    options = {"output_stride": 16, "align_corners": True, "final_align_corners": True, "bins": (1, 2, 4, 8)}
    model = trained("pspnet_resnet18", form="mmseg", **options)
    ours, report = load_public(mmseg_file(tmp_path / "a.pth", model, "pspnet_resnet18", options, text))
    assert same_logits(ours, model) and report.notes == (
        "the config in meta tests by windows of 96x64; here the whole image, unless eval.window is set",
    )
    for change, words in (
        ({"(1, 1, 1, 2)": "(1, 1, 2, 4)"}, "strides"),
        ({"'SyncBN'": "'SyncBN', eps=0.001"}, "eps=0.001"),
        ({"contract_dilation": "style='caffe', contract_dilation"}, "style=caffe"),
    ):
        changed = text
        for old, new in change.items():
            changed = changed.replace(old, new)
        with refuses(words):
            load_public(mmseg_file(tmp_path / "b.pth", model, "pspnet_resnet18", options, changed))
    options = {"output_stride": 16}
    model = trained("pspnet_resnet18", form="mmseg", **options)
    path = tmp_path / "pspnet_r18-d16_512x1024_mine.pth"
    ours, report = load_public(mmseg_file(path, model, "pspnet_resnet18", options, ""))
    assert same_logits(ours, model) and report.notes == ("output stride 16: its name says d16",)


def test_mmseg_segformer_with_other_eps_and_corners(tmp_path):
    text = "model = dict(backbone=dict(type='MixVisionTransformer', norm_cfg=dict(type='LN', eps=1e-3), num_heads=[1, 2, 5, 8]), decode_head=dict(type='SegformerHead', align_corners=True, norm_cfg=dict(type='BN', eps=0.01)))"  # noqa: E501
    options = {"norm_eps": 1e-3, "patch_norm_eps": 1e-3, "head_bn_eps": 0.01, "align_corners": True}
    options |= {"final_align_corners": True}
    model = trained("segformer_b0", form="mmseg", **options)
    ours, report = load_public(mmseg_file(tmp_path / "a.pth", model, "segformer_b0", options, text))
    assert same_logits(ours, model) and ours.head.bn.eps == 0.01


@pytest.mark.parametrize(
    ("text", "threshold"),
    [("", 0.3), ("model = dict(decode_head=dict(out_channels=1, threshold=0.7))", 0.7)],
)
def test_the_threshold_of_one_class(tmp_path, text, threshold):
    model = trained("segformer_b0", 1, form="mmseg")
    report = load_public(mmseg_file(tmp_path / "a.pth", model, "segformer_b0", {}, text))[1]
    assert report.threshold[0] == threshold and f"sigmoid is above {threshold}" in str(report)
    smp = theirs(trained("segformer_b0", 1, form="smp"), "segformer_b0", "smp", {})
    assert load_public(smp)[1].threshold[0] == 0.5


def test_python_configs_are_read_as_data(tmp_path):
    assert parse_config("a = 1\nb = dict(c=a, d=-2.5, e=('x', None))\nf = open('/x')") == {
        "a": 1, "b": {"c": 1, "d": -2.5, "e": ["x", None]}, "f": None,
    }  # fmt: skip
    shared = "a0 = [1, 2]\n" + "".join(f"a{i + 1} = [a{i}, a{i}]\n" for i in range(60))
    assert normalisation("mmseg", meta={"meta": {"cfg": shared}}).same_as(IMAGENET)  # 2^60 lists, if each were visited
    for text in ("a = (", "x" * 2_000_000, "a = " + "(" * 500, "a = " + "-" * 50_000 + "1", "a = '\\d'", "\0"):
        assert config_of({"meta": {"config": text}}) in ({}, {"a": "\\d"})


PLACES = """config.json preprocessor_config.json albumentations_config_eval.json meta meta/cfg
    meta/cfg/model/backbone meta/cfg/model/decode_head meta/cfg/model/test_cfg meta/cfg/model/data_preprocessor
    meta/cfg/model/backbone/strides meta/cfg/model/backbone/dilations meta/cfg/model/backbone/norm_cfg
    meta/cfg/model/decode_head/dilations meta/cfg/model/decode_head/pool_scales meta/cfg/model/decode_head/norm_cfg
    meta/cfg/model/decode_head/align_corners meta/cfg/model/decode_head/threshold meta/cfg/model/test_cfg/crop_size
    meta/cfg/img_norm_cfg meta/cfg/img_norm_cfg/mean meta/cfg/img_norm_cfg/std config.json/decoder_atrous_rates
    config.json/decoder_use_norm config.json/activation config.json/pretrained_cfg config.json/architecture
    preprocessor_config.json/image_mean preprocessor_config.json/image_std preprocessor_config.json/rescale_factor
    preprocessor_config.json/do_normalize preprocessor_config.json/size"""


@pytest.mark.parametrize("junk", [None, 3, "x", [], ["a"], {"a": 1}, [[1]], True, -1.5, float("nan")])
def test_words_that_make_no_sense_are_refused_or_left_aside(junk):
    """A line for the user, or no effect; never another exception."""
    layouts = {layout.form: layout for layout in LAYOUTS if not layout.encoder and "DeepLabV3+" in layout.title}
    for path in PLACES.split():
        keys, meta = path.split("/"), junk
        for key in reversed(keys):
            meta = {key: meta}
        for form in ("smp", "mmseg"):
            try:
                told(layouts[form], "deeplabv3plus_resnet18", meta)
                normalisation(form, "", meta)
                threshold_of(layouts[form], meta)
            except UserError as e:
                assert "\n" not in str(e)


# --- networks of the same keys ----------------------------------------------------------------------------------------


def test_nvlabs_names_without_conv_seg_are_in_doubt(tmp_path):
    options = {"head_bn_eps": 1e-3, "final_align_corners": True}
    model = trained("segformer_b0", **options)
    state = theirs(model, "segformer_b0", "nvlabs", options)
    assert load_public(state)[1].notes == ()  # with conv_seg, as NVlabs' own
    state = {k: v for k, v in state.items() if "conv_seg" not in k}
    _, report = load_public({f"module.{k}": v for k, v in state.items()})
    for word in ("conv_seg", "head_bn_eps=0.001", "final_align_corners=true", "norm_eps=1e-05", "form=bubbliiiing"):
        assert word in report.notes[-1]
    ours, report = load_public(state, form="bubbliiiing")
    assert same_logits(ours, model) and report.notes == ()
    assert load_public(state, form="sithu31296")[0].encoder.stages[0].norm.eps == 1e-5
    assert load_public(state, form="nvlabs")[1].notes == ()
    torch.save(state, tmp_path / "segformer_b0_weights_voc.pth")
    ours, report = load_public(tmp_path / "segformer_b0_weights_voc.pth")
    assert same_logits(ours, model) and "final_align_corners=true" in report.notes[-1]


# --- several sets of weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student():
    return theirs(trained("unet", base_channels=2, form="milesial"), "unet", "milesial", {"base_channels": 2})


def plus(state: dict, n: float) -> dict:
    return {k: v + n if v.is_floating_point() else v for k, v in state.items()}


def larger() -> dict:
    return theirs(trained("unet", base_channels=4, form="milesial"), "unet", "milesial", {"base_channels": 4})


SETS = {  # content of a file -> (what is taken, the name that gives the other)
    "student, teacher of one network": (lambda s: {"student": s, "teacher": plus(s, 1)}, 1, "student"),
    "a larger teacher": (lambda s: {"teacher": larger(), "student": s, "epoch": 3}, 0, "teacher"),
    "model and ema": (lambda s: {"model": s, "ema": plus(s, 1), "optimizer": {"w": torch.ones(2)}}, 1, "model"),
    "params and params_ema": (lambda s: {"params": s, "params_ema": plus(s, 1)}, 1, "params"),
    "module and state_dict_ema": (lambda s: {"module": s, "state_dict_ema": plus(s, 1)}, 1, "module"),
    "model_state and teacher_state": (lambda s: {"model_state": s, "teacher_state": plus(s, 1)}, 1, "model_state"),
    "mmengine, which swaps": (
        lambda s: {"meta": {"a": 1}, "message_hub": {}, "state_dict": plus(s, 1),
                   "ema_state_dict": {"steps": torch.tensor(3), **{f"module.{k}": v for k, v in s.items()}}},
        1, "ema_state_dict"),
    "prefixes": (lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}
                            | {f"ema_model.{k}": v for k, v in plus(s, 1).items()}}, 1, "model"),
    "prefixes within one": (lambda s: {f"net.student.{k}": v for k, v in s.items()}
                            | {f"net.teacher.{k}": v for k, v in larger().items()}, 0, "teacher"),
    "mmcv's buffers": (lambda s: plus(s, 1) | {"ema_" + k.replace(".", "_"): v for k, v in s.items()}, 1, "ema_"),
}  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_several_sets_of_weights(tmp_path, student, name):
    make, taken, other = SETS[name]
    torch.save(make(student), tmp_path / "a.pth")
    model, report = load_public(tmp_path / "a.pth")
    key = "classifier.bias"
    assert torch.equal(model.state_dict()[key], student["outc.conv.bias"] + taken)
    assert any("several sets of weights" in note for note in report.notes)
    assert any(f"--weights {other} " in note for note in report.notes)
    again, report = load_public(tmp_path / "a.pth", weights=other)
    assert not torch.equal(again.state_dict()[key], model.state_dict()[key])
    assert not any("several sets" in note or "--weights" in note for note in report.notes)
    with refuses("no weights under 'none'"):
        load_public(tmp_path / "a.pth", weights="none")


def test_one_set_stays_one_set(tmp_path, student):
    torch.save({"state_dict": student, "optimizer": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    container, _ = open_container(tmp_path / "a.pth")
    assert container.others == () and container.notes == []
    assert load_public(tmp_path / "a.pth", weights="state_dict")[1].loaded
    with pytest.raises(UserError, match="it holds one set"):
        load_public(tmp_path / "a.pth", weights="ema")
