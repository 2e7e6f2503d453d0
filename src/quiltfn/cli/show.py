"""Prints results. Text of other origin is escaped before it reaches a terminal."""

import contextlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TextIO, TypeVar

import msgspec

from quiltfn.cli.parsing import Exit
from quiltfn.sdk import Function, FunctionPage, Invocation, InvocationSummary
from quiltfn.wire import Alias, AliasShare, FunctionSummary, NewFunction
from quiltfn.wire.fields import fields_of
from quiltfn.wire.invocations import HTTP_ERRORS

Page = TypeVar("Page")
Item = TypeVar("Item")

# Control characters except newline and tab, and marks that change the direction of writing. With
# these, a handler's output could change other parts of the terminal.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Styles, as terminals know them.
BOLD, DIM, BOLD_RED, RED, GREEN, YELLOW, CYAN = "1", "2", "1;31", "31", "32", "33", "36"


class NobodyReads(Exception):
    """The reader of the output has closed it, as `head` does."""


def visible(text: str) -> str:
    """The text with invisible characters written as \\uXXXX, as JSON does."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """Like `visible`, but escape line feeds, too: foreign text must not look like a line of this
    program.
    """
    return visible(text).replace("\n", "\\u000a")


def pass_through(text: str, stream: TextIO) -> None:
    """Prints text of other origin: unchanged into a pipe or file, escaped on a terminal."""
    write(stream, visible(text) if stream.isatty() else text)


def write(stream: TextIO, text: str) -> None:
    """All output goes through here. Raises `NobodyReads` if the reader has closed it."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # A BrokenPipeError would be reported as a bug.
        raise NobodyReads from None


def write_bytes(stream: TextIO, output: bytes) -> None:
    """Prints bytes of other origin: unchanged into a pipe or file, escaped on a terminal."""
    if stream.isatty():
        write(stream, visible(output.decode("utf-8", "replace")))
        return
    try:
        stream.flush()
        stream.buffer.write(output)
        stream.buffer.flush()
    except BrokenPipeError:
        raise NobodyReads from None


def are_together() -> bool:
    """Whether a reader sees standard output and standard error in one place."""
    try:
        output, error = os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return sys.stdout.isatty()
    return sys.stdout.isatty() or os.path.samestat(output, error)


def encoded(value: object) -> bytes:
    """A value as JSON, for values that the server did not send as JSON."""
    return msgspec.json.encode(value)


def complain(sentence: str, *advice: str | None, own_lines: bool = False) -> None:
    """Print an error and how to fix it. `own_lines`: the sentence has intended line feeds."""
    error, hint = painted("error:", BOLD_RED, sys.stderr), painted("hint:", CYAN, sys.stderr)
    lines = [f"{error} {(visible if own_lines else one_line)(sentence)}"]
    lines += [f"{hint} {one_line(text)}" for text in advice if text]
    write(sys.stderr, "".join(f"{line}\n" for line in lines))


def quoted(text: str) -> str:
    """A message with its second and later lines, which are a program's output, marked."""
    return text.replace("\n", "\n  | ")


def below(text: str) -> str:
    """A program's complete output, in lines below a sentence of this command."""
    return quoted(f"\n{text}")


def note(text: str) -> None:
    """Prints a dim line on standard error."""
    write(sys.stderr, f"{painted(one_line(text), DIM, sys.stderr)}\n")


def painted(text: str, style: str, stream: TextIO) -> str:
    """The text in a style, if `stream` is a terminal that supports it and its user allows it."""
    is_plain = not stream.isatty() or os.environ.get("TERM") == "dumb"
    is_plain = is_plain or bool(os.environ.get("NO_COLOR"))  # no-color.org
    return text if is_plain else f"\x1b[{style}m{text}\x1b[0m"


def ask(question: str) -> None:
    """Ask for confirmation; no answer means no. Raises `Exit`. The command has an option --yes."""
    while True:
        write(sys.stderr, f"{one_line(question)} [y/N]: ")
        answer = sys.stdin.readline() if sys.stdin is not None else ""
        if answer.strip().lower() in ("y", "yes"):
            return
        if answer.strip().lower() in ("", "n", "no"):
            nobody = "no answer; to skip the question: --yes" if answer == "" else None
            complain("nothing was done", nobody)
            raise Exit(1)


