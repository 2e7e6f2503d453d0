"""`quiltfn invoke`: invokes a function as if it were a local command."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from quiltfn.cli import payload, show, tables
from quiltfn.cli.options import FieldsOf
from quiltfn.cli.output import Output as Form
from quiltfn.cli.parsing import Argument, BadParameter, Exit, Option
from quiltfn.cli.session import Connection, Session
from quiltfn.sdk import Client, ClientError, Invocation
from quiltfn.sdk.events import End, Event, Output
from quiltfn.wire import NewInvocation

# In a record, this character replaces bytes that are not UTF-8.
REPLACEMENT = "\ufffd"
# The exit codes that timeout(1) and shells use; documented in docs/reference/exit-codes.md.
TIMED_OUT, OUT_OF_MEMORY = 124, 137
HANDLERS_MAX = 125  # limit for a handler's exit code; greater ones have other meanings


Called = Annotated[
    str,
    Argument(
        metavar="NAME_OR_ID",
        help="Function name or id, optionally followed by @VERSION or @ALIAS.",
        completes="called",
    ),
]


class PayloadOptions(Struct, frozen=True, kw_only=True):
    """Where the handler's payload comes from."""

    payload: Annotated[str | None, Option(metavar="TEXT", help="Payload.")] = None
    payload_file: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="File to read the payload from, or - for standard input.",
        ),
    ] = None


class CallMode(Struct, frozen=True, kw_only=True):
    """Whether the command queues the invocation, streams its output, or waits for its end."""

    is_async: Annotated[
        bool, Option(("--async",), help="Queue an asynchronous invocation and print its id.")
    ] = False
    wait: Annotated[bool, Option(help="With --async: wait for the end and print the output.")] = (
        False
    )
    delay: Annotated[
        int | None,
        Option(metavar="SECONDS", least=0, help="With --async: delay the start."),
    ] = None

    stream: Annotated[bool, Option(help="Stream the output.")] = False
    idempotency_key: Annotated[
        str | None,
        Option(metavar="KEY", help="Idempotency key for safe retries."),
    ] = None

    def check(self) -> None:
        """Raise `BadParameter` for options that require --async, or that conflict with it."""
        if self.is_async and self.stream:
            raise BadParameter("give --async or --stream, not both")
        if self.stream and self.idempotency_key is not None:
            raise BadParameter("give --idempotency-key or --stream, not both")
        for name, is_given in (("--wait", self.wait), ("--delay", self.delay is not None)):
            if is_given and not self.is_async:
                raise BadParameter(f"{name} goes with --async")


def invoke(
    name_or_id: Called,
    given: PayloadOptions,
    mode: CallMode,
    fields: Annotated[dict[str, Any], FieldsOf(NewInvocation, leave_out=["payload"])],
    timing: Annotated[bool, Option(("--timing",), help="Print the timeline on stderr.")] = False,
    *,
    connection: Connection,
) -> None:
    """Invoke a function and print its output. If it fails, this command has its exit code.
    Ctrl-C cancels the invocation. NAME@3 invokes version 3, NAME@ALIAS the alias's version, and
    NAME the default alias's or the current version.

    With --async, queue an asynchronous invocation and print its id, even while nothing can run it;
    --wait prints its output once it is over, and Ctrl-C doesn't cancel it.

    Without --payload and --payload-file, the payload is read from a pipe on standard input; a pipe
    that stays empty for 5 s is an error, and </dev/null means no payload.

    A payload is UTF-8 text. Send bytes as base64, which the handler decodes; its output can be
    any bytes:
      base64 -w0 photo.jpg | quiltfn invoke thumb >thumb.png
    """
    mode.check()
    if timing and mode.is_async and not mode.wait:
        raise BadParameter("--timing goes with --async only beside --wait")
    text = payload.of_call(given.payload, given.payload_file)
    with connection.session(name_or_id.partition("@")[0]) as at:
        if mode.stream:
            events = at.client.functions.stream(name_or_id, text, on_disconnect="cancel", **fields)
            ended = watched(at, events)
        else:
            if mode.is_async:
                ended = _queued(at, name_or_id, mode, text, fields)
            else:
                ended = at.client.invoke(
                    name_or_id,
                    text,
                    on_disconnect="cancel",
                    idempotency_key=mode.idempotency_key,
                    **fields,
                )
            at.show(ended, lambda record: show_ended(at.client, record))
        if timing:
            tell_timing(at.client, ended)
    raise Exit(exit_code(ended))


def watched(at: Session, events: Iterator[Event]) -> Invocation:
    """Print an invocation's output as it arrives, then its status; for programs, its record."""
    ended = None
    for event in events:
        if isinstance(event, Output) and at.output is Form.TABLE:
            show.write_bytes(sys.stdout if event.stream == "stdout" else sys.stderr, event.data)
        elif isinstance(event, End):
            ended = event.invocation
    assert ended is not None, "the client raises an error unless the invocation has ended"
    nothing = msgspec.structs.replace(ended, stdout="", stderr="")
    at.print(nothing, show.encoded(ended), lambda record: show.invocation(record, lambda _: b""))
    return ended


def _queued(
    at: Session, function: str, mode: CallMode, text: str | None, fields: dict[str, Any]
) -> Invocation:
    """Queue the invocation. Exits after printing its id, or returns its record once it is over."""
    delay = None if mode.delay is None else timedelta(seconds=mode.delay)
    record = at.client.functions.submit(
        function, text, not_before=delay, idempotency_key=mode.idempotency_key, **fields
    )
    if not mode.wait:
        at.show(record, lambda queued: show_queued(at.name_or_id or function, queued))
        raise Exit(0)
    return at.client.functions.wait(record.function_id, record.invocation_id)


def show_queued(function: str, invocation: Invocation) -> None:
    """Print the id alone, for scripts, and a note on how to use it."""
    show.say(invocation.invocation_id)
    show.note(f"queued; wait for it with: quiltfn wait {function} {invocation.invocation_id}")


def show_ended(client: Client, ended: Invocation) -> None:
    """Print the invocation's output and its status."""
    show.invocation(ended, lambda stream: output_of(client, ended, stream))


def output_of(client: Client, ended: Invocation, stream: str) -> bytes:
    """The bytes of a stream; the record's text if they cannot be read."""
    text = (ended.stdout if stream == "stdout" else ended.stderr) or ""
    if REPLACEMENT not in text:
        return text.encode()
    try:
        return client.functions.get_invocation_output(
            ended.function_id, ended.invocation_id, stream=stream
        )
    except ClientError as error:
        show.note(f"the bytes of its {stream} could not be read: {error}")
        return text.encode()


def tell_timing(client: Client, ended: Invocation) -> None:
    """Print the timeline; if it cannot be read, only a note, since the invocation is over."""
    try:
        found = client.functions.get_invocation_timeline(ended.function_id, ended.invocation_id)
        tables.timing(found)
    except ClientError as error:
        show.note(f"its timeline could not be read: {error}")


def exit_code(ended: Invocation) -> int:
    """The exit code of the command."""
    match ended.status:
        case "success":
            return 0
        case "failed":
            return min(max(ended.exit_code or 1, 1), HANDLERS_MAX)
        case "timeout":
            return TIMED_OUT
        case "oom":
            return OUT_OF_MEMORY
        case _:
            return 1
