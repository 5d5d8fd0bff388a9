"""Reading, checking, changing and writing a config (its keys: engine/config/keys.py).

A YAML file is read with every scalar as text and then coerced by the field's type, so that `3e-5` (text in YAML 1.1)
is a float, and `off`, `on`, `no` are words wherever a word is expected. Unknown keys and wrong types are refused with
the nearest valid key.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, unknown
from engine.config.coerce import NONE, coerce, coerce_options, parse_override, parse_yaml
from engine.config.keys import RANGES, SECTIONS, Config, LossConfig, ModelConfig


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides, coerce by type, check. Raises UserError, one line."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"config not found: {path}")
    return config_from(parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path)), overrides, str(path))


def config_from(raw: dict, overrides: typing.Sequence[str] = (), where: str = "config") -> Config:
    """Config from nested dicts of text or plain values (as `parse_yaml` or `to_dict` give them)."""
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected keys and values at the top level, got {type(raw).__name__}")
    raw = copy.deepcopy(raw)
    for item in overrides:
        key, value = parse_override(item)
        parts = key.split(".")
        if len(parts) > 2:
            raise UserError(f"--set {item}: keys have at most two levels, e.g. optim.lr=1e-3")
        node = raw
        _forget_rivals(raw, key)
        if len(parts) == 2:
            node = raw.setdefault(parts[0], {})
            if not isinstance(node, dict):
                raise UserError(f"{where}: {parts[0]} must be a section of keys and values")
        node[parts[-1]] = value
    cfg = Config()
    for key, value in raw.items():
        if key not in _fields(Config):
            raise _unknown_key(key, where)
        if key in SECTIONS:
            setattr(cfg, key, _section(key, value, where))
        else:
            setattr(cfg, key, coerce(value, typing.get_type_hints(Config)[key], f"{where}: {key}"))
    check(cfg, where)
    _resolve_options(cfg, where)
    return cfg


def _resolve_options(cfg: Config, where: str) -> None:
    """Type the options of model and loss by the code that receives them (imported here: configs need no torch)."""
    from models import model_options

    given = cfg.model.options
    valid = model_options(cfg.model.name, encoder=given.get("encoder"))
    cfg.model.options = coerce_options(given, valid, f"{where}: model")
    _resolve_loss(cfg.loss, where)


def _resolve_loss(loss: LossConfig, where: str) -> None:
    from losses import LOSSES, distils, loss_options

    if loss.terms:
        loss.terms = [_typed_term(term, f"{where}: loss.terms[{i}]") for i, term in enumerate(loss.terms)]
    else:
        loss.options = _loss_options(loss.options, loss_options(loss.name), f"{where}: loss")
    if loss.weights and len(loss.weights) != len(loss.terms):
        raise UserError(f"{where}: loss.weights has {len(loss.weights)} values for {len(loss.terms)} loss.terms")
    if "terms" in loss.aux:
        loss.aux = {"terms": [_typed_term(t, f"{where}: loss.aux.terms[{i}]") for i, t in enumerate(loss.aux["terms"])]}
    elif loss.aux:
        loss.aux = _typed_term(loss.aux, f"{where}: loss.aux", weighted=False)
    if loss.options.get("reduction") == "none" or loss.aux.get("reduction") == "none":
        raise UserError(f"{where}: loss: training needs one value, not reduction: none")
    learns = any(distils(LOSSES[name]) for name in [t["name"] for t in loss.terms] or [loss.name])
    if learns != bool(loss.teacher):
        need = "cwd and kd need loss.teacher, a checkpoint" if learns else "loss.teacher is used by no cwd or kd"
        raise UserError(f"{where}: {need}")


def _typed_term(term: Any, at: str, weighted: bool = True) -> dict:
    """{name, weight, options}, each as its type; a weight may be a pair [first, last]."""
    from losses import loss_options

    if not isinstance(term, dict) or "name" not in term:
        raise UserError(f"{at}: expected {{name: ..., {'weight: ..., ' * weighted}options}}, got {term!r}")
    options = {k: v for k, v in term.items() if k != "name" and not (weighted and k == "weight")}
    out = {"name": str(term["name"])}
    if weighted:
        out["weight"] = coerce(term.get("weight", 1.0), tuple[float, float] | float, f"{at}.weight")
    return out | _loss_options(options, loss_options(out["name"]), at)


def _loss_options(given: dict, valid: dict, where: str) -> dict:
    """As `coerce_options`; `class_weights` may also be a rule by which they are computed (data/class_weights.py)."""
    from data.class_weights import is_rule, rule_options

    rule, at = given.get("class_weights"), f"{where}.class_weights"
    if "class_weights" not in valid or not is_rule(rule) or str(rule).lower() in NONE:
        return coerce_options(given, valid, where)
    options = dict(rule) if isinstance(rule, dict) else {"rule": rule}
    if "rule" not in options:
        raise UserError(f"{at}: expected numbers, the name of a rule, or {{rule: ..., options}}, got {rule!r}")
    name = str(options.pop("rule"))
    options = coerce_options(options, rule_options(name), at)
    others = coerce_options({k: v for k, v in given.items() if k != "class_weights"}, valid, where)
    return {**others, "class_weights": {"rule": name, **options} if options else name}


def _forget_rivals(raw: dict, key: str) -> None:
    """`--set model.name=unet` must not fail on another model's options, nor `loss.name` lose against `loss.terms`."""
    section, _, leaf = key.partition(".")
    node = raw.get(section)
    if leaf == "name" and isinstance(node, dict):
        if section == "model":
            keep = _fields(ModelConfig)
            raw[section] = {k: v for k, v in node.items() if k in keep and k != "options"}
        if section == "loss":
            raw[section] = {k: v for k, v in node.items() if k in ("aux_weight", "aux")}
    if key == "loss.terms" and isinstance(node, dict):
        node.pop("weights", None)


