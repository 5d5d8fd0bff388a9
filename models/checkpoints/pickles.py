"""Pickled checkpoints (torch.save, either format), read without running what is in them.

A pickle is a small program: besides building dicts and lists it may name any Python function ("global") and call it.
`torch.load(weights_only=True)` knows two dozen harmless ones and refuses the rest, and with them many real files: a
numpy number for the best score is enough. So each file is read twice:

1. `survey` walks the program with pickletools, which runs nothing, and collects the foreign globals. Those that run
   commands or code have no business in a checkpoint: the file is refused, and the line names them.
2. torch.load(weights_only=True) then runs with a stand-in under each remaining name. A stand-in swallows what it is
   given. Nothing foreign is imported, looked up or called, whether its package is installed or not.

Safety does not rest on step 1: whatever it overlooks, torch refuses in step 2.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names -> 3's, the tables of pickle itself
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from common.errors import UserError
from common.files import file_error
from models.checkpoints.safetensors import MAP_FROM

# --- stand-ins ------------------------------------------------------------------------------------------------------


class StandIn:
    """In place of a foreign class, function or value: takes every argument and state, keeps none, does nothing."""

    __slots__ = ()

    def __new__(cls, *args) -> StandIn:
        return super().__new__(cls)

    def __setstate__(self, state) -> None:
        pass


class MappingStandIn:
    """In place of a foreign class that the pickle fills like a dict, as yacs' CfgNode. The reader fills real ones only,
    so it gives one: the entries survive, the class does not."""

    def __new__(cls, *args) -> OrderedDict:
        return OrderedDict()


class SequenceStandIn:
    """The same for what the pickle appends to."""

    def __new__(cls, *args) -> list:
        return []


# --- looking without running ----------------------------------------------------------------------------------------

# modules whose functions run commands or code; there is no reason to name them in a checkpoint
REFUSED = set(
    "_io _pickle codeop ctypes importlib io marshal nt os pdb pickle pip posix pty runpy shutil socket subprocess sys "
    "webbrowser".split()
)
# of builtins (eval, exec, getattr, open, ...) only plain types may be named, as in a defaultdict(list)
PLAIN_TYPES = set("bool bytearray bytes complex dict float frozenset int list object range set slice str tuple".split())
KNOWN_TO_TORCH = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)|torch\.nn\.parameter\.Parameter|"
    r"torch\.\w+|torch\.(\w+\.)*\w+(Storage|Tensor)|torch\.(_utils|_tensor)\._rebuild_\w+|torch\.serialization\._get_layout"
)

RESULT_OF_FIRST = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS"}


def survey(pickle: BinaryIO) -> dict[str, type]:
    """Every global that one pickle names -> the stand-in it would need. Nothing is run.

    The pickle machine is followed with labels in place of values: a string is itself, what a global (or a call of it)
    gives is the global's name, all else is None. So it shows which globals are filled as a dict or as a list.
    Raises: ValueError, IndexError, KeyError for what is not a pickle.
    """
    found: dict[str, type] = {}
    memo: dict[int, str | None] = {}
    stacks: list[list[str | None]] = [[]]  # a MARK opens a new one, the opcode that wants the marked values closes it
    for opcode, arg, _ in pickletools.genops(pickle):
        name, before = opcode.name, opcode.stack_before
        if name == "MARK":
            stacks.append([])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stacks[-1][-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stacks[-1].append(memo[arg])
        else:
            count = len(before)
            if pickletools.markobject in before:
                count = before.index(pickletools.markobject)
                stacks.pop()
            taken = [stacks[-1].pop() for _ in range(count)][::-1]
            label = arg if isinstance(arg, str) else None
            if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                place = tuple(taken if name == "STACK_GLOBAL" else arg.split(" ", 1))
                module, attribute = NAME_MAPPING.get(place, (IMPORT_MAPPING.get(place[0], place[0]), place[1]))
                label = f"{module}.{attribute}"
                found.setdefault(label, StandIn)
            elif name in RESULT_OF_FIRST:
                label = taken[0]
            if name in ("SETITEM", "SETITEMS") and label in found:
                found[label] = MappingStandIn
            elif name in ("APPEND", "APPENDS") and label in found:
                found[label] = SequenceStandIn
            stacks[-1] += [label] * len(opcode.stack_after)
    return found


def is_refused(name: str) -> bool:
    module, _, attribute = name.partition(".")
    return module in REFUSED or (module == "builtins" and attribute not in PLAIN_TYPES)


def survey_zip(path: Path) -> tuple[dict[str, type], bool]:
    """The globals of a zip checkpoint, and whether it may be mapped (no record is compressed)."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in names):
            raise file_error(path, "refused: a TorchScript archive, which is a program; save the state_dict() instead")
        pickles = [entry for entry in archive.infolist() if re.fullmatch(r"[^/]+/data\.pkl", entry.filename)]
        if not pickles:
            raise file_error(path, "a zip archive, but not a checkpoint; if one is in it, unpack it first")
        found: dict[str, type] = {}
        for entry in pickles:
            stored = entry.compress_type == zipfile.ZIP_STORED
            with stored_record(path, entry) if stored else archive.open(entry) as file:
                found |= survey(file)
        return found, all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def stored_record(path: Path, entry: zipfile.ZipInfo) -> BinaryIO:
    """A record without zipfile's check of its sum: torch.save may be told to leave the sums out."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # in its own header, at 26 and 28: how long its name and extra field are
        lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
        file.seek(sum(lengths), os.SEEK_CUR)
        return io.BytesIO(file.read(entry.file_size))


def survey_legacy(path: Path) -> dict[str, type]:
    """The globals of a file from before torch 1.6: magic number, version, machine, the object, the storages' names."""
    with path.open("rb") as file:
        return {name: stand_in for _ in range(5) for name, stand_in in survey(file).items()}


