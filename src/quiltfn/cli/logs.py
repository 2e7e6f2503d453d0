"""`quiltfn logs`: the output of ended and running invocations."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from itertools import chain, islice
from typing import Annotated, Any

import msgspec
from msgspec import Struct

from quiltfn.cli import scope, show
from quiltfn.cli.moments import Period
from quiltfn.cli.output import Output as Form
from quiltfn.cli.output import print_event
from quiltfn.cli.parsing import BadParameter, Option
from quiltfn.cli.scope import AllFunctions, NameOrAll
from quiltfn.cli.server_log import RequestLine, Servers, as_lines
from quiltfn.cli.session import Connection, Session
from quiltfn.sdk import Attempt, Client, Invocation, InvocationSummary, NotFoundError
from quiltfn.sdk.events import End, Event, Gap, Output, Started

PAGE = 100
CALLS = 10


class EarlierAttempt(Struct, frozen=True, kw_only=True):
    """A failed attempt of an invocation that was retried."""

    invocation_id: str
    function_name: str
    attempt: Attempt


LogEvent = Event | RequestLine | EarlierAttempt


class Stream(StrEnum):
    """The streams that a handler writes to."""

    STDOUT = "stdout"
    STDERR = "stderr"


class LogOptions(Struct, frozen=True, kw_only=True):
    """Which output is shown."""

    call: Annotated[
        str | None, Option(metavar="ID", help="Id of one invocation, which may still be running.")
    ] = None
    tail: Annotated[
        int | None, Option(metavar="LINES", help="Last LINES lines per invocation.")
    ] = None
    stream: Annotated[Stream | None, Option(help="Stream to show (default: both).")] = None


def logs(
    name_or_id: NameOrAll = None,
    *,
    wanted: LogOptions,
    period: Period,
    follow: Annotated[bool, Option(("--follow", "-f"), help="Stream new output.")] = False,
    all_functions: AllFunctions = False,
    connection: Connection,
) -> None:
    """Show the output of invocations, oldest first: of the last 10, or of those in a period.
    Standard output and standard error go to the streams of the same name, unchanged and in their
    original order.

    For a function that is an HTTP server, a line with method, path, status, and duration replaces
    the response; `functions output` prints the response. Without NAME_OR_ID, --follow shows the
    output of each invocation once it is over. For an asynchronous invocation with retries, the end
    of each earlier attempt's output comes first, and why it failed.
    """
    since, until = period.bounds()
    if wanted.call is not None and name_or_id is None:
        raise BadParameter("--call needs the function too: quiltfn logs NAME --call ID")
    if follow and until is not None:
        raise BadParameter("give --follow or --until, not both")
    with connection.session(name_or_id) as at:
        shown = Log(at, wanted, names=name_or_id is None)
        if wanted.call is not None and name_or_id is not None:
            shown.named(name_or_id, wanted.call)
            return
        chosen = scope.functions(at, name_or_id, all_functions=all_functions)
        is_plain = wanted.tail is None and period == Period()
        if not follow or not is_plain:
            found = recent(at.client, chosen, since, until)
            for record in found:
                shown.ended(record)
            if not found and not follow:
                show.note("no invocations")
        if follow and name_or_id is not None:
            shown.follow_one(name_or_id)
        elif follow:
            shown.follow_all(chosen)


class Log:
    """Shows the output of invocations. `names`: whether the lines about them name the function."""

    def __init__(self, at: Session, wanted: LogOptions, *, names: bool) -> None:
        self._names = names
        self._client, self._form, self._tail = at.client, at.output, wanted.tail
        self._only = None if wanted.stream is None else str(wanted.stream)
        self._servers = Servers(at.client)

    def named(self, function: str, invocation_id: str) -> None:
        """Show the whole output of the invocation with this id, until it ends."""
        self._earlier(self._client.functions.get_invocation(function, invocation_id))
        self.invocation(function, invocation_id)

    def invocation(
        self, function: str, invocation_id: str, only: str | None = None, name: str | None = None
    ) -> None:
        """Show an invocation's output until it ends. `name`: of its function, for a heading."""
        found = self._client.functions.follow_invocation_logs(
            function, invocation_id, only=only or self._only, tail=self._tail
        )
        is_cut = self._tail is not None or only is not None
        lines = found if is_cut else self._lines(function, found)
        self._write(lines, None if name is None else f"{name} {invocation_id}:")

    def ended(self, record: Invocation | InvocationSummary) -> None:
        """Show the output of an ended invocation. If it is an HTTP response, only its head is
        fetched.
        """
        function, invocation_id = record.function_id, record.invocation_id
        self._earlier(record)
        line = None
        if self._only != Stream.STDERR and self._servers.has(function):
            line = self._servers.line_of(record)
        if line is None:
            name = record.function_name if self._names else None
            self.invocation(function, invocation_id, name=name)
            return
        self._write(iter([line]))
        if self._only is None:
            self.invocation(function, invocation_id, Stream.STDERR)

    def _earlier(self, record: Invocation | InvocationSummary) -> None:
        """Show the output of the attempts before the last one, and why they failed."""
        for attempt in self._attempts_before(record):
            written = self._output_of(record.function_id, attempt.attempt)
            head = f"{record.function_name} {record.invocation_id}:" if self._names else None
            self._write(chain(written, [attempt]), head)

    def _attempts_before(self, record: Invocation | InvocationSummary) -> Iterator[EarlierAttempt]:
        number, invocation_id = record.attempt or 1, record.invocation_id
        if number == 1:
            return
        for attempt in self._client.functions.list_attempts(record.function_id, invocation_id):
            if attempt.attempt < number:
                yield EarlierAttempt(
                    invocation_id=invocation_id, function_name=record.function_name, attempt=attempt
                )

    def _output_of(self, function: str, attempt: Attempt) -> Iterator[Output]:
        """The output of an attempt. Empty for programs: for them, `EarlierAttempt` includes it."""
        if self._form is not Form.TABLE:
            return
        for stream, text in (("stdout", attempt.stdout), ("stderr", attempt.stderr)):
            is_response = stream == "stdout" and self._servers.has(function)
            if not text or is_response or self._only not in (None, stream):
                continue
            lines = text.splitlines(keepends=True)
            shown = lines if self._tail is None else lines[max(0, len(lines) - self._tail) :]
            yield Output(stream, 0, "".join(shown).encode())

    def follow_one(self, function: str) -> None:
        found = self._client.functions.follow_logs(function, only=self._only)
        self._write(self._with_attempts(self._lines(function, found)))

    def _with_attempts(self, events: Iterator[LogEvent]) -> Iterator[LogEvent]:
        """The events, with the failures of earlier attempts inserted before each invocation's end.
        The output of these attempts was already shown.
        """
        for event in events:
            if isinstance(event, End):
                with suppress(NotFoundError):  # the function is gone
                    yield from self._attempts_before(event.invocation)
            yield event

    def follow_all(self, chosen: Mapping[str, str] | None) -> None:
        """Show the output of each invocation of some or all functions once it is over."""
        for event in self._client.system.follow_events(types=["invocation"]):
            function = event.data.get("function_id", "")
            if chosen is not None and function not in chosen:
                continue
            if event.type == "calls" and (count := sum(event.data["ended"].values())):
                show.note(f"{show.amount(count, 'invocation')} of {function} left out: too many")
            elif event.type == "invocation.ended" and event.data["is_final"]:
                with suppress(NotFoundError):  # the function is gone
                    record = self._client.functions.get_invocation(
                        function, event.data["invocation_id"]
                    )
                    self.ended(record)

    def _lines(self, function: str, events: Iterator[Event]) -> Iterator[LogEvent]:
        is_response = self._only != Stream.STDERR and self._servers.has(function)
        return as_lines(events) if is_response else events

    def _write(self, events: Iterable[LogEvent], head: str | None = None) -> None:
        write(events, self._form, names=self._names, head=head)