def _fields(cls: type) -> dict[str, dataclasses.Field]:
    return {f.name: f for f in dataclasses.fields(cls)}


def _section(name: str, raw: Any, where: str) -> Any:
    cls = Config.__dataclass_fields__[name].default_factory
    if raw is None or raw == "":
        return cls()
    if not isinstance(raw, dict):
        raise UserError(f"{where}: {name} must be a section of keys and values, got {raw!r}")
    hints, section, options = typing.get_type_hints(cls), cls(), {}
    for key, value in raw.items():
        if key == "options" and "options" in hints:
            options.update(value or {})
        elif key in hints:
            setattr(section, key, coerce(value, hints[key], f"{where}: {name}.{key}"))
        elif "options" in hints:
            options[key] = value
        else:
            raise _unknown_key(f"{name}.{key}", where)
    if "options" in hints:
        section.options = options
    return section


def _unknown_key(key: str, where: str) -> UserError:
    section = key.partition(".")[0]
    if "." in key and section not in SECTIONS:
        return UserError(f"{where}: {unknown('section', section, SECTIONS)}")
    if "." in key:
        cls = Config.__dataclass_fields__[section].default_factory
        return UserError(f"{where}: {unknown('key', key, [f'{section}.{f}' for f in _fields(cls)])}")
    return UserError(f"{where}: {unknown('key', key, _fields(Config))}")


def check(cfg: Config, where: str = "config") -> None:
    """Ranges and combinations that types cannot express. Names of models, losses and data sets are checked as built."""
    for key, (low, high) in RANGES.items():
        section, leaf = key.split(".")
        value = getattr(getattr(cfg, section), leaf)
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            bound = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"{where}: {key} must be {bound}, got {value}")
    if min(cfg.data.size) < 64:
        raise UserError(f"{where}: data.size must be at least 64x64, got {list(cfg.data.size)}")
    if cfg.data.sample and (len(cfg.data.sample) != 3 or cfg.data.sample[0] < 1 or min(cfg.data.sample) < 0):
        raise UserError(
            f"{where}: data.sample must be [train, val, test] in images, train at least 1 and 0 for the data set's own "
            f"val or test, got {cfg.data.sample}"
        )
    if cfg.data.crop is not None and min(cfg.data.crop) < 64:
        raise UserError(f"{where}: data.crop must be at least 64x64, got {list(cfg.data.crop)}")
    if not cfg.eval.scales or min(cfg.eval.scales) <= 0:
        raise UserError(f"{where}: eval.scales must be positive numbers, got {cfg.eval.scales}")
    if len(cfg.eval.window) not in (0, 2) or min(cfg.eval.window, default=64) < 64:
        raise UserError(f"{where}: eval.window must be [H, W] of at least 64, or [], got {cfg.eval.window}")
    step, most = cfg.eval.stride, cfg.eval.window or [0, 0]
    if step and (len(step) != 2 or not all(1 <= s <= w for s, w in zip(step, most))):
        raise UserError(
            f"{where}: eval.stride must be [] or [H, W] of 1 to eval.window ({cfg.eval.window}), got {step}"
        )
    if cfg.cv.folds == 1:
        raise UserError(f"{where}: cv.folds must be 0 (a single run) or at least 2, got 1")
    if cfg.cv.start == "pretrained" and not cfg.model.pretrained:
        raise UserError(f"{where}: cv.start=pretrained needs model.pretrained, a checkpoint to start from")
    if cfg.model.reuse_classes and not cfg.model.pretrained:
        raise UserError(f"{where}: model.reuse_classes needs model.pretrained, a file to take them from")
    if cfg.model.take == "encoder" and cfg.model.reuse_classes:
        raise UserError(f"{where}: model.take=encoder leaves no classifier for model.reuse_classes")
    if cfg.cv.start_share + cfg.cv.select_share >= 0.95:
        raise UserError(f"{where}: cv.start_share + cv.select_share leave nothing for the folds")
    for i in range(len(cfg.cv.stages)):
        stage_config(cfg, i, where)
    if cfg.cv.start_overrides:
        start_config(cfg)


