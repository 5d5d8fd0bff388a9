"""UserError: a mistake in the input, reported in one line.

Every command prints a UserError on stderr and exits with code 2. Any other exception is a bug (traceback, exit code 1).
It is a ValueError, which users of the library expect from `build_model` and other functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input. The message is one line and names the file, key or value."""


class DamagedFile(UserError):
    """A file that this project wrote and that is not as it was written: cut off, changed, or not readable at all."""


def unknown(kind: str, got: object, valid: Iterable[str]) -> UserError:
    """The error for an unknown name: the nearest match, then all valid names."""
    valid = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(got), valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{got}': {hint}valid: {', '.join(valid) or '(none)'}")
