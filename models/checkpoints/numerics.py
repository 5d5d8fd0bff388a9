"""Which options of a network decide its logits."""

from __future__ import annotations

from typing import Any

# Options that change neither parameters nor logits, or that each head chooses for itself (which maps it is handed)
NOT_NUMERICS = {"form", "encoder", "aux", "aux_channels", "bn_momentum", "drop_path_rate"}


CHOSEN_BY_HEAD = {"stem", "stages"}


def plain(value: Any) -> str:
    return (
        str(list(value)) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else str(value)
    )
