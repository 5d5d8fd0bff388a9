"""Configs: keys.py lists every key with its default; load.py reads, checks and writes files; coerce.py types values."""

from __future__ import annotations

from engine.config.check import check
from engine.config.keys import SECTIONS, Config
from engine.config.load import (
    config_from,
    differences,
    dump,
    load_config,
    loss_spec,
    stage_config,
    start_config,
    to_dict,
)

__all__ = [
    "SECTIONS",
    "Config",
    "check",
    "config_from",
    "differences",
    "dump",
    "load_config",
    "loss_spec",
    "stage_config",
    "start_config",
    "to_dict",
]