def recent(
    client: Client, chosen: Mapping[str, str] | None, since: int | None, until: int | None
) -> list[InvocationSummary]:
    """The last ended invocations, oldest first: all in the period, or a limited number."""
    period: dict[str, Any] = {"since": since, "until": until}
    period["page_size"] = CALLS if since is None else PAGE
    most = CALLS if since is None else None

    def last(listed: Iterable[InvocationSummary]) -> list[InvocationSummary]:
        return list(islice((one for one in listed if one.ended_at is not None), most))

    if chosen is None:
        found = last(client.invocations.list(**period))
    else:
        by_function = scope.each(
            lambda function: last(client.invocations.list_of(function, **period)), chosen
        )
        found = [one for each in by_function.values() for one in each]
    return sorted(found, key=lambda record: record.invocation_id)[-(most or len(found)) :]


def write(
    events: Iterable[LogEvent],
    form: Form,
    *,
    names: bool = False,
    head: str | None = None,
) -> None:
    """Print output as it arrives, below `head`, and other events as notes; for programs, print each
    event. If both streams appear in one place, a change of stream starts a new line.
    """
    unended = None  # the stream whose last line is incomplete
    are_together = show.are_together()
    for event in events:
        if form is not Form.TABLE:
            print_event(form, as_object(event))
        elif isinstance(event, RequestLine):
            show.say(f"{event.function_name} {event}" if names else str(event))
        elif isinstance(event, Output):
            to = sys.stdout if event.stream == "stdout" else sys.stderr
            if event.data and head is not None:
                show.note(head)
                head = None
            if event.data and are_together and unended not in (None, to):
                show.write(sys.stderr, "\n")
            show.write_bytes(to, event.data)
            if event.data:
                unended = None if event.data.endswith(b"\n") else to
        else:
            if unended is sys.stderr or (unended is not None and are_together):
                show.write(sys.stderr, "\n")
            unended = None
            show.note(note_of(event, names=names))


def note_of(event: Started | Gap | End | EarlierAttempt, *, names: bool = False) -> str:
    if isinstance(event, Started):
        return f"{event.invocation_id} started{' cold' if event.cold_start else ''}"
    if isinstance(event, Gap):
        return missing(event)
    whose: Invocation | EarlierAttempt
    ended: Invocation | Attempt
    if isinstance(event, End):
        whose = ended = event.invocation
        status = ended.status if ended.status == "failed" else show.outcome_of(ended)
        tried = f"attempt {ended.attempt} " if ended.attempt else ""
    else:
        whose, ended = event, event.attempt
        status, tried = ended.status, f"attempt {ended.attempt} "
    took = f" in {ended.duration_ms} ms" if ended.duration_ms is not None else ""
    name = f"{whose.function_name} " if names else ""
    is_well = ended.status == "success"
    why = "" if is_well or not ended.error_message else f": {ended.error_message}"
    return f"{name}{whose.invocation_id} {tried}{status}{took}{why}"


def as_object(event: LogEvent) -> dict[str, object]:
    if isinstance(event, EarlierAttempt):
        return {"event": "attempt", **msgspec.structs.asdict(event)}
    if isinstance(event, RequestLine):
        return {"event": "request", **msgspec.structs.asdict(event)}
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
        return f"the output of node {gap.node_id} is missing"
    if gap.calls:
        return f"{show.amount(gap.calls, 'invocation')} left out: this reader was too slow"
    return f"{show.size(gap.bytes)} of its {gap.stream} are not stored, from byte {gap.offset} on"
