"""Tables and progress lines. In a separate module because the drawing library is slow to import."""

import io
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.progress import Progress

_UNBOUNDED = 100_000
# Trailing spaces of a line; they may be followed by the end of a style.
PADDING = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


def drawn(
    head: Sequence[str] | None, rows: Sequence[Sequence[str]], drop: Sequence[str] = ()
) -> str:
    """The table as text for standard output; see `show.table`."""
    on_terminal = sys.stdout.isatty()
    screen = Console(file=sys.stdout, width=None if on_terminal else _UNBOUNDED)
    names, cells = list(head or ("", "")), [list(row) for row in rows]
    for name in drop:
        needed = [
            max(cell_len(cell) for cell in (one, *(row[n] for row in cells)))
            for n, one in enumerate(names)
        ]
        if sum(needed) + 2 * (len(needed) - 1) <= screen.width:
            break
        gone = names.index(name)
        names.pop(gone)
        for row in cells:
            row.pop(gone)
    table = Table(box=None, show_header=head is not None, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, overflow="fold", style="bold" if index == 0 else "")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    paper = io.StringIO()
    Console(
        file=paper,
        width=screen.width,
        force_terminal=on_terminal,
        color_system=screen.color_system if on_terminal else None,  # type: ignore[arg-type]
        highlight=False,
        emoji=False,
        markup=False,
    ).print(table)
    return PADDING.sub(r"\1", paper.getvalue())


def moving_lines() -> "Progress":
    """Progress lines on standard error, which disappear at the end of the block."""
    from rich.progress import (  # noqa: PLC0415 — not for a table
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
    )

    class OfBytes(ProgressColumn):
        """A progress bar with the number of bytes done and, if known, in total."""

        def __init__(self) -> None:
            super().__init__()
            self._bar, self._bytes = BarColumn(bar_width=24), DownloadColumn(binary_units=True)

        def render(self, task: Task) -> RenderableType:
            if task.total is None:
                return Text()
            beside = Table.grid(padding=(0, 1))
            beside.add_row(self._bar.render(task), self._bytes.render(task))
            return beside

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        OfBytes(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr, highlight=False, emoji=False, markup=False),
        transient=True,
        redirect_stdout=False,  # the output may be read by a program
    )
