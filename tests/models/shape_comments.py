"""Shape comments as claims: found in the source, parsed, and compared with the values of a real run.

Which comments. The trailing comment of an assignment, a `return` or `xs.append(..)` inside a function, if it holds a
shape: a parenthesis with commas, `(B, C, H/4, W/4)`, or one size alone at its start, `# (n D)`. After an arrow the last
shape counts (`(B, n out, h, w) -> (B, out, h, w)`), else the first. `each` says that it holds for every one of several
values; as many shapes as targets are taken one by one; `back to (..)` in a loop holds after its last turn.

Which sizes. Numbers, names, + - * / ^ and parentheses, ceil(), a product by mere juxtaposition (`4 C`, `B windows`),
`a or b`, `*size` for a sequence, `..` for what is not checked: in a size (a range), or as the last one (any further).
Quotients may be rounded up or down.

What names mean. First a whole number of that name among the function's variables; `H`, `W`, `B` are those of `images`
where there is such a variable; `channels` and `stride` are those of one stage, `self.channels[i]` and
`self.strides[i]`, and `i` is some index, the same within a comment. Any other name (`out`, `base`, `hidden`) takes
the value that its first use demands, and must keep it as long as the function runs; names ending in _i are free.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from tests.models.shape_sizes import Unreadable, match, parse

LAYERS = ("channels", "stride")  # per stage, from the lists of the module


# --- comments ---------------------------------------------------------------------------------------------------------


@dataclass
class Claim:
    """A statement with a shape comment."""

    path: Path
    line: int
    comment: str
    node: ast.stmt
    shapes: list[list[str]]
    checked: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}: # {self.comment}"


def split(text: str) -> list[str]:
    """At commas outside parentheses."""
    parts, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts]


def shapes_in(comment: str) -> list[list[str]]:
    """The shapes of a comment, in order; behind the last arrow where there is one."""
    found, at = [], 0
    while (start := comment.find("(", at)) >= 0:
        depth, end = 1, start
        while depth and end + 1 < len(comment):
            end += 1
            depth += (comment[end] == "(") - (comment[end] == ")")
        if not re.match(r"[\w\]]", comment[start - 1 : start] or " "):  # else the call of a function
            sizes = split(comment[start + 1 : end])
            if is_shape(sizes) and (len(sizes) > 1 or start == 0):
                found.append((start, sizes))
        at = end + 1
    arrow = comment.rfind("->")
    return [sizes for start, sizes in found if start > arrow]


def is_shape(sizes: list[str]) -> bool:
    try:
        for size in sizes:
            for option in size.split(" or "):
                if ".." not in option and not option.startswith("*"):
                    parse(option)
    except Unreadable:
        return False
    return all(sizes)


def claims_in(path: Path) -> list[Claim]:
    """Statements inside functions whose last line ends in a shape comment."""
    source = path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    claims = []
    for function in ast.walk(ast.parse(source)):
        for node in ast.walk(function) if isinstance(function, ast.FunctionDef) else []:
            if target_of(node) is not None and (comment := comments.get(node.end_lineno)):
                if shapes := shapes_in(comment):
                    claims.append(Claim(path, node.end_lineno, comment, node, shapes))
    return list({c.line: c for c in claims}.values())


def target_of(node: ast.AST) -> list[str] | None:
    """Names of the variables that a statement sets; [] for a return."""
    if isinstance(node, ast.Return):
        return []
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        return [n.id for n in names] if all(isinstance(n, ast.Name) for n in names) else None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value.func
        if isinstance(call, ast.Attribute) and call.attr == "append" and isinstance(call.value, ast.Name):
            return [call.value.id]
    return None


# --- a real run -------------------------------------------------------------------------------------------------------


class Frame:
    """A running function: the claim whose statement is running, and the values of its names."""

    def __init__(self) -> None:
        self.pending: Claim | None = None
        self.names: dict[str, Fraction] = {}
        self.introduced: dict[int, set[str]] = {}  # line -> names that its comment used first
        self.at_the_end: dict[int, tuple[Claim, list[Tensor], dict]] = {}

    def check(self, claim: Claim, values: list[Tensor], variables: dict) -> None:
        if not values:
            return
        for name in self.introduced.pop(claim.line, ()):  # a further turn of a loop: they may change
            self.names.pop(name, None)
        shapes = claim.shapes if len(claim.shapes) >= len(values) > 1 else [claim.shapes[0]] * len(values)
        before = set(self.names)
        for sizes, value in zip(shapes, values):
            if not self.fits(sizes, tuple(value.shape), variables):
                known = {k: str(v) for k, v in sorted(self.names.items())}
                claim.wrong.append(f"{claim} is {tuple(value.shape)}, with {known or 'nothing'} known")
        self.introduced[claim.line] = set(self.names) - before
        claim.checked += 1

    def fits(self, sizes: list[str], shape: tuple[int, ...], variables: dict) -> bool:
        """For some index i; on success the names keep their values."""
        for i in range(8):
            names = self.known(variables, i)
            if match(sizes, shape, names, variables):
                fixed = {"i", *LAYERS} | {k for k, v in variables.items() if isinstance(v, int)}
                self.names |= {k: v for k, v in names.items() if k not in fixed and not k.endswith("_i")}
                return True
        return False

    def known(self, variables: dict, i: int) -> dict[str, Fraction]:
        names: dict = {"i": i}
        images, module = variables.get("images"), variables.get("self")
        if isinstance(images, Tensor) and images.ndim == 4:
            names |= {"B": images.shape[0], "H": images.shape[2], "W": images.shape[3]}
        for name, listed in zip(LAYERS, ("channels", "strides")):
            values = getattr(module, listed, None)
            if isinstance(values, list) and i < len(values):
                names[name] = values[i]
        names |= self.names
        return names | {k: v for k, v in variables.items() if isinstance(v, int) and not isinstance(v, bool)}


@contextmanager
def checking(claims: list[Claim]) -> Iterator[None]:
    """Check the claims in every function of their files that runs in this block."""
    lines: dict[tuple[str, int], Claim] = {}
    for claim in claims:
        for line in range(claim.node.lineno, claim.node.end_lineno + 1):
            lines[str(claim.path), line] = claim
    files = {str(claim.path) for claim in claims}

    def enter(frame, event, arg):
        if frame.f_code.co_filename not in files or frame.f_code.co_name.startswith("<"):
            return None  # not ours, or a comprehension inside a statement of ours
        state = Frame()

        def step(frame, event, arg):
            claim = lines.get((frame.f_code.co_filename, frame.f_lineno))
            if event == "line" and claim is not state.pending:
                _settle(state, frame.f_locals)
                state.pending = claim
            elif event == "return":
                _settle(state, frame.f_locals, arg)
                for claim, values, variables in state.at_the_end.values():
                    state.check(claim, values, variables)
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def _settle(state: Frame, variables: dict, returned: object = None) -> None:
    """The statement of the pending claim has run: compare its value."""
    claim, state.pending = state.pending, None
    if claim is None:
        return
    targets = target_of(claim.node)
    if isinstance(claim.node, ast.Return):
        values = [returned]
    elif isinstance(claim.node, ast.Expr):
        values = [variables[targets[0]][-1]]
    else:
        values = [variables.get(name) for name in targets]
    each = re.search(r"\beach\b", claim.comment)
    if len(values) > 1 and not each:
        values = values[: len(claim.shapes)]
    if each and len(values) == 1 and isinstance(values[0], list | tuple):
        values = list(values[0])
    values = [v for v in values if isinstance(v, Tensor)]
    if "back to (" in claim.comment:
        state.at_the_end[claim.line] = (claim, values, dict(variables))
    else:
        state.check(claim, values, variables)
