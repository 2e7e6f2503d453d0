"""`quiltfn logs`: what the calls of a function wrote, and what they are writing."""

import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

from msgspec import Struct

from quiltfn.cli import show
from quiltfn.cli.options import seconds_of
from quiltfn.cli.output import Output as Form
from quiltfn.cli.output import print_event
from quiltfn.cli.parsing import Option
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.sdk import Client, Invocation
from quiltfn.sdk.events import End, Event, Gap, Output, Started

CALLS = 10


class Stream(StrEnum):
    """What a handler writes to."""

    STDOUT = "stdout"
    STDERR = "stderr"


class LogOptions(Struct, frozen=True, kw_only=True):
    """Which output is shown."""

    call: Annotated[
        str | None, Option(metavar="ID", help="Only the call with this id, even as it runs.")
    ] = None
    since: Annotated[
        str | None,
        Option(metavar="AGE", help="Calls that are no older: 90s, 10m, 2h, 1d. Else the last 10."),
    ] = None
    tail: Annotated[
        int | None, Option(metavar="LINES", help="Of each call only so many of its last lines.")
    ] = None
    stream: Annotated[Stream | None, Option(help="Only this stream.")] = None


def logs(
    name_or_id: NameOrId,
    wanted: LogOptions,
    follow: Annotated[
        bool, Option(("--follow", "-f"), help="Go on with what calls write from now on.")
    ] = False,
    *,
    connection: Connection,
) -> None:
    """Show what the calls of a function wrote, oldest first. Their standard output comes on
    standard output and their standard error on standard error, each as they are, in the order they
    came.
    """
    age = None if wanted.since is None else seconds_of("--since", wanted.since)
    only = None if wanted.stream is None else str(wanted.stream)
    with connection.session(name_or_id) as at:
        functions = at.client.functions

        def show_call(function: str, one: str) -> None:
            found = functions.follow_invocation_logs(function, one, only=only, tail=wanted.tail)
            write(found, at.output)

        if wanted.call is not None:
            show_call(name_or_id, wanted.call)
            return
        if not follow or wanted != LogOptions(stream=wanted.stream):
            for record in recent(at.client, name_or_id, age):
                show_call(record.function_id, record.invocation_id)
        if follow:
            write(functions.follow_logs(name_or_id, only=only), at.output)


def recent(client: Client, function: str, age: float | None) -> list[Invocation]:
    """The last calls that are over, oldest first: those no older than `age` seconds, or some."""
    oldest = None if age is None else time.time() - age
    found: list[Invocation] = []
    for one in client.functions.list_invocations(function, page_size=CALLS):
        began = one.started_at or one.ended_at or 0
        if (len(found) == CALLS) if oldest is None else began < oldest:
            break
        if one.ended_at is not None:
            found.append(one)
    return found[::-1]


def write(events: Iterator[Event], form: Form) -> None:
    """Prints output as it comes, and notes of the rest; or each event for programs."""
    is_unended = False  # what was written last, where a note would come behind it
    for event in events:
        if form is not Form.TABLE:
            print_event(form, as_object(event))
        elif isinstance(event, Output):
            to = sys.stdout if event.stream == "stdout" else sys.stderr
            show.write_bytes(to, event.data)
            is_unended = event.data[-1:] not in (b"", b"\n") and (to is sys.stderr or to.isatty())
        else:
            if is_unended:
                show.write(sys.stderr, "\n")
            is_unended = False
            show.note(note_of(event))


def note_of(event: Started | Gap | End) -> str:
    if isinstance(event, Started):
        return f"{event.invocation_id} started{' cold' if event.cold_start else ''}"
    if isinstance(event, Gap):
        return missing(event)
    ended = event.invocation
    status = ended.status if ended.status == "failed" else show.status_of(ended)
    told = f" in {ended.duration_ms} ms" if ended.duration_ms is not None else ""
    return f"{ended.invocation_id} {status}{told}{show.raised(ended.stderr or '')}"


def as_object(event: Event) -> dict[str, object]:
    if isinstance(event, End):
        return {"event": "end", "invocation": event.invocation}
    if isinstance(event, Started):
        return {"event": "started", "invocation_id": event.invocation_id}
    if isinstance(event, Gap):
        return {"event": "gap", "gap": event}
    named = {"invocation_id": event.invocation_id} if event.invocation_id else {}
    return {"event": event.stream, "offset": event.offset, "text": event.text, **named}


def missing(gap: Gap) -> str:
    if gap.node_id is not None:
        return f"what calls on node {gap.node_id} write is missing"
    if gap.calls:
        return f"{show.amount(gap.calls, 'call')} left out: this reader was too slow"
    return f"{show.size(gap.bytes)} of its {gap.stream} are not kept, from byte {gap.offset} on"
