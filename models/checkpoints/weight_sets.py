"""Which weights to take from a file that holds several sets: averaged ones (EMA), a teacher and a student, and so on.

The choice, where the user makes none: averaged weights first, as publishers score these; then the usual keys; of a
teacher and a student, the teacher if both are the same network (it is the student's average), else the student, for
whose sake the larger teacher was there. mmengine swaps its two sets when it saves: averaged ones are in `state_dict`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.files import file_error

# keys of the weights, preferred first
AVERAGED_KEYS = ("state_dict_ema", "model_ema", "params_ema", "ema_state_dict", "ema")
PLAIN_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model", "params", "net", "network", "network_weights", "weights",
)  # fmt: skip
WRAPPERS = (*AVERAGED_KEYS, *PLAIN_KEYS)
AVERAGED = re.compile(r"(^|[_.])(ema|swa|avg|averaged?|teacher|shadow|polyak)([_.]|\d*$)", re.IGNORECASE)
OTHER = re.compile(r"optim|sched|scaler|criterion|loss|queue|discriminator", re.IGNORECASE)  # no network's weights
MMCV_AVERAGE = "ema_"  # mmcv's EMAHook keeps a second set as buffers: ema_backbone_conv1_weight


def choose(
    path: Path, inside: Mapping[str, Mapping[str, tuple]], bare: bool, swapped: bool, notes: list[str]
) -> str | None:
    """Which of several dicts with tensors is the weights; None: the dict that contains them is.

    inside: of each, its tensors' names and shapes. bare: there are tensors beside them. swapped: mmengine wrote it.
    Raises: UserError where nothing tells.
    """
    sets = {name: shapes for name, shapes in inside.items() if not OTHER.search(name)}
    known = [name for name in WRAPPERS if name in sets] + [n for n in sets if n not in WRAPPERS and AVERAGED.search(n)]
    if bare and not known:
        return None
    if len(sets) < 2:
        return next(iter(sets), None)
    plain = [name for name in (*PLAIN_KEYS, "student") if name in sets]
    averaged = [name for name in known if name not in plain and (not plain or _same(sets[name], sets[plain[0]]))]
    averaged += [name for name in known if name in AVERAGED_KEYS and name not in averaged]
    if not plain and not averaged:
        raise file_error(path, f"weights under {', '.join(sets)}: say which with --weights (load_public: weights=)")
    if swapped and "state_dict" in plain:
        name, why = "state_dict", "where mmengine saves the averaged ones"
    elif averaged:
        name, why = averaged[0], "the averaged ones" if len(sets) > len(averaged) else "the first"
    else:
        name, why = plain[0], "the trained ones" if "teacher" in sets else "the first of the usual names"
    notes.append(several(list(sets), name, why))
    return name


def several(names: list[str], taken: str, why: str) -> str:
    return f"several sets of weights ({', '.join(names)}): took {taken}, {why}"


def _same(a: Mapping[str, tuple], b: Mapping[str, tuple]) -> bool:
    """Whether two sets are of one network: the same names, apart from a wrapper's prefix and counters, and shapes."""
    return _bare(a) == _bare(b)


def _bare(shapes: Mapping[str, tuple]) -> dict[str, tuple]:
    kept = {name: shape for name, shape in shapes.items() if "." in name or len(shape)}  # n_averaged is a number
    while kept and all(name.startswith("module.") for name in kept):
        kept = {name.removeprefix("module."): shape for name, shape in kept.items()}
    return kept


# --- sets side by side in one dict, each with its own prefix: student.backbone.., teacher.backbone.. ------------------


def take_one(
    path: Path, state: dict[str, Tensor], wanted: str | None, notes: list[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(the state without the other sets' tensors, their names). wanted: the set to take; None: choose.

    Raises: UserError if there is no such set.
    """
    state, buffers = _mmcv_average(state, wanted, notes)
    if buffers:
        return state, buffers
    before = _common_prefix(state)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name, dot, rest = key.removeprefix(before).partition(".")
        if dot:
            groups.setdefault(name, {})[rest] = value
    averaged = [name for name in groups if AVERAGED.search(name)]
    names = [name for name in groups if any(_alike(name, other, groups) for other in averaged)]
    if len(names) < 2 or not averaged:
        if wanted is not None:
            raise UserError(f"{path}: no weights under {wanted!r}; it holds one set of weights")
        return state, ()
    if wanted is not None and wanted not in names:
        raise UserError(f"{path}: no weights under {wanted!r}; there are some under: {', '.join(names)}")
    taken = wanted or _choice(names, averaged, groups, notes)
    others = tuple(f"{before}{name}." for name in names if name != taken)
    return {key: value for key, value in state.items() if not key.startswith(others)}, tuple(
        n for n in names if n != taken
    )


def _choice(names: list[str], averaged: list[str], groups: dict[str, dict], notes: list[str]) -> str:
    plain = [name for name in names if name not in averaged]
    same = [name for name in averaged if not plain or _shapes(groups[name]) == _shapes(groups[plain[0]])]
    taken, why = (same[0], "the averaged ones") if same else (plain[0], "the trained ones")
    notes.append(several(names, taken, why))
    return taken


def _alike(name: str, averaged: str, groups: dict[str, dict]) -> bool:
    """Whether a group is a set beside an averaged one: the same network, or a student beside its teacher."""
    pair = {name, averaged} == {"student", "teacher"}
    return name == averaged or pair or _shapes(groups[name]) == _shapes(groups[averaged])


def _shapes(group: dict[str, Tensor]) -> dict[str, tuple]:
    return {key: tuple(value.shape) for key, value in group.items()}


def _common_prefix(state: dict[str, Tensor]) -> str:
    """What all names begin with, up to a dot: "model." of model.student.., model.teacher.."""
    prefix, keys = "", list(state)
    while keys:
        first, dot, _ = keys[0].removeprefix(prefix).partition(".")
        if not dot or not all(key.startswith(f"{prefix}{first}.") for key in keys):
            break
        prefix += f"{first}."
    return prefix


def _mmcv_average(
    state: dict[str, Tensor], wanted: str | None, notes: list[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """mmcv's EMAHook swaps too: the averaged weights have the plain names, the last ones are the buffers."""
    other = {key: MMCV_AVERAGE + key.replace(".", "_") for key in state if not key.startswith(MMCV_AVERAGE)}
    pairs = {key: name for key, name in other.items() if name in state}
    if not pairs:
        return state, ()
    names = ("plain", "ema_")
    if wanted not in (None, *names):
        raise UserError(f"no weights under {wanted!r}; there are some under: {', '.join(names)}")
    if wanted is None:
        notes.append(several(list(names), "plain", "where mmcv saves the averaged ones"))
    left = {key: value for key, value in state.items() if key not in pairs.values()}
    return ({key: state[pairs.get(key, key)] for key in left} if wanted == "ema_" else left), ("ema_",)
