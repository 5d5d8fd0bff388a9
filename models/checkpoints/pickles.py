"""Pickled checkpoints (torch.save, either format), read without running what is in them.

A pickle is a small program: it builds dicts and lists, but it can also name any Python function ("global") and call
it. `torch.load(weights_only=True)` allows two dozen harmless functions and refuses all others, and with them many real
files: a numpy number for the best score is enough. So each file is read twice:

1. `survey` reads the program with pickletools, which runs nothing, and collects the foreign globals. A file that names
   functions that run commands or code is refused, and the message names them.
2. torch.load(weights_only=True) reads it with a stand-in for each remaining name, which ignores its arguments. Nothing
   foreign is imported, looked up or called, whether its package is installed or not.

Safety does not depend on step 1: torch refuses in step 2 whatever step 1 overlooks.
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
    """For a foreign class, function or value: accepts any arguments and state, and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *args) -> StandIn:
        return super().__new__(cls)

    def __setstate__(self, state) -> None:
        pass


class MappingStandIn:
    """A real dict, for a foreign class that is filled like one (yacs' CfgNode): the reader fills no other."""

    def __new__(cls, *args) -> OrderedDict:
        return OrderedDict()


class SequenceStandIn:
    """A real list, for a class that the pickle appends to."""

    def __new__(cls, *args) -> list:
        return []


# --- looking without running ----------------------------------------------------------------------------------------

# modules whose functions run commands or code: no checkpoint needs them
REFUSED = set(
    "_io _pickle codeop ctypes importlib io marshal nt os pdb pickle pip posix pty runpy shutil socket subprocess sys "
    "webbrowser".split()
)
# the only builtins allowed (so not eval, exec, getattr, open, ..), as in a defaultdict(list)
PLAIN_TYPES = set("bool bytearray bytes complex dict float frozenset int list object range set slice str tuple".split())
KNOWN_TO_TORCH = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)|torch\.nn\.parameter\.Parameter|"
    r"torch\.\w+|torch\.(\w+\.)*\w+(Storage|Tensor)|torch\.(_utils|_tensor)\._rebuild_\w+|torch\.serialization\._get_layout"
)

FILLS = {"SETITEM": MappingStandIn, "SETITEMS": MappingStandIn, "APPEND": SequenceStandIn, "APPENDS": SequenceStandIn}
RESULT_OF_FIRST = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "ADDITEMS", *FILLS}


def survey(pickle: BinaryIO) -> dict[str, type]:
    """Every global that a pickle names -> the stand-in it needs. Nothing is run.

    Follows the pickle machine with labels for values: a string is itself, a global and what a call of it returns are
    the global's name, all else is None. Raises: ValueError, IndexError, KeyError for what is not a pickle.
    """
    found: dict[str, type] = {}
    memo: dict[int, str | None] = {}
    stacks: list[list[str | None]] = [[]]  # MARK opens a new one, the opcode that uses the marked values closes it
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
            if name in FILLS and label in found:
                found[label] = FILLS[name]
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
        packed = {entry for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED}
        found: dict[str, type] = {}
        for entry in pickles:
            with archive.open(entry) if entry in packed else stored_record(path, entry) as file:
                found |= survey(file)
        return found, not packed


def stored_record(path: Path, entry: zipfile.ZipInfo) -> BinaryIO:
    """A record, without checking its checksum: torch.save can be set to leave the checksums out."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)  # its own header has the lengths of its name and extra field at 26 and 28
        lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
        file.seek(sum(lengths), os.SEEK_CUR)
        return io.BytesIO(file.read(entry.file_size))


def survey_legacy(path: Path) -> dict[str, type]:
    """The globals of a file older than torch 1.6: magic number, version, machine, object, names of the storages."""
    with path.open("rb") as file:
        return {name: stand_in for _ in range(5) for name, stand_in in survey(file).items()}


# --- reading --------------------------------------------------------------------------------------------------------


@contextmanager
def only(stand_ins: dict[str, type]) -> Iterator[None]:
    """Let torch's reader accept only these names, not what other libraries declared safe: that would be called."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in stand_ins.items()])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def load_pickle(path: Path) -> tuple[Any, str, list[str]]:
    """What was saved, "zip" or "legacy", and the globals that stand-ins replaced. Raises: UserError."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as torch decides
    try:
        found, mappable = survey_zip(path) if is_zip else (survey_legacy(path), False)
    except UserError:
        raise
    except Exception as e:  # zipfile and pickletools raise a dozen types for files that are not theirs
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
    """One line for torch's long message."""
    if named := re.search(r"GLOBAL (\S+)", error):
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
