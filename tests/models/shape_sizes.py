"""Sizes as shape comments write them: `H / 2^(i+2)`, `4 C`, `64 or 128`, read, evaluated, and compared with numbers.

tests/models/shape_comments.py says what they may hold and what their names mean.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

TOKEN = re.compile(r"\s*(\d+|[A-Za-z_][\w.]*(?:\[\w+\])?|[-+*/^()])")


class Unreadable(Exception):
    """Not a size."""


def parse(text: str) -> tuple:
    """'H / 2^(i+2)' -> ('/', 'H', ('^', 2, ('+', 'i', 2)))."""
    tokens, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        if not match:
            raise Unreadable(text)
        tokens.append(match[1])
        at = match.end()
    tree = _sum(tokens)
    if tokens:
        raise Unreadable(text)
    return tree


def _sum(tokens: list[str]) -> object:
    left = _term(tokens)
    while tokens and tokens[0] in "+-":
        left = (tokens.pop(0), left, _term(tokens))
    return left


def _term(tokens: list[str]) -> object:
    left = _power(tokens)
    while tokens and tokens[0] not in "+-)":  # a factor without an operator is a product
        left = (tokens.pop(0) if tokens[0] in "*/" else "*", left, _power(tokens))
    return left


def _power(tokens: list[str]) -> object:
    base = _atom(tokens)
    if tokens and tokens[0] == "^":
        tokens.pop(0)
        return ("^", base, _atom(tokens))
    return base


def _atom(tokens: list[str]) -> object:
    if not tokens or tokens[0] in "+-*/^)":
        raise Unreadable(tokens)
    token = tokens.pop(0)
    if token == "(" or (token == "ceil" and tokens and tokens.pop(0) == "("):
        inner = _sum(tokens)
        if not tokens or tokens.pop(0) != ")":
            raise Unreadable(token)
        return inner if token == "(" else ("ceil", inner)
    return int(token) if token.isdigit() else token


def names_in(tree: object) -> set[str]:
    if isinstance(tree, tuple):
        return set().union(*[names_in(t) for t in tree[1:]])
    return {tree} if isinstance(tree, str) else set()


def evaluate(tree: object, names: dict) -> Fraction:
    if not isinstance(tree, tuple):
        return Fraction(names[tree] if isinstance(tree, str) else tree)
    values = [evaluate(t, names) for t in tree[1:]]
    if tree[0] == "ceil":
        return Fraction(math.ceil(values[0]))
    a, b = values
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b, "^": lambda: a**b}[
        tree[0]
    ]()


def solve(tree: object, name: str, names: dict, size: int) -> Fraction | None:
    """The value of `name` with which the tree is `size`: it may stand in a product or sum, or below a fraction bar."""
    one, two = (evaluate(tree, names | {name: n}) for n in (1, 2))
    guesses = [Fraction(size - one, two - one) + 1] if two != one else []
    if size:
        guesses += [one / size, Fraction(math.isqrt(int(one / size)))]  # c / n, c / n^2
    for guess in guesses:
        if guess > 0 and evaluate(tree, names | {name: guess}) == size:
            return guess
    return None


def match(sizes: list[str], shape: tuple[int, ...], names: dict, variables: dict) -> bool:
    """Compare size by size, left to right; names that were unknown get their values in `names`."""
    sizes = list(sizes)
    for k, size in enumerate(sizes):
        if size.startswith("*"):
            sizes[k : k + 1] = [str(int(n)) for n in variables.get(size[1:], ())]
    if sizes[-1] == "..":
        sizes, shape = sizes[:-1], shape[: len(sizes) - 1]
    if len(sizes) != len(shape):
        return False
    return all(".." in text or any(_equal(o, n, names) for o in text.split(" or ")) for text, n in zip(sizes, shape))


def _equal(text: str, size: int, names: dict) -> bool:
    tree = parse(text)
    unknown = names_in(tree) - names.keys()
    if len(unknown) > 1:
        return True  # a sum or product of two names never seen: says nothing that could be wrong
    if unknown:
        value = solve(tree, name := unknown.pop(), names, size)
        if value is not None:
            names[name] = value
        return value is not None
    value = evaluate(tree, names)
    return size in (math.floor(value), math.ceil(value))
