"""Every model: torchvision's numbers from torchvision's weights, any size, every option, gradients, names."""

import pytest
import torch
import torchvision
from torch import nn

from engine.errors import UserError
from losses import build_loss
from models import MODELS, build_model, list_models, model_options
from models.encoders.resnet import RESNET, resnet
from models.heads.deeplab import ASPP, ImagePooling

SMALL = {  # one small form of each family, for tests that need no published width
    "deeplabv3_resnet18": dict(aspp_channels=16, decoder_channels=16, output_stride=16),
    "deeplabv3plus_resnet18": dict(aspp_channels=16, decoder_channels=16, low_level_channels=8),
    "unet": dict(base_channels=8),
}


def perturb(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random BatchNorm statistics and scales: with the initial ones half the mistakes would not show."""
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in ((m.running_mean, -0.2, 0.2), (m.running_var, 0.7, 1.3), (m.bias, -0.2, 0.2)):
                tensor.data.copy_(torch.empty_like(tensor).uniform_(low, high, generator=generator))
            m.weight.data.uniform_(0.7, 1.3, generator=generator)
    return model


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


# --- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(RESNET))
def test_resnet_equals_torchvision(name):
    torch.manual_seed(0)
    peer = perturb(getattr(torchvision.models, name)(weights=None)).eval()
    ours = resnet(name).eval()
    missing, surplus = ours.load_state_dict(peer.state_dict(), strict=False)
    assert not missing and surplus == ["fc.weight", "fc.bias"]
    x = torch.randn(2, 3, 97, 129)
    with torch.inference_mode():
        features, y = ours(x), peer.maxpool(peer.relu(peer.bn1(peer.conv1(x))))
        for i, layer in enumerate((peer.layer1, peer.layer2, peer.layer3, peer.layer4)):
            y = layer(y)
            close(features[i], y)
    assert ours.channels == [f.shape[1] for f in features] and ours.strides == [4, 8, 16, 32]


def from_torchvision(state: dict) -> dict:
    """torchvision's DeepLabV3 names to ours."""
    out = {}
    for key, value in state.items():
        key = key.replace("backbone.", "encoder.").replace("classifier.0.project.", "head.aspp.project.")
        for i in range(4):
            key = key.replace(f"classifier.0.convs.{i}.", f"head.aspp.branches.{i}.")
        key = key.replace("classifier.0.convs.4.1.", "head.aspp.pooling.conv.")
        key = key.replace("classifier.0.convs.4.2.", "head.aspp.pooling.bn.")
        prefix = "aux_head" if key.startswith("aux_") else "head"
        key = key.removeprefix("aux_")
        at = {"head": ("1", "2", "4"), "aux_head": ("0", "1", "4")}[prefix]
        for number, name in zip(at, ("conv.0", "conv.1", "classifier")):
            key = key.replace(f"classifier.{number}.", f"{prefix}.{name}.") if key.startswith("classifier.") else key
        out[key] = value
    return out


def test_deeplabv3_resnet50_equals_torchvision():
    torch.manual_seed(0)
    options = dict(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    peer = perturb(torchvision.models.segmentation.deeplabv3_resnet50(**options)).eval()
    ours = build_model("deeplabv3_resnet50", 21, aux=True).eval()
    ours.load_state_dict(from_torchvision(peer.state_dict()))
    x = torch.randn(1, 3, 97, 161)
    with torch.inference_mode():
        want = peer(x)
        close(ours(x)["out"], want["out"])
        close(ours.aux_head(ours.encoder(x)), peer.aux_classifier(peer.backbone(x)["aux"]))


PARAMETERS = [  # published counts
    ("deeplabv3_resnet50", 19, {}, 39_638_355),
    ("unet", 2, {"up": "transposed"}, 31_037_698),
    ("unet", 2, {"up": "bilinear"}, 17_263_042),
    ("deeplabv3plus_resnet50", 19, {"decoder_convs": 1, "concat": "low_first"}, 39_761_331),  # VainF's form
    ("deeplabv3plus_resnet101", 19, {"decoder_convs": 1, "concat": "low_first"}, 58_753_459),
]


@pytest.mark.parametrize(("name", "classes", "options", "count"), PARAMETERS)
def test_parameter_counts(name, classes, options, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in build_model(name, classes, **options).parameters()) == count


# --- ASPP -----------------------------------------------------------------------------------------------------------


def textbook(aspp: ASPP, x: torch.Tensor) -> torch.Tensor:
    """The pooled vector expanded to the map's size and concatenated, as the paper draws it."""
    parts = [branch(x) for branch in aspp.branches]
    pooled = aspp.pooling(x).expand(-1, -1, *x.shape[-2:])
    return aspp.dropout(aspp.project(torch.cat([*parts, pooled], dim=1)))


@pytest.mark.parametrize("separable", [False, True])
def test_pooled_branch_as_a_bias_changes_nothing(separable):
    torch.manual_seed(0)
    aspp = perturb(ASPP(12, 8, (2, 4), separable, dropout=0.0)).double().train()
    results = []
    for form in (aspp, lambda x: textbook(aspp, x)):
        x = torch.randn(3, 12, 9, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
        y = form(x)
        weights = torch.randn(y.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
        gradients = torch.autograd.grad((y * weights).sum(), [x, *aspp.parameters()])
        results.append([y, *gradients])
    for ours, theirs in zip(*results):
        assert (ours - theirs).abs().max() <= 1e-12 * max(1.0, theirs.abs().max())


def test_image_pooling_with_one_image():
    pooling = perturb(ImagePooling(4, 6)).train()
    before = {k: v.clone() for k, v in pooling.state_dict().items()}
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    y = pooling(x)
    y.sum().backward()
    assert torch.equal(y, pooling.eval()(x)) and x.grad.abs().sum() > 0
    assert all(torch.equal(before[k], v) for k, v in pooling.state_dict().items())
    pair = torch.randn(2, 4, 5, 5)  # from two images on: the plain layer
    pooling.train()
    want = nn.functional.relu(nn.functional.batch_norm(
        pooling.conv(pair.mean((2, 3), keepdim=True)), None, None, pooling.bn.weight, pooling.bn.bias, training=True
    ))  # fmt: skip
    torch.testing.assert_close(pooling(pair), want)


# --- contract -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("classes", [2, 19])
def test_logits_at_input_size(name, classes):
    small = "unet" if name == "unet" else name.split("_")[0] + "_resnet18"
    model = build_model(name, classes, **SMALL[small]).eval()
    with torch.inference_mode():
        for size in ((64, 64), (97, 161)):
            out = model(torch.randn(1, 3, *size))
            assert list(out) == ["out"] and out["out"].shape == (1, classes, *size)


@pytest.mark.parametrize("name", list(SMALL))
def test_training_with_one_image_and_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    model = build_model(name, 5, **SMALL[name]).train()
    out = model(torch.randn(1, 3, 64, 64))["out"]
    (out * torch.randn_like(out)).sum().backward()
    model.zero_grad()
    out = model(torch.randn(2, 3, 64, 96))["out"]
    (out * torch.randn_like(out)).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize("name", list(SMALL))
def test_overfits_one_batch(name):
    torch.manual_seed(0)
    options = SMALL[name] | ({"dropout": 0.0} if name != "unet" else {})
    model = build_model(name, 4, **options).train()
    images, target = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    target[:, 16:, :] += 1
    target[:, :, 32:] += 1
    target[1, 40:60, 8:24] = 3
    optimizer, criterion, losses = torch.optim.Adam(model.parameters(), 3e-3), build_loss("cross_entropy", 4), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = criterion(model(images)["out"], target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < losses[0] / 10, losses[::10]


@pytest.mark.parametrize("name", list(SMALL))
def test_channels_last_is_the_same_function(name):
    torch.manual_seed(0)
    model, x = perturb(build_model(name, 3, **SMALL[name])).eval(), torch.randn(2, 3, 80, 64)
    with torch.inference_mode():
        plain = model(x)["out"]
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))["out"]
    close(last, plain)


def test_aux_only_while_training_and_only_where_asked():
    x = torch.randn(2, 3, 64, 64)
    with_aux = build_model("deeplabv3plus_resnet18", 3, aux=True, **SMALL["deeplabv3plus_resnet18"])
    assert with_aux.train()(x)["aux"].shape == (2, 3, 64, 64)
    assert list(with_aux.eval()(x)) == ["out"]
    without = build_model("deeplabv3plus_resnet18", 3, **SMALL["deeplabv3plus_resnet18"])
    assert list(without.train()(x)) == ["out"]


def test_small_and_odd_inputs_are_refused():
    for name in SMALL:
        model = build_model(name, 3, **SMALL[name])
        for shape in ((1, 3, 63, 64), (1, 3, 64, 32), (1, 1, 64, 64), (3, 64, 64)):
            with pytest.raises(ValueError, match="expected images"):
                model(torch.zeros(shape))


# --- options --------------------------------------------------------------------------------------------------------


def dilations(model: nn.Module, stage: str) -> list[list[int]]:
    blocks = getattr(model, stage)
    return [
        [m.dilation[0] for m in b.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)] for b in blocks
    ]


def test_the_two_ways_of_dilating_a_stage():
    keeps, whole = resnet("resnet50", output_stride=8), resnet("resnet50", output_stride=8, dilate="whole_stage")
    assert dilations(keeps, "layer3") == [[1], *[[2]] * 5] and dilations(keeps, "layer4") == [[2], [4], [4]]
    assert dilations(whole, "layer3") == [[2]] * 6 and dilations(whole, "layer4") == [[4]] * 3
    basic = resnet("resnet34", output_stride=8, dilate="whole_stage")  # system D
    assert dilations(basic, "layer3") == [[2, 2]] * 6 and dilations(basic, "layer4") == [[4, 4]] * 3


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_and_its_rates(stride):
    encoder = resnet("resnet18", output_stride=stride, stem=True)
    with torch.inference_mode():
        features = encoder.eval()(torch.randn(1, 3, 128, 64))
    assert encoder.strides == [128 // f.shape[2] for f in features] == [2, *[min(s, stride) for s in (4, 8, 16, 32)]]
    assert encoder.channels == [f.shape[1] for f in features]
    model = build_model("deeplabv3plus_resnet18", 3, output_stride=stride)
    rates = [branch[0].dilation[0] for branch in model.head.aspp.branches][1:]
    assert rates == {8: [12, 24, 36], 16: [6, 12, 18], 32: [3, 6, 9]}[stride]


def test_options_change_the_network():
    def count(**options) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in build_model("deeplabv3plus_resnet18", 19, **options).parameters())

    base = count()
    assert count(separable=True) < base / 1.2
    assert count(decoder_convs=1) < base < count(decoder_convs=3)
    assert count(low_level_channels=12) < base and count(aspp_channels=64) < base and count(aux=True) > base
    assert count(atrous_rates=(6, 12)) < base
    assert count(concat="low_first") == base


def test_concat_order_is_where_the_low_level_map_enters():
    torch.manual_seed(0)
    options = SMALL["deeplabv3plus_resnet18"]
    first = perturb(build_model("deeplabv3plus_resnet18", 3, **options)).eval()
    second = build_model("deeplabv3plus_resnet18", 3, concat="low_first", **options).eval()
    state = first.state_dict()
    weight = state["head.decoder.0.0.weight"]  # columns: 16 of ASPP, then 8 of the low-level map
    state["head.decoder.0.0.weight"] = torch.cat([weight[:, 16:], weight[:, :16]], dim=1)
    second.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        close(second(x)["out"], first(x)["out"])


def test_system_d_builds():
    with torch.device("meta"):
        model = build_model("deeplabv3plus_resnet34", 19, output_stride=8, dilate="whole_stage", dropout=0.5)
    assert [c[0].in_channels for c in model.head.decoder] == [304, 256] and model.encoder.strides == [4, 8, 8, 8]


def test_names_and_refusals():
    assert list_models() == list(MODELS) and "deeplabv3plus_resnet101" in MODELS
    with pytest.raises(ValueError, match="deeplabv3plus_resnet18"):
        build_model("deeplabv3plus_resnet19", 3)
    with pytest.raises(ValueError, match="output_stride"):
        build_model("deeplabv3plus_resnet18", 3, output_strid=8)
    with pytest.raises(ValueError, match="8, 16 or 32"):
        build_model("deeplabv3plus_resnet18", 3, output_stride=4)
    with pytest.raises(ValueError, match="atrous_rates"):
        build_model("deeplabv3plus_resnet18", 3, atrous_rates=(0, 1))
    with pytest.raises(ValueError, match="num_classes"):
        build_model("unet", 0)
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_option_has_a_type_and_a_default(name):
    for option in model_options(name).values():
        assert option.annotation is not option.empty and not isinstance(option.annotation, str)
        assert option.default is not option.empty
