"""Repeats an action after every edit of a directory's files, until Ctrl-C."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quiltfn.cli import advice, show, tree
from quiltfn.cli.parsing import BadParameter
from quiltfn.sdk import ApiError, FunctionFailed

# Events within SETTLES_MS of an edit count as one edit, since editors write a file several times.
SETTLES_MS, LOOKS_EVERY_MS = 60, 20


def take_signals() -> None:
    """Handle SIGINT and SIGTERM, which may be ignored if a script started the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@contextmanager
def alone(directory: Path, command: str) -> Iterator[None]:
    """Refuse a second session of the command on a directory: the two would undo each other's
    changes.

    Raises `BadParameter`.
    """
    if sys.platform == "win32":  # a directory cannot be locked on Windows
        yield
        return
    import fcntl  # noqa: PLC0415 — only where there is one

    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems cannot lock a directory; then there is no protection.
        with suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadParameter(
                    f"another `{command}` of {directory.resolve()} is running; end it first"
                ) from None
        yield
    finally:
        os.close(lock)


def watch(directory: Path, turn: Callable[[], object]) -> None:
    """Call `turn` now and after every edit, until a signal ends it."""
    import watchfiles  # noqa: PLC0415 — not needed for --help and --once

    seen = stamp(directory)
    turn()
    show.note(f"watching {directory.resolve()}; Ctrl-C ends")
    # Each directory separately: a recursive watch would follow links, even one to the root.
    edits = watchfiles.watch(
        *(place for place, _ in _directories(directory)),
        recursive=False,
        debounce=SETTLES_MS,
        step=LOOKS_EVERY_MS,
        rust_timeout=500,
        yield_on_timeout=True,
    )
    # Edits during a turn, before watching began, or in a new directory cause no event, so the files
    # are compared.
    for _ in edits:
        now = stamp(directory)
        if now != seen:
            seen = now
            turn()


def stamp(directory: Path) -> dict[str, int]:
    """The time of the last write of each file, except files that tools create. Links are not
    followed.
    """
    found = {}
    for place, names in _directories(directory):
        for name in names:
            with suppress(OSError):
                path = os.path.join(place, name)
                found[path] = os.lstat(path).st_mtime_ns
    return found


def _directories(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Every directory with the names of its files."""
    for place, below, names in os.walk(directory):
        below[:] = [name for name in below if name not in (*tree.LEFT_OUT, tree.MODULES)]
        yield place, names


def with_report(turn: Callable[[], object], name: str | None = None) -> None:
    """Call `turn`, and show errors that the next edit may fix. `name`: of the function."""
    try:
        turn()
    except ApiError as error:
        advice.translate_errors(error, name)
        show.complain(error.message, error.hint)
    except (BadParameter, OSError) as error:
        show.complain(getattr(error, "message", None) or str(error), own_lines=True)
    except FunctionFailed as error:
        show.complain(show.quoted(str(error)), own_lines=True)
