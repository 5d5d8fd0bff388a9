"""The operation trace, the counting rules and tools.summary, against the numbers of the counters they imitate."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.analysis.cost import PUBLIC_FILES, WEIGHTS, Count, count, parameters
from engine.analysis.operation_trace import as_printed, trace
from models import build_model
from models.encoders.mix_transformer import EfficientSelfAttention
from tools import summary

SIZES = ((256, 864), (512, 512), (512, 1024), (375, 1242))

# model, classes, form, parameters, billions of multiply-adds that fvcore counts in the publisher's own code, per size
# in SIZES. smp's networks refuse sizes that their stride does not divide.
PUBLISHED = [
    ("segformer_b0", 19, "nvlabs", 3_719_027, (6.569, 7.948, 17.977, 15.530)),
    ("segformer_b1", 19, "nvlabs", 13_682_131, (12.778, 15.470, 35.100, 30.388)),
    ("segformer_b2", 19, "nvlabs", 27_361_235, (50.943, 60.985, 129.755, 114.253)),
    ("segformer_b3", 19, "nvlabs", 47_237_075, (64.743, 77.655, 167.121, 147.775)),
    ("segformer_b4", 19, "nvlabs", 64_007_635, (78.458, 94.314, 205.606, 181.622)),
    ("segformer_b5", 19, "nvlabs", 84_607_955, (91.724, 110.294, 240.855, 213.585)),
    ("segformer_b0", 19, "mmseg", 3_720_051, (6.593, 7.976, 18.032, 15.579)),
    ("segformer_b1", 19, "mmseg", 13_683_155, (12.802, 15.497, 35.156, 30.438)),
    ("segformer_b2", 19, "mmseg", 24_728_019, (20.864, 25.336, 58.457, 50.633)),
    ("segformer_b3", 19, "mmseg", 44_603_859, (34.664, 42.006, 95.823, 84.155)),
    ("segformer_b4", 19, "mmseg", 61_374_419, (48.379, 58.665, 134.309, 118.002)),
    ("segformer_b5", 19, "mmseg", 81_974_739, (61.646, 74.645, 169.557, 149.964)),
    ("deeplabv3plus_resnet18", 19, "mmseg", 12_320_143, (45.829, 54.316, 108.631, 97.193)),
    ("deeplabv3plus_resnet50", 19, "mmseg", 41_225_187, (149.042, 176.642, 353.283, 316.100)),
    ("deeplabv3plus_resnet101", 19, "mmseg", 60_217_315, (214.678, 254.434, 508.866, 455.350)),
    ("deeplabv3plus_resnet50", 19, "vainf", 39_761_331, (50.403, 59.736, 119.472, 108.274)),
    ("deeplabv3plus_resnet101", 19, "vainf", 58_753_459, (66.812, 79.184, 158.368, 143.827)),
    ("deeplabv3plus_resnet18", 19, "smp", 12_333_923, (15.529, 18.405, 36.809, None)),
    ("deeplabv3plus_resnet50", 19, "smp", 26_682_211, (31.069, 36.822, 73.644, None)),
    ("deeplabv3plus_resnet101", 19, "smp", 45_674_339, (47.478, 56.270, 112.540, None)),
    ("fcn_resnet50", 19, "mmseg", 47_133_043, (166.980, 197.902, 395.804, 354.212)),
    ("fcn_resnet50", 19, "torchvision", 32_955_987, (116.987, 138.651, 277.302, 248.162)),
    ("deeplabv3_resnet50", 19, "torchvision", 39_638_355, (138.279, 163.886, 327.771, 293.332)),
    ("pspnet_resnet18", 19, "mmseg", 12_641_267, (45.838, 54.326, 108.649, 97.213)),
    ("pspnet_resnet101", 19, "mmseg", 65_602_931, (216.411, 256.478, 512.903, 459.023)),
    ("unet", 19, "mmseg", 28_987_795, (171.500, 203.259, 406.518, None)),
    ("unet", 2, "milesial", 31_037_698, (162.795, 192.942, 385.884, 339.376)),
    ("unet", 2, "milesial_bilinear", 17_263_042, (135.255, 160.302, 320.604, 282.344)),
    ("segformer_swin_t", 19, "mmseg", 29_321_421, (38.265, 44.656, 88.347, 79.472)),
    ("segformer_efficientnet_b3", 19, "smp", 11_194_427, (9.704, 11.500, 22.999, 20.315)),
    ("segformer_b2", 19, "smp", 27_361_235, (50.986, 61.036, 129.856, 113.378)),
    ("better_seg_network", 19, "system_b", 49_305_075, (143.366, 169.915, 339.831, 304.870)),
    ("basic_seg_network", 19, "system_e", 15_279_747, (30.839, 37.055, 74.914, 66.951)),
]
# The others differ from these in the depth of the encoder or in the form, which one size shows as well as four
ALL_SIZES = (
    "segformer_b0",
    "deeplabv3plus_resnet18",
    "pspnet_resnet18",
    "segformer_swin_t",
    "segformer_efficientnet_b3",
)


def on_meta(name: str, num_classes: int = 19, **options) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, num_classes, **options)


def unused(name: str, form: str, num_classes: int) -> int:
    return PUBLIC_FILES[name, form].unused(num_classes) if (name, form) in PUBLIC_FILES else 0


# --- published tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, num_classes, form, size, billions", [(*row[:3], *row[3:]) for row in PUBLISHED])
def test_parameters_and_multiply_adds_of_the_published_tables(name, num_classes, form, size, billions):
    """Parameters to the digit, multiply-adds within 0.3 % (publishers also count resizings that change nothing).

    `size`: the published count of parameters.
    """
    model = on_meta(name, num_classes, form=form)
    in_file = unused(name, form, num_classes) if form == "smp" else 0  # nvlabs' are not in the published count
    assert parameters(model) + in_file == size
    for hw, expected in zip(SIZES, billions):
        if expected and (hw == SIZES[3] or name in ALL_SIZES or billions[3] is None):
            near = 0.01 if (name, form) == ("segformer_b2", "smp") else 0.003
            assert count(model, hw, "fvcore").total() / 1e9 == pytest.approx(expected, rel=near), hw


def test_mmseg_unet_at_multiples_of_16():
    assert count(on_meta("unet", form="mmseg"), (368, 1248), "fvcore").total() / 1e9 == pytest.approx(356.1, rel=1e-3)


@pytest.mark.parametrize(
    "name, form, expected",
    [
        ("better_seg_network", None, 143.172),
        ("segformer_b2", "smp", 35.043),
        ("segformer_efficientnet_b3", "smp", 4.598),
    ],
)
def test_torchinfo_of_a_students_report(name, form, expected):
    public = PUBLIC_FILES.get((name, form))
    counted = count(on_meta(name, form=form), (256, 864), "torchinfo", public.blind if public else "")
    assert counted.total() / 1e9 == pytest.approx(expected, abs=0.0005)


def test_fvcore_and_torchinfo_to_the_digit():
    """Their own totals for torchvision's models at 224x224 (fvcore 0.1.5, torchinfo 1.8.0)."""
    from torchvision import models as peers

    expected = {
        "resnet50": (4_111_512_576, 4_089_238_376),
        "swin_t": (4_509_232_128, 34_368_232),
        "efficientnet_b0": (401_659_392, 385_867_108),
    }
    for name, (fvcore, torchinfo) in expected.items():
        with torch.device("meta"):
            steps = trace(getattr(peers, name)(), (224, 224))
        assert (Count("fvcore", steps).total(), Count("torchinfo", steps).total()) == (fvcore, torchinfo), name


