"""Lines for the user, printed by the first process alone."""

from __future__ import annotations

import sys

from common import distributed


def say(text: str) -> None:
    """A line for the user, once; flushed, so that a log file is complete when a process is killed."""
    if distributed.is_main():
        print(text, flush=True)


def warn(text: str) -> None:
    if distributed.is_main():
        print(f"warning: {text}", file=sys.stderr, flush=True)
