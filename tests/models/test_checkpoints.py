"""Public layouts: every table is complete and invertible, files are recognised, misfits give one clear line."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from models import build_encoder, build_model
from models.checkpoints.identify import Identity, identify
from models.checkpoints.layout import Layout
from models.checkpoints.layouts import LAYOUTS
from models.checkpoints.layouts.segformer import SEGFORMER_NVLABS
from models.checkpoints.load import load_public
from models.checkpoints.rename import STACKED, rows, to_ours, to_theirs, under

NAMES = {"bubbliiiing": "segformer_b0_weights_voc.pth", "sithu31296": "segformer.b0.ade.pth"}
TITLES = [layout.title for layout in LAYOUTS]


def example(layout: Layout, name: str | None = None) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A random model of ours in the layout's form, and its weights under the publisher's names."""
    torch.manual_seed(0)
    name = name or layout.names[0]
    if layout.encoder:
        ours = build_encoder(name, form=layout.form)
    else:
        ours = build_model(name, 7, form=layout.form)
    for value in ours.state_dict().values():  # fresh norms are all alike: a mixed-up pair would not show
        value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.tensor(3))
    return ours, to_theirs(
        ours.state_dict(), Identity(layout, name, 7, layout.options({}) if layout.encoder else {}).table
    )


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("layout", LAYOUTS, ids=TITLES)
def test_every_layout_is_recognised_and_comes_back(tmp_path, layout, prefix):
    ours, theirs = example(layout)
    source = {prefix + key: value for key, value in theirs.items()}
    if layout.hint:  # keys alone do not tell: the file's name does
        path = tmp_path / NAMES.get(layout.form, "tf_efficientnet_b0.pth")
        torch.save(source, path)
        source = path
    model, report = load_public(source)
    assert (report.layout, report.architecture) == (layout.title, layout.names[0])
    assert report.num_classes == (None if layout.encoder else 7) and not report.reinitialised and not report.ignored
    expected = ours.state_dict()
    assert report.loaded == len(expected) == len(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key
    assert not model.training


@pytest.mark.parametrize("name", ["mit_b1", "mit_b2", "mit_b5"])
def test_the_size_is_told_by_the_fit(name):
    layout = next(x for x in LAYOUTS if x.form == "nvlabs" and x.encoder)
    assert identify(example(layout, name)[1]).name == name


def test_other_classes_get_a_new_classifier_and_nothing_else():
    layout = next(x for x in LAYOUTS if x.form == "smp" and "Segformer" in x.title)
    ours, theirs = example(layout)
    model, report = load_public(theirs, num_classes=3)
    assert set(report.reinitialised) == {"head.classifier.weight", "head.classifier.bias"} and report.num_classes == 3
    for key, value in ours.state_dict().items():
        if key not in report.reinitialised:
            assert torch.equal(model.state_dict()[key], value)
    same, report = load_public(theirs, num_classes=7)
    assert not report.reinitialised and torch.equal(same.head.classifier.weight, ours.head.classifier.weight)


def test_known_surplus_is_listed_and_batch_counters_may_be_missing():
    layout = next(x for x in LAYOUTS if x.title == "NVlabs SegFormer")
    _, theirs = example(layout)
    theirs["decode_head.conv_seg.weight"] = torch.zeros(7, 128, 1, 1)
    del theirs["decode_head.linear_fuse.bn.num_batches_tracked"]
    model, report = load_public(theirs)
    assert report.ignored == ("decode_head.conv_seg.weight",)
    assert model.head.bn.num_batches_tracked == 0
    text = str(report)
    assert "NVlabs SegFormer" in text and "segformer_b0, 7 classes" in text and "conv_seg" in text


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("backbone.block2.1.attn.q.weight"), ["NVlabs", "backbone.block2.1.attn.q.weight is missing"]),
        (lambda s: s.update({"backbone.extra.weight": torch.zeros(1)}), ["no place for backbone.extra.weight"]),
        (
            lambda s: s.update({"backbone.norm1.weight": torch.zeros(31)}),
            ["backbone.norm1.weight has shape (31,)", "(31,)"],
        ),
        (lambda s: s.clear() or s.update({"x.y": torch.zeros(1)}), ["no known layout", "x.y"]),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(change, words):
    _, theirs = example(next(x for x in LAYOUTS if x.title == "NVlabs SegFormer"))
    change(theirs)
    with pytest.raises(UserError) as e:
        load_public(theirs)
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in words), str(e.value)


def test_operations_can_be_undone():
    table = [("all.in_proj_{leaf}", "q", rows(0, 1, of=3)), ("all.in_proj_{leaf}", "kv", rows(1, 3, of=3)),
             (["k", "v"], "both", STACKED), ("b{i+1}.c{3-i}", "deep.{i}")]  # fmt: skip
    ours = {"q.weight": torch.randn(2, 5), "kv.weight": torch.randn(4, 5), "both.bias": torch.randn(6),
            "deep.0.weight": torch.randn(3), "deep.2.weight": torch.randn(3)}  # fmt: skip
    theirs = to_theirs(ours, table)
    assert set(theirs) == {"all.in_proj_weight", "k.bias", "v.bias", "b1.c3.weight", "b3.c1.weight"}
    assert torch.equal(theirs["all.in_proj_weight"], torch.cat([ours["q.weight"], ours["kv.weight"]]))
    back, surplus = to_ours(theirs, table, ours)
    assert not surplus and all(torch.equal(back[key], ours[key]) for key in ours)


def test_prefixes_and_unknown_keys():
    assert under("a.", "b.", [("x", "y")]) == [(["a.x"], "b.y")]
    with pytest.raises(UserError, match="no name in this layout"):
        to_theirs({"nowhere.weight": torch.zeros(1)}, SEGFORMER_NVLABS)
    ours = build_model("segformer_b0", 7).state_dict()
    with pytest.raises(UserError, match="does not fit"):
        to_ours({}, SEGFORMER_NVLABS, ours)


def test_microsofts_file_with_its_buffers_and_classifier(tmp_path):
    layout = next(x for x in LAYOUTS if x.title == "Microsoft Swin")
    ours, theirs = example(layout)
    surplus = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
        "norm.weight": torch.zeros(768),
        "head.weight": torch.zeros(1000, 768),
    }
    torch.save({"model": theirs | surplus}, tmp_path / "swin_tiny_patch4_window7_224.pth")
    model, report = load_public(tmp_path / "swin_tiny_patch4_window7_224.pth")
    assert set(report.ignored) == set(surplus) and report.options["form"] == "microsoft"
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in model.state_dict().items())
    assert any("shift=always" in note for note in report.notes)
    settled, report = load_public(tmp_path / "swin_tiny_patch4_window7_224.pth", shift="always")
    assert settled.stages[3].blocks[1].attn.shift == "always" and not any("settles" in n for n in report.notes)


def test_a_tf_model_of_timm_is_told_by_its_words_alone(tmp_path):
    _, theirs = example(next(x for x in LAYOUTS if x.form == "timm_tf"))
    for name, form in (("tf_efficientnet_b0.aa_in1k.pth", "timm_tf"), ("pytorch_model.bin", "timm")):
        torch.save(theirs, tmp_path / name)
        model, report = load_public(tmp_path / name)
        assert report.options["form"] == form and any("form=timm_tf" in n for n in report.notes) == (form == "timm")
        assert model.stem.bn.eps == (1e-3 if form == "timm_tf" else 1e-5)
