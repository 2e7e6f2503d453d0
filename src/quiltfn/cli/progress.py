"""Progress lines on standard error, only on a terminal. They disappear at the end; pipes, files and
programs never get them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quiltfn.cli.show import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

# Shorter transfers end before anyone could read the line.
WORTH_BYTES = 1024**2
# The visible lines: one that starts within another is shown below it.
_shown: "list[Progress]" = []


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Show what the block does, and for how long."""
    if not is_watched():
        yield
        return
    with _displayed() as progress:
        task = progress.add_task(one_line(doing), total=None)
        try:
            yield
        finally:
            progress.remove_task(task)


@contextmanager
def counted(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` bytes are done; call the yielded function with each increment."""
    if not is_watched() or total < WORTH_BYTES:
        yield lambda _: None
        return
    with _displayed() as progress:
        task = progress.add_task(one_line(doing), total=total)
        try:
            yield lambda count: progress.update(task, advance=count)
        finally:
            progress.remove_task(task)


def is_watched() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def _displayed() -> "Iterator[Progress]":
    if _shown:
        yield _shown[0]
        return
    from quiltfn.cli import drawing  # noqa: PLC0415 — loads the drawing library

    with drawing.moving_lines() as progress:
        _shown.append(progress)
        try:
            yield progress
        finally:
            _shown.clear()