# --- reading --------------------------------------------------------------------------------------------------------


@contextmanager
def only(stand_ins: dict[str, type]) -> Iterator[None]:
    """Let torch's reader know these names and no others, not even those that another library has declared safe: real
    ones would be called."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def load_pickle(path: Path) -> tuple[Any, str, list[str]]:
    """What was saved, "zip" or "legacy", and the globals that stand-ins replaced. UserError, one line, if it cannot."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # torch looks at no more
    try:
        found, mappable = survey_zip(path) if is_zip else (survey_legacy(path), False)
    except UserError:
        raise
    except Exception as e:  # zipfile and pickletools raise a dozen types over what is not theirs
        raise file_error(path, f"cut off or damaged: {str(e) or type(e).__name__}") from None
    if bad := sorted(name for name in found if is_refused(name)):
        raise file_error(path, f"refused: it would run code when loaded: {', '.join(bad)}")
    foreign = {name: stand_in for name, stand_in in found.items() if not KNOWN_TO_TORCH.fullmatch(name)}
    mmap = mappable and path.stat().st_size >= MAP_FROM
    try:
        with only(foreign):
            content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as e:  # torch, too, raises half a dozen types
        raise file_error(path, explain(str(e), sorted(foreign))) from None
    return content, "zip" if is_zip else "legacy", sorted(foreign)


def explain(error: str, foreign: list[str]) -> str:
    """One line from torch's page."""
    named = re.search(r"GLOBAL (\S+)", error)
    if named:
        return f"refused: it would run code when loaded: {named[1]}"
    if "weights only load failed" not in error.lower():
        return "cut off or damaged"
    if "Unsupported operand" in error:
        return "written in a pickle protocol that torch does not read safely; save it with torch.save's default, 2"
    beside = f" (it names {', '.join(foreign)})" if foreign else ""
    if "call reduce" in error:
        return f"refused: it calls what a call has returned{beside}"
    reason = error.partition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    return f"refused: {reason or 'not only weights'}{beside}"
