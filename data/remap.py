"""New classes from the same masks: `data.labels` maps new class names to those of the data set.

    data:
      labels: {background: rest, fence: fence, car: [car, truck], sign: traffic sign}

The order of the keys is the order of the new classes. A value is a class of the data set, a list of them, or one of

    rest     every class that no other key names (in one key only)
    void     the pixels that the data set itself ignores; left out, they stay ignored

The key `ignore` lists classes to ignore: no class is made of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from common.errors import UserError, unknown
from data.labels import Colour, LabelTable

REST, VOID, IGNORE = "rest", "void", "ignore"  # words of the mapping
BLACK = (0, 0, 0)


def remap(table: LabelTable, classes: dict[str, str | list[str]] | str, background: str = "train") -> LabelTable:
    """The label table of the new classes, for the raw values and colours of `table`.

    A new class has the colour of the first class it is made of; the class of `rest` is black unless another is.
    background "ignore": the class of `rest` stays in the list, so that the network keeps its shape and checkpoints fit,
    but its pixels are ignored.
    Raises: UserError for a name that is no class, a class named twice or not at all, fewer than two new classes.
    """
    if not isinstance(classes, dict):
        raise UserError("data.background: ignore: no class takes `rest`: it needs a mapping, data.labels: {...: rest}")
    parts = _parts(table, classes)
    names = [name for name in parts if name != IGNORE]
    rest = next((name for name in names if REST in _words(classes[name])), None)
    if background == "ignore" and rest is None:
        raise UserError("data.background: ignore: no class of data.labels takes `rest`")
    new_index = {old: names.index(name) for name in names for old in parts[name]}
    if background == "ignore":
        new_index = {old: index for old, index in new_index.items() if index != names.index(rest)}
    named = {raw: table.class_names[old] for raw, old in table.ids.items()}
    if VOID not in table.class_names:
        named |= dict.fromkeys(table.ignore, VOID)
    ids = {raw: new_index[name] for raw, name in named.items() if name in new_index}
    colours = _colours(table)
    colour_ids = {c: new_index[name] for c, name in colours.items() if name in new_index}
    return dataclasses.replace(
        table,
        name=f"{table.name}, {len(names)} classes",
        class_names=tuple(names),
        palette=_palette(table, parts, names, rest),
        ids=ids,
        ignore=tuple(sorted({*table.ids, *table.ignore} - set(ids))),
        ignore_colours=tuple(c for c in colours if c not in colour_ids),
        colour_ids=colour_ids,
    )


def _words(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _parts(table: LabelTable, classes: dict) -> dict[str, list[str]]:
    """{new class, or `ignore`: old classes and `void`}, every old class exactly once."""
    parts: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for name, value in classes.items():
        parts[name] = []
        for old in _words(value):
            if old not in (*table.class_names, REST, VOID):
                kind = f"class of '{table.name}' (data.labels: {name})"
                raise unknown(kind, old, [*table.class_names, REST, VOID])
            if old in owner:
                raise UserError(f"data.labels: '{old}' is listed under both '{owner[old]}' and '{name}'")
            owner[old] = name
            if old != REST:
                parts[name].append(old)
    left = [old for old in table.class_names if old not in owner]
    if REST in owner:
        parts[owner[REST]] += left
    elif left:
        raise UserError(
            f"data.labels does not name {', '.join(left)}: name them, or take them all with "
            f"{{background: {REST}}} or {{{IGNORE}: {REST}}}"
        )
    empty = [name for name, olds in parts.items() if not olds]
    if empty:
        raise UserError(f"data.labels: nothing is left for '{empty[0]}': all classes of '{table.name}' are named")
    if len(parts) - (IGNORE in parts) < 2:
        raise UserError(f"data.labels: at least two classes are needed, got {', '.join(parts) or 'none'}")
    return parts


def _colours(table: LabelTable) -> dict[Colour, str]:
    """{colour in a colour mask: old class or `void`}."""
    colours: dict[Colour, str] = dict.fromkeys(map(tuple, table.ignore_colours), VOID)
    return colours | {tuple(c): name for c, name in zip(table.palette.tolist(), table.class_names)}


def _palette(table: LabelTable, parts: dict[str, list[str]], names: list[str], rest: str | None) -> np.ndarray:
    first = {name: next((old for old in parts[name] if old != VOID), None) for name in names}
    of = {old: tuple(c) for old, c in zip(table.class_names, table.palette.tolist())}
    palette = {name: BLACK if old is None else of[old] for name, old in first.items()}
    if rest is not None and BLACK not in [c for name, c in palette.items() if name != rest]:
        palette[rest] = BLACK
    return np.array([palette[name] for name in names], np.uint8)
