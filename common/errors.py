"""What a user did wrong, said in one line.

Every command prints a UserError on stderr and exits with code 2; anything else is our bug (traceback, exit code 1).
It is a ValueError, so that `build_model` and friends keep the usual Python contract for library users.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input: the message is one line and names the file, key or value at fault."""


def unknown(kind: str, got: object, valid: Iterable[str]) -> UserError:
    """The error for a name that is not in a table: nearest match first, then everything that would be valid."""
    valid = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(got), valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UserError(f"unknown {kind} '{got}': {hint}valid: {', '.join(valid) or '(none)'}")
