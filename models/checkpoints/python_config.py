"""The config that mmseg and mmcv write into a checkpoint as Python text, read as data: nothing in it is run.

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(type='EncoderDecoder', backbone=dict(norm_cfg=norm_cfg, strides=(1, 2, 1, 1)), ...)
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from typing import Any

LONGEST = 1_000_000  # characters; configs have some ten thousand
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def config_of(meta: dict[str, Any]) -> dict[str, Any]:
    """The config in a file's `meta`: mmengine's key is cfg, mmcv's is config. Empty: there is none, or none to read."""
    inside = meta.get("meta")
    for key in ("cfg", "config"):
        value = inside.get(key) if isinstance(inside, dict) else None
        if isinstance(value, dict):
            return value
        if isinstance(value, str):
            return parse_config(value)
    return {}


def parse_config(text: str) -> dict[str, Any]:
    """The assignments of a Python config: numbers, strings, lists, dicts, dict(..) and names assigned before.

    Any other expression is None.
    """
    known: dict[str, Any] = {}
    if len(text) > LONGEST:
        return known
    try:
        with warnings.catch_warnings():  # of escapes in its strings
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        for node in tree.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                known[node.targets[0].id] = _value(node.value, known)
    except UNREADABLE:
        return {}
    return known


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element, known) for element in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, known)
        return -value if isinstance(value, int | float) else None
    if isinstance(node, ast.Dict):
        pairs = [(key, value) for key, value in zip(node.keys, node.values) if isinstance(key, ast.Constant)]
        return {key.value: _value(value, known) for key, value in pairs}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        out: dict[str, Any] = {}
        for word in node.keywords:  # dict(**norm, type='Normalize'): a keyword without a name is a dict
            value = _value(word.value, known)
            out |= {word.arg: value} if word.arg else value if isinstance(value, dict) else {}
        return out
    return None


def dicts_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict inside a value, each object once: names let a short text share one value many times."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            yield value
        waiting += reversed(list(value.values() if isinstance(value, dict) else value))
