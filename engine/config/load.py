"""Reading, checking, changing and writing a config (its keys: engine/config/keys.py).

Values are converted by the type of their key (coerce.py). Unknown keys and wrong types are errors that name the
nearest valid key.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError, unknown
from engine.config.check import check
from engine.config.coerce import coerce, parse_override, parse_yaml
from engine.config.keys import SECTIONS, Config, LossConfig, ModelConfig
from engine.config.options import type_loss, type_model


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
    raw = _with_items(raw, [parse_override(item) for item in overrides], where)
    cfg = Config()
    for key, value in raw.items():
        if key not in _fields(Config):
            raise _unknown_key(key, where)
        if key in SECTIONS:
            setattr(cfg, key, _section(key, value, where))
        else:
            setattr(cfg, key, coerce(value, typing.get_type_hints(Config)[key], f"{where}: {key}"))
    check(cfg, where)
    for i in range(len(cfg.cv.stages)):
        stage_config(cfg, i, where)
    if cfg.cv.start_overrides:
        start_config(cfg)
    type_model(cfg.model, where)
    type_loss(cfg.loss, where)
    return cfg


# A new value of one of these replaces what the file says about its rivals, so that `--set model.name=unet` does not
# fail on another model's options and `--set loss.name=dice` counts although the file has loss.terms.
KEEPS = {  # key: the keys of its section that outlive it
    "model.name": set(ModelConfig.__dataclass_fields__) - {"options"},
    "loss.name": {"aux_weight", "aux"},
    "loss.terms": set(LossConfig.__dataclass_fields__) - {"weights"},
}


def _with_items(raw: dict, items: list[tuple[str, Any]], where: str) -> dict:
    """A copy of `raw` with `section.key` or `key` set to new values. The order of different keys does not matter:
    whole sections and the keys in KEEPS are set first, so that they remove nothing that another item sets."""
    raw, keys = copy.deepcopy(raw), [key for key, _ in items]
    if {"loss.name", "loss.terms"} <= set(keys):
        raise UserError(f"{where}: loss.name and loss.terms are both set: give one of them")
    first = {key: i for i, key in enumerate([*SECTIONS, *KEEPS])}
    for key, value in sorted(items, key=lambda item: first.get(item[0], len(first))):
        section, _, leaf = key.partition(".")
        if "." in leaf:
            raise UserError(f"--set {key}: keys have at most two levels, e.g. optim.lr=1e-3")
        if not leaf:
            raw[key] = value
            continue
        node = raw.get(section) or {}
        if not isinstance(node, dict):
            raise UserError(f"{where}: {section} must be a section of keys and values")
        raw[section] = {k: v for k, v in node.items() if key not in KEEPS or k in KEEPS[key]} | {leaf: value}
    return raw


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


MAY_DIFFER_BY_STAGE = ("loss", "optim", "schedule", "train")  # and data.augment; not the model, data or scoring


def with_overrides(cfg: Config, changes: dict, where: str) -> Config:
    """A copy of cfg with some keys changed: `train.epochs`, or just `epochs` where only one section has the key."""
    raw = to_dict(cfg)
    raw["cv"]["stages"], raw["cv"]["start_overrides"] = [], {}  # they describe the run as a whole
    out = config_from(_with_items(raw, [(_full_key(k, where), v) for k, v in changes.items()], where), where=where)
    out.cv.stages, out.cv.start_overrides = cfg.cv.stages, cfg.cv.start_overrides
    return out


def _full_key(key: str, where: str) -> str:
    """`epochs` -> `train.epochs`. Raises: UserError if several sections have the key, or if no stage may change it."""
    if "." not in key:
        owners = [s for s in SECTIONS if key in _fields(Config.__dataclass_fields__[s].default_factory)]
        if len(owners) != 1:
            hint = f"write one of {', '.join(f'{o}.{key}' for o in owners)}" if owners else "write section.key"
            raise UserError(f"{where}: '{key}' is not clear: {hint}")
        key = f"{owners[0]}.{key}"
    if key.partition(".")[0] not in MAY_DIFFER_BY_STAGE and key != "data.augment":
        raise UserError(f"{where}: {key} cannot change between stages")
    return key


def stage_config(cfg: Config, stage: int, where: str = "config") -> Config:
    """The config of stage `stage` (0-based); a run without cv.stages has one stage, the config itself."""
    return with_overrides(cfg, cfg.cv.stages[stage], f"{where}: cv.stages[{stage}]") if cfg.cv.stages else cfg


def start_config(cfg: Config) -> Config:
    """The config of the starting run that all members of a cross-validation share."""
    out = with_overrides(cfg, cfg.cv.start_overrides, "cv.start_overrides")
    if cfg.cv.start_epochs:
        out.train.epochs = cfg.cv.start_epochs
    return out


def to_dict(cfg: Config) -> dict:
    """Plain nested dicts, as in the YAML file: options are keys of their section."""
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
    """YAML text that `load_config` reads back as the same Config."""
    return yaml.safe_dump(to_dict(cfg), sort_keys=False, default_flow_style=None, width=110)


def differences(a: Config, b: Config, but: typing.Collection[str] = ()) -> list[str]:
    """The keys in which two configs differ, as `key: old -> new`, except those in `but`."""
    flat_a, flat_b = _flat(a), _flat(b)
    keys = [k for k in {**flat_a, **flat_b} if k not in but and flat_a.get(k) != flat_b.get(k)]
    return [f"{k}: {flat_a.get(k)} -> {flat_b.get(k)}" for k in keys]


def _flat(cfg: Config) -> dict:
    flat: dict[str, Any] = {}
    for key, value in to_dict(cfg).items():
        flat |= {f"{key}.{leaf}": v for leaf, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat
