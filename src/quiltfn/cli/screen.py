"""A full-screen table that is redrawn until the user quits."""

import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quiltfn.cli.load_columns import DROP, HEAD
from quiltfn.cli.show import one_line

ENDS = (b"q", b"Q", b"")
# Lines around the rows, including the number of hidden rows and the key that quits.
OTHER_LINES = 5
TEXTS = ("FUNCTION",)
BETWEEN = 2  # spaces between two columns


def refresh(frames: Iterator[tuple[str, Sequence[Sequence[str]]]], seconds: float) -> None:
    """Draw the next frame every `seconds` until q or Ctrl-C, then restore the terminal."""
    console = Console(highlight=False, emoji=False, markup=False)
    with suppress(KeyboardInterrupt), single_keys():
        head, rows = next(frames)
        with Live(
            drawn(console, head, rows), console=console, screen=True, auto_refresh=False
        ) as live:
            while not is_ended_within(seconds):
                head, rows = next(frames)
                live.update(drawn(console, head, rows), refresh=True)


def drawn(console: Console, head: str, rows: Sequence[Sequence[str]]) -> Group:
    """A frame with as many rows and columns as fit."""
    room = max(console.height - OTHER_LINES, 1)
    table = Table(box=None, pad_edge=False, expand=False, header_style="bold reverse")
    for name, width in columns_that_fit(console.width, rows).items():
        is_text = name in TEXTS
        table.add_column(
            name,
            justify="left" if is_text else "right",
            min_width=None if is_text else width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows[:room]:
        cells = dict(zip(HEAD, row, strict=True))
        shown = [str(column.header) for column in table.columns]
        table.add_row(*(Text(one_line(cells[name]), style(name, cells[name])) for name in shown))
    left = len(rows) - room
    more = f"{left} less busy ones · " if left > 0 else ""
    return Group(
        Text(one_line(head), style="bold", no_wrap=True, overflow="ellipsis"),
        Text(),
        table,
        Text(),
        Text(f"{more}invocations of the last minute · q quits", style="dim"),
    )


def columns_that_fit(width: int, rows: Sequence[Sequence[str]]) -> dict[str, int]:
    """The columns that fit into the terminal, and their widths."""
    fitting = {
        name: max([len(name), *(len(row[n]) for row in rows)]) for n, name in enumerate(HEAD)
    }
    for gone in DROP:
        if sum(fitting.values()) + BETWEEN * (len(fitting) - 1) <= width:
            break
        del fitting[gone]
    return fitting


def style(column: str, value: str) -> str:
    """The style of a cell: it highlights busy instances and failures."""
    colours = {"FUNCTION": "bold", "BUSY": "green", "STARTING": "yellow", "ERRORS": "red"}
    return "dim" if value == "-" else colours.get(column, "")


@contextmanager
def single_keys() -> Iterator[None]:
    """Within the block, read keys one by one without echo, if standard input is a terminal."""
    if sys.platform == "win32" or not _is_typed():
        yield
        return
    import termios  # noqa: PLC0415 — not on every system
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def is_ended_within(seconds: float) -> bool:
    """Wait, and return whether the user has quit meanwhile."""
    if sys.platform == "win32" or not _is_typed():
        time.sleep(seconds)
        return False
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select([sys.stdin], [], [], left)
        if ready and os.read(sys.stdin.fileno(), 1) in ENDS:
            return True
    return False


def _is_typed() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()
