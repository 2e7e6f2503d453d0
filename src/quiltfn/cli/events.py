"""`quiltfn events`: follows the tenant's events."""

import time
from typing import Annotated

from quiltfn.cli import show
from quiltfn.cli.output import Output, print_event
from quiltfn.cli.parsing import Option
from quiltfn.cli.session import Connection
from quiltfn.sdk import TenantEvent


def events(
    function: Annotated[
        str | None,
        Option(metavar="NAME_OR_ID", help="Events of this function only.", completes="function"),
    ] = None,
    types: Annotated[
        str | None,
        Option(
            metavar="TYPES", help="Event types, separated by commas: function,invocation.ended."
        ),
    ] = None,
    after: Annotated[
        str | None,
        Option(
            metavar="ID", help="Resume after this event, which must not be older than a minute."
        ),
    ] = None,
    follow: Annotated[
        bool,
        Option(
            ("--follow", "-f"),
            help="Accepted for symmetry with `logs`; this command always follows.",
        ),
    ] = True,
    *,
    connection: Connection,
) -> None:
    """Follow events until Ctrl-C: of functions, schedules, invocations, queues, and instances."""
    del follow  # accepted, but this command always follows
    with connection.session(function) as at:
        wanted = types.split(",") if types else ()
        for event in at.client.system.follow_events(function, types=wanted, after=after):
            if at.output is Output.TABLE:
                show.say(line_of(event))
            else:
                print_event(at.output, {"id": event.id, "type": event.type, "data": event.data})


def line_of(event: TenantEvent) -> str:
    """The event in one line, with the time of this machine."""
    fields = " ".join(f"{name}={_word(value)}" for name, value in event.data.items())
    return f"{time.strftime('%H:%M:%S')} {event.type:<20} {fields}".rstrip()


def _word(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{count}" for name, count in value.items()) or "-"
    return "-" if value is None else str(value)
