"""The config: coercion by type, refusals with the nearest key, stages, and every file in configs/."""

import ast
import dataclasses
from pathlib import Path

import pytest

from common.errors import UserError
from engine.config import (
    SECTIONS,
    Config,
    config_from,
    differences,
    dump,
    load_config,
    stage_config,
    start_config,
    to_dict,
)
from engine.config.coerce import parse_yaml
from engine.training.class_weighting import placeholder_specs
from losses import build_loss
from models import build_model

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def config(text: str = "", *sets: str) -> Config:
    return config_from(parse_yaml(text, "test.yaml") or {}, sets, "test.yaml")


def test_exponents_without_a_dot_are_numbers():
    assert config("optim: {lr: 3e-5}").optim.lr == 3e-5
    assert config("", "optim.lr=6E-5").optim.lr == 6e-5
    assert config("optim: {lr: 1}").optim.lr == 1.0  # int accepted for float


@pytest.mark.parametrize("word", ["off", "no", "on", "none", "null"])
def test_words_yaml_takes_for_booleans_stay_words(word):
    assert config(f"name: {word}").name == word
    assert config("train: {amp: none}").train.amp == "none"


def test_booleans_sequences_and_optional_values():
    cfg = config("data: {size: [128, 256], cache: on}\ncv: {start_epochs: null}\nmodel: {pretrained: }")
    assert (cfg.data.size, cfg.data.cache, cfg.cv.start_epochs, cfg.model.pretrained) == ((128, 256), True, None, None)
    assert config("", "data.size=96 160").data.size == (96, 160)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trian: {epochs: 3}", ["trian", "train"]),
        ("train: {epoch: 3}", ["train.epoch", "train.epochs"]),
        ("train: {epochs: many}", ["train.epochs", "whole number", "many"]),
        ("train: {epochs: 1.5}", ["train.epochs", "whole number"]),
        ("train: {batch_size: 0}", ["train.batch_size", "at least 1"]),
        ("optim: {lr: .nan}", ["optim.lr", "number"]),
        ("optim: {nesterov: maybe}", ["optim.nesterov", "true or false"]),
        ("schedule: {name: pony}", ["schedule.name", "poly"]),
        ("data: {size: 128}", ["data.size", "2 values"]),
        ("data: {size: [32, 64]}", ["data.size", "64"]),
        ("cv: {folds: 1}", ["cv.folds", "at least 2"]),
        ("cv: {start: pretrained}", ["model.pretrained"]),
        ("model: {name: deeplabv3plus_resnet19}", ["deeplabv3plus_resnet19", "deeplabv3plus_resnet18"]),
        ("model: {output_strid: 16}", ["output_strid", "output_stride"]),
        ("model: {output_stride: high}", ["output_stride", "high"]),
        ("loss: {name: dices}", ["dices", "dice"]),
        ("loss: {terms: [{name: dice, smoth: 1}]}", ["smoth", "smooth"]),
        ("loss: {terms: [{weight: 1}]}", ["loss.terms[0]", "name"]),
        ("loss: {terms: [{name: dice}], weights: [1, 2]}", ["loss.weights", "2", "1"]),
        ("cv: {stages: [{bogus: 1}]}", ["cv.stages[0]", "bogus"]),
        ("cv: {stages: [{cv.folds: 3}]}", ["cv.folds", "stages"]),
        ("cv: {stages: [{model.name: unet}]}", ["model.name", "stages"]),
        ("cv: {start_overrides: {eval.native: true}}", ["eval.native", "stages"]),
        ("train: 3", ["train", "section"]),
        ("- a\n- b", ["keys and values"]),
        ("name: a\nname: b", ["name", "twice", "line 2"]),
        ("a: [1, 2", ["not valid YAML", "line"]),
        ("name: !!python/object/apply:os.system [ls]", ["tag", "not allowed"]),
    ],
)
def test_refusals_are_one_line_that_names_the_fault(text, words):
    with pytest.raises(UserError) as e:
        config(text)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value)


def test_set_needs_a_key_and_two_levels():
    for bad in ("optim.lr", "=3", "a.b.c=1"):
        with pytest.raises(UserError, match="--set"):
            config("", bad)


def test_another_model_by_set_drops_the_options_of_the_first():
    cfg = config("model: {name: deeplabv3plus_resnet18, separable: true}", "model.name=unet")
    assert cfg.model.name == "unet" and cfg.model.options == {}


KD = "loss: {terms: [{name: dice}, {name: kd}], weights: [1, 2], teacher: a.pt}"