def say(text: str, style: str | None = None) -> None:
    line = one_line(text)
    write(sys.stdout, f"{line if style is None else painted(line, style, sys.stdout)}\n")


def amount(count: int, singular: str, several: str | None = None) -> str:
    """A number of things, in words: 1 file, 2 files."""
    return f"{count} {singular if count == 1 else several or singular + 's'}"


def size(count: int) -> str:
    """A number of bytes in a suitable unit."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return amount(count, "byte")


def elsewhere(function: Function | FunctionSummary) -> Alias | None:
    """The function's default alias, if that uses other versions than the current one."""
    alias = function.default_alias
    if not isinstance(alias, Alias) or (
        alias.version == function.current_version and not alias.also
    ):
        return None
    return alias


def runs_on(alias: Alias) -> str:
    """The versions that a default alias uses, and why."""
    share = f", and version {alias.also.version} for {percent(alias.also)}" if alias.also else ""
    why = f"; rolled back: {alias.rolled_back}" if alias.rolled_back else ""
    return f"version {alias.version}{share}, by the default alias {alias.name}{why}"


def all_on(name: str, version: int, alias: Alias) -> str:
    """How to send all invocations of a default alias to a version."""
    command = f"quiltfn aliases set {shlex.quote(name)} {alias.name} {version}"
    return f"to send all to version {version}: {command}"


def percent(share: AliasShare) -> str:
    return f"{share.weight * 100:g}%"


def _version(function: Function) -> str:
    alias = elsewhere(function)
    if alias is None:
        return str(function.current_version)
    share = f", {alias.also.version}={percent(alias.also)}" if alias.also else ""
    return f"{function.current_version} ({alias.name}: {alias.version}{share})"


# Fields of a new function that the table shows elsewhere.
SHOWN_ELSEWHERE = ("name", "cluster_id", "min_instances", "max_instances")
OUTDATED = "its runtime was replaced after this version was created; an update uses the new one"


def function(function: Function) -> None:
    alias = elsewhere(function)
    settings = [
        (field.short.replace("_", " "), setting(getattr(function, name), field.unit))
        for name, field in fields_of(NewFunction).items()
        if name not in SHOWN_ELSEWHERE
    ]
    pairs(
        ("name", function.name),
        ("id", function.id),
        ("state", function.state),
        ("error", function.error_message),
        ("cluster", function.cluster_id),
        ("version", function.current_version),
        ("invocations run on", runs_on(alias) if alias else None),
        ("outdated", OUTDATED if function.runtime_outdated is True else None),
        *settings,
        ("instances", f"{function.min_instances} to {function.max_instances}"),
        ("created", when(function.created_at)),
        ("updated", when(function.updated_at)),
        ("calls", f"{function.invocation_count}, {function.error_count} with errors"),
        ("last call", when(function.last_invoked_at)),
    )


def setting(value: object, unit: str) -> str | None:
    """A field's value as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "\n".join(f"{key}={text}" for key, text in value.items())
    if isinstance(value, int | float):
        return f"{value:.10g} {unit}".rstrip()
    return None if value is None else str(value)


def invocation(invocation: Invocation, output: Callable[[str], bytes]) -> None:
    """Print the handler's output, then a dim line about the invocation.

    `output`: returns the bytes of a stream.
    """
    write_bytes(sys.stdout, output("stdout"))
    write_bytes(sys.stderr, output("stderr"))
    # The line about the invocation starts on a new line.
    last = invocation.stderr or invocation.stdout
    unended = bool(invocation.stderr) or are_together()
    if last and not last.endswith("\n") and unended:
        write(sys.stderr, "\n")
    message = invocation.error_message or ""
    status = status_of(invocation, message)
    if invocation.status == "failed":
        message = ""
    took = [f"{invocation.duration_ms} ms", "cold" if invocation.cold_start else "warm"]
    if invocation.duration_ms is None:
        took = ["not started"]
    note(" · ".join([status, *took, invocation.invocation_id]))
    if message:
        note(message)


def status_of(invocation: Invocation | InvocationSummary, why: str | None = None) -> str:
    """As `outcome_of`, with the attempt's number if it is not the first."""
    outcome = outcome_of(invocation, why)
    return f"{outcome}, attempt {invocation.attempt}" if (invocation.attempt or 1) > 1 else outcome


