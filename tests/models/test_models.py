"""Tests for every model: sizes, batches, gradients, parameter counts, memory layout, learning, names and options."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.errors import UserError
from models import MODELS, build_encoder, build_model, list_models, model_options
from models.layers import conv_bn_relu, kaiming_fan_out, separable_conv_bn_relu
from models.networks.unet import UNet
from models.tensors import resize
from tests.model_helpers import parameters

SMALL_PLUS = dict(separable=True, aspp_channels=32, decoder_channels=32, low_level_channels=16, dropout=0.0)
FAMILIES = {  # one small member of each family, without dropout: losses fall steadily
    "fcn_resnet50": dict(stages=2, fcn_channels=32, dropout=0.0),
    "pspnet_resnet18": dict(psp_channels=32, dropout=0.0),
    "segformer_b0": dict(decoder_dim=32, dropout=0.0, drop_path_rate=0.0),
    "segformer_swin_t": dict(decoder_dim=32, dropout=0.0, drop_path_rate=0.0),
    "segformer_efficientnet_b0": dict(decoder_dim=32, dropout=0.0, drop_path_rate=0.0),
    "fcn8s_vgg16": dict(base_channels=8, fc_channels=32, dropout=0.0),
    "deeplabv3_resnet18": dict(output_stride=16, aspp_channels=32, decoder_channels=32, dropout=0.0),
    "deeplabv3plus_resnet18": SMALL_PLUS,
    "unet": dict(base_channels=8),
    "unet_resnet18": dict(decoder_widths=(32, 24, 16, 16, 8)),
    "better_seg_network": dict(base_channels=8, dropout=0.0),
    "basic_seg_network": dict(base_channels=8, dropout=0.0),
}


# --- contract: shapes, batches, sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 19])
@pytest.mark.parametrize("name", list_models())
def test_logits_have_the_input_size(name, num_classes):
    model = build_model(name, num_classes).eval()
    with torch.no_grad():
        for shape in ((2, 64, 64), (1, 97, 161)):
            out = model(torch.randn(shape[0], 3, *shape[1:]))
            assert list(out) == ["out"] and out["out"].shape == (shape[0], num_classes, *shape[1:])
            assert torch.isfinite(out["out"]).all()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_one_image_trains_and_every_parameter_gets_a_gradient(name, up):
    extra = {"up": up, "aux": up == "bilinear"}
    options = FAMILIES[name] | {k: v for k, v in extra.items() if k in model_options(name)}
    torch.manual_seed(0)
    model = build_model(name, 5, **options).train()
    out = model(torch.randn(1, 3, 64, 97))
    assert ("aux" in out) == options.get("aux", False)
    assert all(v.shape == (1, 5, 64, 97) for v in out.values())
    sum(F.cross_entropy(v, torch.randint(0, 5, (1, 64, 97))) for v in out.values()).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), key
        assert p.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", FAMILIES)
def test_too_small_or_not_rgb(name):
    model = build_model(name, 3, **FAMILIES[name])
    for shape in ((1, 3, 63, 80), (1, 3, 80, 32), (1, 4, 64, 64), (3, 64, 64)):
        with pytest.raises(ValueError, match="expected images"):
            model(torch.zeros(shape))


# --- known forms ------------------------------------------------------------------------------------------------------


COUNTS = [  # name, classes, options, parameters of the public model of this form
    ("segformer_b0", 19, {}, 3_719_027),  # NVlabs, smp, Hugging Face
    ("segformer_b0", 19, dict(form="mmseg"), 3_720_051),
    ("segformer_b1", 19, {}, 13_682_131),  # NVlabs, smp, Hugging Face
    ("segformer_b1", 19, dict(form="mmseg"), 13_683_155),
    ("segformer_b2", 19, {}, 27_361_235),  # NVlabs, smp, Hugging Face
    ("segformer_b2", 19, dict(form="mmseg"), 24_728_019),
    ("segformer_b3", 19, {}, 47_237_075),  # NVlabs, smp, Hugging Face
    ("segformer_b3", 19, dict(form="mmseg"), 44_603_859),
    ("segformer_b4", 19, {}, 64_007_635),  # NVlabs, smp, Hugging Face
    ("segformer_b4", 19, dict(form="mmseg"), 61_374_419),
    ("segformer_b5", 19, {}, 84_607_955),  # NVlabs, smp, Hugging Face
    ("segformer_b5", 19, dict(form="mmseg"), 81_974_739),
    ("segformer_swin_t", 19, dict(form="mmseg"), 29_321_421),  # system E
    ("segformer_efficientnet_b3", 19, dict(form="smp"), 11_194_427 - 592_896),  # less smp's unused convolution
    ("fcn32s_vgg16", 21, {}, 134_260_544 + 21 * 4097),  # torchvision's VGG-16 less its last layer, and scores
    ("deeplabv3_resnet50", 19, {}, 39_638_355),  # torchvision
    ("deeplabv3plus_resnet50", 19, dict(form="vainf"), 39_761_331),
    ("deeplabv3plus_resnet101", 19, dict(form="vainf"), 58_753_459),
    ("deeplabv3plus_resnet18", 19, dict(form="mmseg"), 12_320_143),
    ("deeplabv3plus_resnet50", 19, dict(form="mmseg"), 41_225_187),
    ("deeplabv3plus_resnet101", 19, dict(form="mmseg"), 60_217_315),
    ("deeplabv3plus_resnet101", 19, dict(form="smp"), 45_674_339),
    ("deeplabv3_resnet50", 19, dict(form="smp"), 39_638_355),
    ("deeplabv3_resnet34", 19, dict(form="system_d"), 26_011_731),
    ("fcn_resnet50", 19, dict(form="mmseg"), 47_133_043),
    ("fcn_resnet50", 19, dict(form="torchvision"), 32_955_987),
    ("pspnet_resnet18", 19, dict(form="mmseg"), 12_641_267),
    ("pspnet_resnet101", 19, dict(form="mmseg"), 65_602_931),
    ("pspnet_resnet50", 19, dict(form="hszhao", aux=True), 49_080_038),
    ("deeplabv3plus_resnet18", 19, dict(form="smp"), 12_333_923),
    ("deeplabv3plus_resnet50", 19, dict(form="smp"), 26_682_211),
    ("deeplabv3plus_resnet34", 19, dict(form="system_d"), 26_715_827),
    ("unet", 2, dict(form="milesial"), 31_037_698),
    ("unet", 2, dict(up="bilinear"), 17_263_042),  # milesial
    ("unet", 2, dict(form="milesial_bilinear"), 17_263_042),
    ("unet", 19, dict(form="mmseg"), 28_987_795),
    ("unet", 1, dict(form="mateuszbuda"), 7_763_041),
    ("unet", 19, dict(form="system_d"), 17_268_563),
    ("unet_resnet18", 19, dict(form="smp"), 14_330_819),
    ("unet_resnet50", 19, dict(form="smp"), 32_523_715),
    ("better_seg_network", 19, {}, 49_305_075),  # system B
    ("basic_seg_network", 19, {}, 15_279_747),  # system E
]


@pytest.mark.parametrize("name, num_classes, options, count", COUNTS)
def test_parameter_counts_of_public_models(name, num_classes, options, count):
    with torch.device("meta"):
        assert parameters(build_model(name, num_classes, **options)) == count


# --- layout and initialisation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_stay_channels_last(name):
    """No layer returns the other memory format, which would cost two copies of a map. Tokens (B, H, W, C) are the same
    memory, contiguous in their own shape."""
    of_maps = nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.ReLU | nn.MaxPool2d
    model = build_model(name, 5, **FAMILIES[name]).train()
    wrong = []

    def look(module, args, out):
        if isinstance(out, torch.Tensor) and min(out.shape[1:]) > 1:
            as_tokens = out.is_contiguous() and not isinstance(module, of_maps)
            if not as_tokens and not out.is_contiguous(memory_format=torch.channels_last):
                wrong.append(module)

    for m in model.modules():
        if not list(m.children()):
            m.register_forward_hook(look)
    out = model(torch.randn(2, 3, 64, 96))["out"]
    assert not wrong
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", FAMILIES)
def test_first_logits_are_nearly_a_uniform_guess(name):
    torch.manual_seed(0)
    model = build_model(name, 19, **FAMILIES[name]).train()
    with torch.no_grad():
        out = model(torch.randn(4, 3, 64, 64))["out"]
    loss = F.cross_entropy(out, torch.randint(0, 19, (4, 64, 64)))
    assert abs(loss - math.log(19)) < 0.3


def test_initialisation_keeps_the_scale():
    torch.manual_seed(0)
    block = separable_conv_bn_relu(64, 64)
    kaiming_fan_out(block)
    depthwise = block[0].weight.std().item()
    assert depthwise == pytest.approx(math.sqrt(2 / 9), rel=0.1)  # 9 weights reach each output, not 9 * 64
    dense = build_encoder("resnet18").layer2[0].conv1.weight.std().item()
    assert dense == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.05)


def test_blocks_keep_the_size():
    x = torch.randn(1, 4, 13, 17)
    assert conv_bn_relu(4, 6, 3, dilation=3)(x).shape == (1, 6, 13, 17)
    assert conv_bn_relu(4, 6, 1)(x).shape == (1, 6, 13, 17)
    assert conv_bn_relu(4, 6, 3, stride=2)(x).shape == (1, 6, 7, 9)
    assert separable_conv_bn_relu(4, 6, dilation=5)(x).shape == (1, 6, 13, 17)
    assert resize(x, x.shape[-2:]) is x


# --- learning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_overfits_one_batch(name):
    """Two images whose classes follow from their brightness in blocks: the loss falls to a tenth."""
    torch.manual_seed(0)
    blocks = torch.randint(0, 3, (2, 2, 2))
    target = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)  # (2, 64, 64)
    images = (target[:, None] - 1.0) + 0.1 * torch.randn(2, 3, 64, 64)
    target[:, -6:] = target[:, :, -6:] = -100  # not counted: the basic network is blind there (its file says why)
    model = build_model(name, 3, **FAMILIES[name]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(100):
        loss = F.cross_entropy(model(images)["out"], target)
        losses.append(float(loss.detach()))
        if losses[-1] < losses[0] / 10:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"loss went from {losses[0]:.3f} to {losses[-1]:.3f} only")


# --- names and options ------------------------------------------------------------------------------------------------


def test_options_have_plain_types_and_defaults():
    for name in list_models():
        for option, parameter in model_options(name).items():
            assert parameter.default is not inspect.Parameter.empty, (name, option)
            assert not isinstance(parameter.annotation, str), (name, option)  # resolved, so that text can be coerced
    assert model_options("deeplabv3plus_resnet18")["output_stride"].annotation is int
    shape = {"base_channels", "up", "concat", "fit", "align_corners", "bias", "last_conv", "dropout"}
    assert set(model_options("unet")) == shape | {"form"}
    assert "encoder" not in model_options("deeplabv3_resnet18")
    assert list_models() == list(MODELS)


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("deeplabv3plus_resnet19", {}, ["unknown model", "deeplabv3plus_resnet18"]),
        ("unet", {"bass_channels": 8}, ["bass_channels", "did you mean 'base_channels'"]),
        ("unet", {"up": "nearest"}, ["up of unet", "bilinear"]),
        ("unet", {"base_channels": 0}, ["base_channels", "0"]),
        ("unet", {"form": "mmsegmentation"}, ["form of unet", "mmseg"]),
        ("unet_resnet18", {"decoder_widths": (64, 32)}, ["decoder_widths", "5", "[64, 32]"]),
        ("better_seg_network", {"dropout": 0.5}, ["dropout", "0.5"]),
        ("deeplabv3_resnet18", {"output_stride": 4}, ["output_stride", "4"]),
        ("deeplabv3_resnet18", {"dilate": "whole"}, ["dilate", "whole_stage"]),
        ("deeplabv3_resnet18", {"atrous_rates": ()}, ["atrous_rates"]),
        ("deeplabv3_resnet18", {"atrous_rates": (6, 0)}, ["atrous_rates", "[6, 0]"]),
        ("deeplabv3_resnet18", {"dropout": 1.5}, ["dropout", "1.5"]),
        ("deeplabv3_resnet18", {"separable": "false"}, ["separable", "'false'"]),
        ("deeplabv3plus_resnet18", {"concat": "low"}, ["concat", "low_first"]),
        ("deeplabv3plus_resnet18", {"low_level_channels": 2.5}, ["low_level_channels", "2.5"]),
    ],
)
def test_mistakes_are_one_line_that_names_the_option(name, options, words):
    with pytest.raises(UserError) as e:
        build_model(name, 3, **options)
    assert "\n" not in str(e.value)
    assert all(word in str(e.value) for word in words), str(e.value)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0])
def test_impossible_number_of_classes(num_classes):
    with pytest.raises(ValueError, match="num_classes"):
        build_model("unet", num_classes)


def test_encoder_and_head_are_separate_parts():
    model = build_model("deeplabv3plus_resnet18", 3, aux=True)
    parts = {key.split(".")[0] for key, _ in model.named_parameters()}
    assert parts == {"encoder", "head", "aux_head"}
    assert not hasattr(UNet(3, base_channels=4), "encoder")
