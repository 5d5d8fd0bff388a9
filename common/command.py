"""What the commands share: arguments, exit codes, and one line for a user error."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError
from common.files import reason_of

OUTSIDE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM)  # disk full, no permission


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: a scheduler or a shutdown ends the process. It leaves like Ctrl-C, with exit code 143."""


def end_on_sigterm() -> None:
    """Raise Terminated when SIGTERM arrives, so that temporary files are removed and the last line can be printed."""
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a loader worker that was just forked
            os._exit(128 + number)
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser with the options of every command. --help shows the first line of the description, and the example."""
    p = argparse.ArgumentParser(
        description=description.splitlines()[0],
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change a key; repeatable")
    p.add_argument("--device", metavar="DEVICE", help="auto | cpu | cuda | cuda:N | mps (default: the config's)")
    return p


def plain_parser(module: str, doc: str) -> argparse.ArgumentParser:
    """The parser of a command without --set and --device. --help shows the whole docstring of its module."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def overrides(args: argparse.Namespace) -> list[str]:
    """The --set items, with --device and --weights as two of them."""
    given = {"device": args.device, "model.weights": getattr(args, "weights", None)}
    return [*args.set, *(f"{key}={value}" for key, value in given.items() if value)]


def command_line() -> str:
    """The command as the user typed it; a run saves it."""
    return shlex.join(["python", *sys.argv])


def run(main: Callable[[argparse.Namespace], None], p: argparse.ArgumentParser, argv: list[str] | None = None) -> int:
    """Call main. Exit codes: 0; 2 user error, one line on stderr; 130 Ctrl-C; 143 SIGTERM (where main asked for it, see
    end_on_sigterm); 1 a bug, with its traceback."""
    args = p.parse_args(argv)
    try:
        main(args)
    except UserError as e:
        print(f"error: {clean_message(e)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # piped into head
        return 0
    except OSError as e:  # a full disk or a missing permission is not our bug
        if e.errno not in OUTSIDE:
            raise
        print(f"error: {e.filename or 'writing'}: {reason_of(e)}", file=sys.stderr)
        return 2
    except RuntimeError as e:
        if not is_lost_worker(e):
            raise
        print(f"error: {LOST_WORKER}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        what, code = ("terminated", 143) if isinstance(e, Terminated) else ("interrupted", 130)
        print(f"{what}{'; ' + str(e) if str(e) else ''}", file=sys.stderr)
        return code
    return 0


LOST_WORKER = (
    "a process that loads images was killed, most often as memory ran out (RAM, or /dev/shm in a container); "
    "fewer train.workers take less, train.workers=0 needs no process"
)


def is_lost_worker(error: BaseException) -> bool:
    """Whether torch's DataLoader reports a worker that is gone, and not an error that was raised in one."""
    return str(error).startswith("DataLoader worker (pid")


def clean_message(exc: BaseException) -> str:
    """The line for the user. A DataLoader worker wraps its error in a traceback; the line is then the last one, after
    the name of the error's class."""
    lines = [line for line in str(exc).splitlines() if line.strip()] or [type(exc).__name__]
    if len(lines) == 1 or "DataLoader worker" not in lines[0]:
        return lines[0]
    raised = [line for line in lines if line.startswith(("UserError: ", "common.errors.UserError: "))]
    return raised[-1].split("UserError: ", 1)[1] if raised else lines[-1].strip()


def add_network_arguments(p: argparse.ArgumentParser) -> None:
    """Add --run and --checkpoint, which name a trained network."""
    p.add_argument("--run", metavar="RUN", help="run folder (default: the newest under runs/)")
    p.add_argument("--checkpoint", metavar="FILE", help="this file instead of a run: ours, or any public one")
    add_weights(p)


def add_weights(p: argparse.ArgumentParser) -> None:
    """Add --weights, for public files."""
    p.add_argument("--weights", metavar="NAME", help="which set of weights of a public file, e.g. ema or student")


def check_at_least(smallest: int, **options: int | Sequence[int]) -> None:
    """Check options by name: a number, or each number of an option like --size. Raises: UserError."""
    for name, value in options.items():
        numbers = [value] if isinstance(value, int) else value
        if min(numbers) < smallest:
            expected, got = " ".join([str(smallest)] * len(numbers)), " ".join(map(str, numbers))
            raise UserError(f"--{name}: expected at least {expected}, got {got}")


def check_output(option: str, path: Path) -> None:
    """Raises: UserError unless a file can be made at `path`: its folder exists, and it is no folder itself."""
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder, give a file")
    if not path.parent.is_dir():
        raise UserError(f"{option}: there is no folder {path.parent}")