def test_our_segformer_spends_less_than_the_published_one():
    model = on_meta("segformer_b2", form="nvlabs")
    published, ours = count(model, (512, 512), "fvcore").total(), count(model, (512, 512)).total()
    assert published / 1e9 == pytest.approx(60.985, rel=1e-4)
    assert ours <= 24e9


# --- the house rule ---------------------------------------------------------------------------------------------------


def test_attention_counts_both_products():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = EfficientSelfAttention(dim=32, num_heads=2, sr_ratio=2, eps=1e-5)
            self.embed = nn.Conv2d(3, 32, 4, stride=4)

        def forward(self, x):
            return self.attn(self.embed(x).permute(0, 2, 3, 1))

    kinds = count(Model(), (64, 96)).by_kind()
    n, keys, d = 16 * 24, 8 * 12, 32
    assert kinds["attention"] == 2 * n * keys * d
    assert kinds["matrix product"] == 2 * n * d * d + keys * d * 2 * d  # q and proj; k and v
    assert kinds["convolution"] == n * 3 * 16 * d + keys * d * d * 4  # embedding; reduction


def test_composed_weights_count_what_they_cost():
    """conv2d with a product of two weights: the product itself, and one convolution of the composed size."""

    class Composed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.zeros(8, 3)), nn.Parameter(torch.zeros(5, 8))
            self.never = nn.Parameter(torch.zeros(7))

        def forward(self, x):
            y = F.conv2d(x, (self.second @ self.first)[:, :, None, None])
            return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)

    counted = count(Composed(), (10, 12))
    assert counted.by_kind() == {
        "matrix product": 5 * 8 * 3,
        "convolution": 120 * 15,
        "bilinear": 4 * 5 * 480,
    }
    product, conv, bilinear = counted.steps.steps
    assert product.what.startswith("weights: ") and product.parameters == 0
    assert sorted(conv.used) == ["first", "second"] and conv.parameters == 64  # where they meet the image
    assert counted.steps.parameters == 71 and bilinear.shape == (1, 5, 20, 24)


