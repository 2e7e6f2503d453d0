"""What is being done, on a terminal alone: a line on standard error that moves while it lasts and
leaves nothing. A pipe, a file and a program see nothing of it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from quiltfn.cli.show import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

# What is shorter is over before somebody has read it.
WORTH_BYTES = 1024**2
# The lines that are shown now: one that is begun within another stands below it.
_shown: "list[Progress]" = []


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Shows what is done in the block, and for how long."""
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
    """Shows how much of `total` bytes is done; the function is told how many more are."""
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
    from quiltfn.cli import drawing  # noqa: PLC0415 — loads what draws

    with drawing.moving_lines() as progress:
        _shown.append(progress)
        try:
            yield progress
        finally:
            _shown.clear()
