"""Print lines for the user. With several processes only the first one prints."""

from __future__ import annotations

import sys

from common import distributed


def say(text: str) -> None:
    """Print a line, flushed, so that a log file is complete if the process is killed."""
    if distributed.is_main():
        print(text, flush=True)


def warn(text: str) -> None:
    if distributed.is_main():
        print(f"warning: {text}", file=sys.stderr, flush=True)