@pytest.mark.parametrize(
    ("text", "sets", "expected"),
    [
        ("", ["model.output_stride=8", "model.name=deeplabv3plus_resnet50"], {"model": {"output_stride": 8}}),
        (KD, ["loss.teacher=b.pt", "loss.name=kd"], {"loss": {"teacher": "b.pt", "name": "kd", "terms": []}}),
        (KD, ["loss.weights=[3]", "loss.terms=[{name: kd}]"], {"loss": {"weights": [3.0], "teacher": "a.pt"}}),
        (KD, ["loss.smooth=0.5", "loss.name=dice"], {"loss": {"smooth": 0.5, "teacher": None, "weights": []}}),
        ("optim: {nesterov: true}", ["optim.lr=0.1", "optim={name: sgd}"], {"optim": {"lr": 0.1, "nesterov": False}}),
    ],
)
def test_the_order_of_set_does_not_matter(text, sets, expected):
    one, other = config(text, *sets), config(text, *reversed(sets))
    assert one == other
    for section, values in expected.items():
        assert to_dict(one)[section] | values == to_dict(one)[section]


def test_of_one_key_set_twice_the_last_counts_and_rivals_are_refused():
    assert config("", "optim.lr=1", "optim.lr=2").optim.lr == 2
    for sets in (["loss.name=dice", "loss.terms=[{name: dice}]"], ["loss.terms=[{name: dice}]", "loss.name=dice"]):
        with pytest.raises(UserError, match="loss.name and loss.terms are both set"):
            config("", *sets)


def test_the_order_of_a_stages_keys_does_not_matter():
    cfg = config(f"{KD}\ncv: {{stages: [{{loss.weights: [3], loss.terms: [{{name: kd}}]}}]}}")
    assert stage_config(cfg, 0).loss.weights == [3.0]


def test_stages_change_what_they_name_and_nothing_else():
    text = """
optim: {lr: 1e-3}
loss: {terms: [{name: cross_entropy, weight: 0.6}, {name: dice, weight: 0.4}]}
cv:
  folds: 3
  start_epochs: 7
  start_overrides: {loss.terms: [{name: cross_entropy}]}
  stages: [{epochs: 2}, {train.epochs: 3, lr: 1e-4, augment: none, loss.weights: [0.5, 0.5]}]
"""
    cfg = config(text)
    first, second, start = stage_config(cfg, 0), stage_config(cfg, 1), start_config(cfg)
    assert (first.train.epochs, first.optim.lr, first.data.augment) == (2, 1e-3, "standard")
    assert (second.train.epochs, second.optim.lr, second.data.augment) == (3, 1e-4, "none")
    assert second.loss.weights == [0.5, 0.5] and first.loss.weights == []
    assert start.train.epochs == 7 and [t["name"] for t in start.loss.terms] == ["cross_entropy"]
    assert cfg.train.epochs == Config().train.epochs  # the run's own config is untouched


def test_written_config_reads_back_equal():
    cfg = config("optim: {lr: 3e-5}\nmodel: {name: unet}\ndata: {label_map: {255: 1}}", "cv.folds=4")
    assert config_from(parse_yaml(dump(cfg), "dump")) == cfg
    assert differences(cfg, config_from(to_dict(cfg), ["optim.lr=1e-4"])) == ["optim.lr: 3e-05 -> 0.0001"]


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_config_builds(path):
    cfg = load_config(path)
    import torch

    classes = len(cfg.data.labels) if isinstance(cfg.data.labels, dict) else 19
    with torch.device("meta"):  # shapes only: no memory, no time
        build_model(cfg.model.name, classes, **cfg.model.options)
    for c in [cfg, start_config(cfg), *[stage_config(cfg, i) for i in range(len(cfg.cv.stages))]]:
        for spec in placeholder_specs(c.loss, classes):
            build_loss(spec, classes)
    header = path.read_text().split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in header[:3])  # the lab record
    assert f"configs/{path.relative_to(ROOT / 'configs')}" in "\n".join(header) or "command" in "\n".join(header)


def test_every_key_is_read_somewhere():
    """A key nobody reads is a promise nobody keeps: each field's name must occur as an attribute in the code."""
    attributes = set()
    for path in [
        *ROOT.glob("*.py"),
        *[p for room in ("engine", "data", "models", "losses") for p in (ROOT / room).rglob("*.py")],
    ]:
        tree = ast.parse(path.read_text())
        calls = [
            n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "get" and n.args
        ]
        attributes |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        attributes |= {getattr(call.args[0], "value", None) for call in calls}  # the report reads config.yaml as a dict
    for section in SECTIONS:
        for field in dataclasses.fields(getattr(Config(), section)):
            assert field.name in attributes, f"{section}.{field.name} is read by nothing"