MAY_DIFFER_BY_STAGE = (
    "loss",
    "optim",
    "schedule",
    "train",
)  # and data.augment: not what is trained or how it is scored


def with_overrides(cfg: Config, changes: dict, where: str) -> Config:
    """A copy of cfg with some keys changed: `train.epochs`, or just `epochs` where only one section has the key."""
    raw = to_dict(cfg)
    raw["cv"]["stages"], raw["cv"]["start_overrides"] = [], {}  # they describe the run as a whole
    for key, value in changes.items():
        if "." not in key:
            owners = [s for s in SECTIONS if key in _fields(Config.__dataclass_fields__[s].default_factory)]
            if len(owners) != 1:
                hint = f"write one of {', '.join(f'{o}.{key}' for o in owners)}" if owners else "write section.key"
                raise UserError(f"{where}: '{key}' is not clear: {hint}")
            key = f"{owners[0]}.{key}"
        section, leaf = key.split(".", 1)
        if section not in MAY_DIFFER_BY_STAGE and key != "data.augment":
            raise UserError(f"{where}: {key} cannot change between stages")
        _forget_rivals(raw, key)
        raw[section][leaf] = value
    out = config_from(raw, where=where)
    out.cv.stages, out.cv.start_overrides = cfg.cv.stages, cfg.cv.start_overrides
    return out


def stage_config(cfg: Config, stage: int, where: str = "config") -> Config:
    """The config of stage `stage` (0-based); a run without cv.stages has one stage, the config itself."""
    return with_overrides(cfg, cfg.cv.stages[stage], f"{where}: cv.stages[{stage}]") if cfg.cv.stages else cfg


def start_config(cfg: Config) -> Config:
    """The config of the starting run that all members of a cross-validation share."""
    out = with_overrides(cfg, cfg.cv.start_overrides, "cv.start_overrides")
    if cfg.cv.start_epochs:
        out.train.epochs = cfg.cv.start_epochs
    return out


def loss_spec(loss: LossConfig) -> dict:
    """What `losses.build_loss` takes, from the section `loss`."""
    if not loss.terms:
        return {"name": loss.name, **loss.options}
    return {"terms": loss.terms, **({"weights": loss.weights} if loss.weights else {})}


def to_dict(cfg: Config) -> dict:
    """Plain nested dicts, as written in YAML: options stand beside the fields of their section."""
    raw = dataclasses.asdict(cfg)
    for section in raw.values():
        if isinstance(section, dict):
            section.update(section.pop("options", {}))
    return _plain(raw)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def dump(cfg: Config) -> str:
    """YAML text that `load_config` reads back to the same Config."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False, default_flow_style=None, width=110)


def differences(a: Config, b: Config, but: typing.Collection[str] = ()) -> list[str]:
    """Keys in which two configs differ, as `key: old -> new` (keys in `but` may differ)."""
    flat_a, flat_b = _flat(a), _flat(b)
    keys = [k for k in {**flat_a, **flat_b} if k not in but and flat_a.get(k) != flat_b.get(k)]
    return [f"{k}: {flat_a.get(k)} -> {flat_b.get(k)}" for k in keys]


def _flat(cfg: Config) -> dict:
    flat: dict[str, Any] = {}
    for key, value in to_dict(cfg).items():
        flat |= {f"{key}.{leaf}": v for leaf, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat
