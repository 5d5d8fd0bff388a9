"""Read YAML with every scalar as text, then convert the text to the declared type.

YAML 1.1 reads `3e-5` as text and `off`, `on`, `no` as booleans. Here the field's type decides.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from typing import Any, Literal

import yaml

from common.errors import UserError, unknown


def parse_override(item: str) -> tuple[str, Any]:
    """'optim.lr=3e-5' -> ('optim.lr', '3e-5'); the value may be any YAML, e.g. a list."""
    key, eq, text = item.partition("=")
    if not eq or not key:
        raise UserError(f"--set {item}: expected section.key=value, e.g. optim.lr=1e-3")
    return key.strip(), parse_yaml(text, f"--set {key}") if text.strip() else ""


class _TextLoader(yaml.BaseLoader):
    """Every scalar stays text, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key '{key_node.value}' given twice", problem_mark=key_node.start_mark
                )
            if isinstance(key_node.value, str):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """YAML to dicts, lists and text. Raises: UserError for tags (`!!python/object`) and bad syntax, with the line."""
    try:
        for token in yaml.scan(text, Loader=yaml.BaseLoader):
            if isinstance(token, yaml.TagToken):
                tag = "".join(p for p in token.value if p)
                raise UserError(
                    f"{where}: line {token.start_mark.line + 1}: tag '{tag}' is not allowed, write a plain value"
                )
        return yaml.load(text, Loader=_TextLoader)
    except yaml.MarkedYAMLError as e:
        place = f"line {e.problem_mark.line + 1}: " if e.problem_mark else ""
        raise UserError(f"{where}: not valid YAML: {place}{e.problem or e.context}") from None
    except yaml.YAMLError as e:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(e).split())}") from None


TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
NONE = {"null", "none", "~", ""}


def coerce(value: Any, kind: Any, where: str) -> Any:
    """`value` (text or plain) as type `kind` (int, float, bool, str, Literal, tuple, list, dict, `| None`)."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and (value is None or (isinstance(value, str) and value.lower() in NONE)):
            return None
        for arm in [a for a in args if a is not type(None)]:
            try:
                return coerce(value, arm, where)
            except UserError as e:
                error = e
        raise error
    if origin is Literal:
        for choice in args:
            if str(value).lower() == str(choice).lower():
                return choice
        raise UserError(f"{where}: {unknown('value', value, args)}")
    if kind is Any or kind is inspect.Parameter.empty:
        return guess(value)
    if origin in (list, tuple) or kind in (list, tuple):
        return _coerce_sequence(value, origin or kind, args, where)
    if origin is dict or kind is dict:
        if value is None or value == "":
            return {}
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected a mapping {{key: value}}, got {value!r}")
        key_kind, value_kind = args or (str, Any)
        return {coerce(k, key_kind, f"{where} key"): coerce(v, value_kind, f"{where}.{k}") for k, v in value.items()}
    return _coerce_scalar(value, kind, where)


def _coerce_sequence(value: Any, origin: type, args: tuple, where: str) -> Any:
    if isinstance(value, str):  # --set data.size="128 256" or 128,256
        value = value.strip("[]() ").replace(",", " ").split()
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: expected a list, got {value!r}")
    fixed = origin is tuple and args and args[-1] is not Ellipsis
    if fixed and len(value) != len(args):
        raise UserError(f"{where}: expected {len(args)} values, got {len(value)}: {list(value)}")
    kinds = args if fixed else [args[0] if args else Any] * len(value)
    return origin(coerce(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds)))


def _coerce_scalar(value: Any, kind: type, where: str) -> Any:
    expected = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}[kind]
    text = str(value).strip()
    if not isinstance(value, dict | list | tuple) and value is not None:
        if kind is str:
            return text
        if kind is bool and text.lower() in TRUE | FALSE:
            return text.lower() in TRUE
        try:
            if kind is int:
                return int(text.replace("_", ""))
            if kind is float and math.isfinite(float(text)):
                return float(text)
        except ValueError:
            pass
    raise UserError(f"{where}: expected {expected}, got {value!r}")


def guess(value: Any) -> Any:
    """Convert text without a declared type to a number, boolean or None if it reads so, also in lists and dicts."""
    if isinstance(value, dict):
        return {k: guess(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [guess(v) for v in value]
    if not isinstance(value, str):
        return value
    if value.lower() in ("null", "~", ""):
        return None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value)
    except ValueError:
        try:
            return float(value)
        except ValueError:
            return value


def coerce_options(raw: dict, parameters: dict[str, inspect.Parameter], where: str) -> dict:
    """Convert options by the signature of the function that receives them. Raises: UserError for unknown ones."""
    for key in raw:
        if key not in parameters:
            raise UserError(f"{where}: {unknown('option', key, parameters)}")
    return {k: coerce(v, parameters[k].annotation, f"{where}.{k}") for k, v in raw.items()}
