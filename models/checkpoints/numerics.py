"""Which options of a network decide its logits."""

from __future__ import annotations

from typing import Any

NOT_NUMERICS = {"form", "encoder", "aux", "aux_channels", "bn_momentum", "drop_path_rate"}  # they change no logits
CHOSEN_BY_HEAD = {"stem", "stages"}  # which maps of the encoder a head uses


def plain(value: Any) -> str:
    """An option's value as in a config: lists, true and false."""
    if isinstance(value, tuple):
        return str(list(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
