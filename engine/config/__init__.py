"""Configs: keys.py lists every key with its default, load.py reads, changes and writes them, check.py checks them."""

from __future__ import annotations

from engine.config.check import check
from engine.config.keys import SECTIONS, Config
from engine.config.load import config_from, differences, dump, load_config, stage_config, start_config, to_dict
from engine.config.options import loss_spec

__all__ = ["SECTIONS", "Config", "check", "config_from", "differences", "dump", "load_config", "loss_spec"]
__all__ += ["stage_config", "start_config", "to_dict"]
