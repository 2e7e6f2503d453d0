"""Tables. A module of its own because the library that draws them is slow to import."""

import io
import re
import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 100_000
# The spaces at the end of a line; only the end of a style may come after them.
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
