"""How things look. Whatever came from elsewhere is made harmless before a terminal sees it."""

import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quiltfn.sdk import Function, FunctionPage, Invocation

# Control characters but newline and tab, and the marks that turn the direction of writing:
# a handler's output could use them to rewrite what the screen shows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_UNBOUNDED = 100_000


def visible(text: str) -> str:
    """The text with what cannot be seen written as \\uXXXX, which JSON understands too."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def pass_through(text: str, stream: TextIO) -> None:
    """Somebody else's output: as it is into a pipe or file, harmless onto a terminal."""
    stream.write(visible(text) if stream.isatty() else text)
    stream.flush()


def json(body: bytes) -> None:
    """The server's own words, only indented."""
    pass_through(msgspec.json.format(body, indent=2).decode() + "\n", sys.stdout)


def complain(sentence: str, *advice: str | None) -> None:
    """An error, and what to do about it."""
    lines = [f"error: {visible(sentence)}"]
    lines += [f"hint: {visible(hint)}" for hint in advice if hint]
    for line in lines:
        sys.stderr.write(f"{line}\n")


def note(text: str) -> None:
    """A dim line beside the output proper."""
    _console(sys.stderr).print(Text(visible(text), style="dim"), soft_wrap=True)


def say(text: str) -> None:
    sys.stdout.write(f"{visible(text)}\n")


def functions(page: FunctionPage) -> None:
    if not page.functions:
        note("no functions yet; make one with: quiltfn functions create NAME --handler …")
        return
    columns = ("NAME", "STATE", "VERSION", "RUNTIME", "MIN-MAX", "CALLS", "ERRORS", "LAST CALL")
    rows = (
        (
            one.name,
            one.state,
            one.current_version,
            one.runtime,
            f"{one.min_instances}-{one.max_instances}",
            one.invocation_count,
            one.error_count,
            when(one.last_invoked_at),
            one.id,
        )
        for one in page.functions
    )
    table((*columns, "ID"), rows, drop=("ID", "RUNTIME"))
    if page.next_cursor:
        note(f"there are more: --cursor {page.next_cursor}")


def function(one: Function) -> None:
    directory, cleanup = one.working_directory or "-", "yes" if one.cleanup_on_exit else "no"
    rows: list[tuple[str, object]] = [
        ("name", one.name),
        ("id", one.id),
        ("state", one.state),
        ("error", one.error_message),
        ("description", one.description),
        ("cluster", one.cluster_id),
        ("version", one.current_version),
        ("runtime", one.runtime),
        ("handler", one.handler),
        ("environment", "\n".join(f"{k}={v}" for k, v in one.environment.items())),
        ("memory", f"{one.memory_limit_mb} MiB"),
        ("cpu", f"{one.cpu_limit_percent:g} %"),
        ("timeout", f"{one.timeout_seconds} s"),
        ("instances", f"{one.min_instances} to {one.max_instances}"),
        ("cleanup", cleanup),
        ("directory", directory),
        ("created", when(one.created_at)),
        ("updated", when(one.updated_at)),
        ("calls", f"{one.invocation_count}, {one.error_count} with errors"),
        ("last call", when(one.last_invoked_at)),
    ]
    table(None, ((key, value) for key, value in rows if value not in (None, "")))


def invocation(one: Invocation) -> None:
    """The handler's own output, then one dim line about the call."""
    pass_through(one.stdout or "", sys.stdout)
    pass_through(one.stderr or "", sys.stderr)
    # The line about the call starts on a line of its own.
    last, unended = one.stderr or one.stdout, bool(one.stderr) or sys.stdout.isatty()
    if last and not last.endswith("\n") and unended:
        sys.stderr.write("\n")
    status = one.status
    if one.status == "failed" and one.exit_code is not None:
        status = f"failed (exit code {one.exit_code})"
    took = "not started" if one.duration_ms is None else f"{one.duration_ms} ms"
    start = {True: ["cold"], False: ["warm"], None: []}[one.cold_start]
    note(" · ".join([status, took, *start, one.invocation_id]))


def when(moment: int | None) -> str:
    """A time as this machine's clock has it."""
    if moment is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def table(
    head: Sequence[str] | None, rows: Iterable[Sequence[object]], drop: Sequence[str] = ()
) -> None:
    """Columns with heads, or pairs without. Where the terminal is too narrow, the columns of `drop`
    are left out, the first of them first; nothing else is cut off.
    """
    console, names = _console(sys.stdout), list(head or ("", ""))
    cells = [[Text(visible(str(cell))) for cell in row] for row in rows]
    for name in drop:
        needed = [
            max(cell_len(one), *(row[n].cell_len for row in cells)) for n, one in enumerate(names)
        ]
        if sum(needed) + 2 * (len(needed) - 1) <= console.width:
            break
        gone = names.index(name)
        names.pop(gone)
        for row in cells:
            row.pop(gone)
    drawn = Table(box=None, show_header=head is not None, pad_edge=False)
    for index, name in enumerate(names):
        drawn.add_column(name, overflow="fold", style="bold" if index == 0 else "")
    for row in cells:
        drawn.add_row(*row)
    console.print(drawn)


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else _UNBOUNDED
    return Console(file=stream, width=width, highlight=False, emoji=False, markup=False)