def outcome_of(invocation: Invocation | InvocationSummary, why: str | None = None) -> str:
    """The status, with the reason of a failure: `why`, or the exit code, or the HTTP status of the
    response, which is also shown for successful invocations that returned an error status.
    """
    if invocation.status == "failed":
        return f"failed ({why or invocation.exit_code})"
    is_http_error = invocation.status == "success" and (invocation.http_status or 0) >= HTTP_ERRORS
    return (
        f"{invocation.status} (HTTP {invocation.http_status})"
        if is_http_error
        else invocation.status
    )


def when(moment: int | None, zone: str | None = None) -> str:
    """A time in this machine's time zone, or in `zone` with its abbreviation. A zone that this
    machine does not know is ignored.
    """
    if moment is None:
        return "-"
    if zone is not None:
        from datetime import datetime  # noqa: PLC0415 — for schedules alone
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415

        with contextlib.suppress(ZoneInfoNotFoundError):
            return f"{datetime.fromtimestamp(moment, ZoneInfo(zone)):%Y-%m-%d %H:%M:%S %Z}"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def table(
    head: Sequence[str] | None, rows: Iterable[Sequence[object]], drop: Sequence[str] = ()
) -> None:
    """Print columns with headings, or pairs without. If the terminal is too narrow, the columns in
    `drop` are omitted, in that order; nothing else is cut.
    """
    from quiltfn.cli import drawing  # noqa: PLC0415 — for a table alone

    shown = visible if head is None else one_line  # a pair's value may have several lines
    cells = [[shown(str(cell)) for cell in row] for row in rows]
    write(sys.stdout, drawing.drawn(head, cells, drop))


def pairs(*rows: tuple[str, object]) -> None:
    """Print names and values, except those without a value."""
    table(None, [row for row in rows if row[1] not in (None, "")])


class TableOf(Generic[Page, Item]):
    """Prints a list as a table, and how to get the rest if it is a page. `columns`: the cell of an
    item by column. `empty`: printed in place of a table without rows. `drop`: as for `table`.
    """

    def __init__(
        self,
        items: Callable[[Page], Sequence[Item]],
        columns: Mapping[str, Callable[[Item], object]],
        *,
        empty: str = "",
        drop: Sequence[str] = (),
    ) -> None:
        self.columns = columns
        self._items, self._empty, self._drop = items, empty, drop

    def led_by(
        self, columns: Mapping[str, Callable[[Item], object]], drop: Sequence[str]
    ) -> "TableOf[Page, Item]":
        """The table with other columns before its own."""
        return TableOf(self._items, {**columns, **self.columns}, empty=self._empty, drop=drop)

    def __call__(self, page: Page) -> None:
        items, next_cursor = self._items(page), getattr(page, "next_cursor", None)
        if items or next_cursor or not self._empty:
            cells = ([cell(item) for cell in self.columns.values()] for item in items)
            table([*self.columns], cells, self._drop)
        else:
            note(self._empty)
        if next_cursor:
            note(f"more results: add --cursor {next_cursor}")


functions = TableOf[FunctionPage, Function](
    lambda page: page.functions,
    {
        "NAME": lambda function: function.name,
        "STATE": lambda function: function.state,
        "VERSION": _version,
        "RUNTIME": lambda function: function.runtime,
        "MIN-MAX": lambda function: f"{function.min_instances}-{function.max_instances}",
        "CALLS": lambda function: function.invocation_count,
        "ERRORS": lambda function: function.error_count,
        "LAST CALL": lambda function: when(function.last_invoked_at),
        "ID": lambda function: function.id,
    },
    empty="no functions yet; create one with: quiltfn functions create NAME --handler …",
    drop=("ID", "RUNTIME"),
)