def test_einsum_bmm_and_transposed_convolution():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False)

        def forward(self, x):
            x = self.up(x).flatten(2)  # (1, 4, 480)
            return torch.einsum("bcn,bdn->bcd", x, x) + torch.bmm(x, x.transpose(1, 2))

    kinds = count(Model(), (10, 12)).by_kind()
    assert kinds == {"convolution": 120 * 3 * 4 * 4, "matrix product": 2 * 4 * 4 * 480}


def test_trace_in_order_with_every_parameter_once():
    model = build_model("deeplabv3plus_resnet18", 5)
    steps = trace(model, (64, 96))
    used = [name for _, step in steps.flat() if step.module is None for name in step.used]
    assert sorted(used) == sorted(name for name, _ in model.named_parameters())
    assert [s.name for s in steps.steps if s.module is not None] == ["encoder", "head"]
    assert sum(s.parameters for _, s in steps.flat() if s.module is None) == parameters(model)


def test_counting_leaves_the_model_as_it_was():
    model = build_model("deeplabv3_resnet18", 3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count(model, (64, 64), "fvcore")
    assert model.training and not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with as_printed(model.eval()):
        assert model.head.aspp.textbook and model.encoder.bn1.training
    assert not model.head.aspp.textbook and not model.encoder.bn1.training


@pytest.mark.parametrize("name", ["segformer_b0", "segformer_swin_t", "deeplabv3plus_resnet18"])
def test_published_formulas_are_the_same_function(name):
    """The published formulas give the same logits as our computation."""
    torch.manual_seed(0)
    model = build_model(name, 4).double().eval()
    images = torch.randn(1, 3, 64, 75).double()
    switches = [m for m in model.modules() if hasattr(m, "textbook")]
    with torch.no_grad():
        ours = model(images)["out"]
        for m in switches:
            m.textbook = True
        torch.testing.assert_close(model(images)["out"], ours, rtol=1e-10, atol=1e-10)
    assert switches


def test_every_weight_names_a_kind_that_occurs():
    models = [on_meta("segformer_b0"), on_meta("deeplabv3plus_resnet18"), on_meta("unet_resnet18")]
    kinds = {kind for m in models for kind in trace(m, (64, 96), published=True).total()}
    assert {kind for weights in WEIGHTS.values() for kind in weights} <= kinds


# --- the command ------------------------------------------------------------------------------------------------------


def run(*argv: str) -> int:
    return summary.command.run(summary.main, summary.build_parser(), list(argv))


def test_table_and_json(capsys, tmp_path):
    file = tmp_path / "b2.json"
    assert run("segformer_b2", "--set", "form=nvlabs", "--rule", "fvcore", "--depth", "2", "--json", str(file)) == 0
    out = capsys.readouterr().out
    for words in (
        "multiply-adds by the fvcore rule, the published computation: 60.985 G",
        "what our code spends, by the house rule: 22.",
        "public file: 27,363,686 parameters, of which 2,451 unused (decode_head.conv_seg)",
        "parameters: 27,361,235",
    ):
        assert words in out
    found = json.loads(file.read_text())
    assert found["parameters"] == 27_361_235 and found["size"] == [512, 512]
    stages = [r for r in found["rows"] if r["part"].startswith("stages")]
    assert [r["stride"] for r in stages] == [4, 8, 16, 32]
    assert [r["output"][1] for r in stages] == [64, 128, 320, 512]
    top = [r for r in found["rows"] if r["depth"] == 0]
    assert sum(r["multiply_adds"] for r in top) == found["multiply_adds"] == sum(found["by_kind"].values())
    assert sum(r["parameters"] for r in top) == found["parameters"]


def test_rows_say_what_is_done(capsys):
    assert run("all_mlp", "--encoder", "mit_b0", "--set", "decoder_dim=64", "--depth", "6", "--size", "64", "96") == 0
    out = capsys.readouterr().out
    for words in ("conv 7x7 /4, 3 -> 32", "attention 1 heads, 384 x 6 tokens", "conv 3x3, 128 -> 128, depthwise"):
        assert words in out
    assert "linear 32 -> 32" in out and "LayerNorm 32" in out and "bilinear to 64x96" in out
    assert run("deeplabv3_resnet18", "--depth", "4", "--size", "64", "64") == 0
    assert "conv1 + bn1" in capsys.readouterr().out  # BatchNorm folded into the convolution


def test_public_file_of_smp(capsys):
    assert run("segformer_efficientnet_b3", "--set", "form=smp", "--size", "64", "64", "--depth", "1") == 0
    line = "public file: 11,194,427 parameters, of which 592,896 unused (encoder _conv_head, _bn1)"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize("name, form", [k for k in PUBLIC_FILES if k[1] == "smp"])
def test_unused_parameters_of_smp_files(name, form):
    import segmentation_models_pytorch as smp

    encoder = name.partition("_")[2].replace("t_b", "t-b")
    with torch.device("meta"):
        make = smp.PSPNet if name.startswith("pspnet") else smp.Segformer
        theirs = make(encoder, encoder_weights=None, classes=7)
    assert parameters(theirs) - parameters(on_meta(name, 7, form=form)) == PUBLIC_FILES[name, form].unused(7)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["segformer_b9"], "unknown model"),
        (["segformer_b0", "--set", "decoder_dims=3"], "did you mean 'decoder_dim'"),
        (["segformer_b0", "--set", "decoder_dim=many"], "whole number"),
        (["segformer_b0", "--set", "form=mmsegg"], "mmseg"),
        (["segformer_b0", "--encoder", "mit_b1"], "encoder"),
        (["segformer_b0", "--size", "32", "64"], "at least 64"),
        (["segformer_b0", "--classes", "0"], "num_classes"),
        (["segformer_b0", "--depth", "0"], "--depth"),
        (["segformer_b0", "--json", "no/such/folder/x.json"], "no folder"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and "Traceback" not in err
