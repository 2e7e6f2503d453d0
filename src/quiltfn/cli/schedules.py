"""`quiltfn schedules …`: run functions by a cron expression or an interval."""

from pathlib import Path
from typing import Annotated, Any

from quiltfn.cli import payload as payloads
from quiltfn.cli import show, tables
from quiltfn.cli.options import FieldsOf, Paging, Yes
from quiltfn.cli.parsing import Argument, BadParameter, Group, Option
from quiltfn.cli.session import Connection, Reveal
from quiltfn.sdk import Invocation, Schedule
from quiltfn.wire import NewSchedule, ScheduleChanges

app = Group(
    name="schedules",
    help="Run functions by a cron expression or an interval.",
)

Name = Annotated[str, Argument(help="Schedule name.", completes="schedule")]
PayloadFile = Annotated[
    Path | None, Option(metavar="FILE", help="File with the payload, or - for standard input.")
]


@app.command()
def add(
    name: Name,
    function: Annotated[str, Argument(help="Name of the function to run.", completes="function")],
    *,
    payload_file: PayloadFile = None,
    fields: Annotated[
        dict[str, Any], FieldsOf(NewSchedule, leave_out=["name", "function", "enabled"])
    ],
    paused: Annotated[bool, Option(("--paused",), help="Create the schedule paused.")] = False,
    connection: Connection,
) -> None:
    """Create a schedule. Give --cron or --every."""
    if not {"cron", "every_seconds"} & fields.keys():
        raise BadParameter(
            "give --cron or --every", f'quiltfn schedules add {name} {function} --cron "0 3 * * *"'
        )
    fields |= _payload(fields, payload_file)
    with connection.session() as at:
        made = at.client.schedules.create(
            name=name, function=function, enabled=not paused, **fields
        )
        at.show(made, _say_next_run)


@app.command()
def update(
    name: Name,
    *,
    payload_file: PayloadFile = None,
    fields: Annotated[dict[str, Any], FieldsOf(ScheduleChanges, leave_out=["enabled"])],
    connection: Connection,
) -> None:
    """Change a schedule; other fields stay. An interval restarts if its length changes."""
    fields |= _payload(fields, payload_file)
    if not fields:
        raise BadParameter("name at least one field to change; --help lists them")
    with connection.session() as at:
        at.show(at.client.schedules.update(name, **fields), _say_next_run)


@app.command("list")
def list_schedules(paging: Paging, reveal: Reveal = False, *, connection: Connection) -> None:
    """List schedules."""
    with connection.session(reveal=reveal) as at:
        found = at.client.schedules.list(**paging.fields())
        at.show(found.first(), tables.schedules)


@app.command("show")
def show_schedule(name: Name, reveal: Reveal = False, *, connection: Connection) -> None:
    """Show a schedule, its next runs and its last one."""
    with connection.session(reveal=reveal) as at:
        at.show(at.client.schedules.get(name), tables.schedule)


@app.command()
def run(name: Name, connection: Connection) -> None:
    """Queue a run now."""

    def queued(record: Invocation) -> None:
        show.say(f"queued {record.invocation_id}")
        show.note(f"see the outcome with: quiltfn schedules runs {name}")

    with connection.session() as at:
        at.show(at.client.schedules.run(name), queued)


@app.command()
def pause(name: Name, connection: Connection) -> None:
    """Pause a schedule."""
    with connection.session() as at:
        at.show(at.client.schedules.pause(name), _say_next_run)


@app.command()
def resume(name: Name, connection: Connection) -> None:
    """Resume a paused schedule."""
    with connection.session() as at:
        at.show(at.client.schedules.resume(name), _say_next_run)


@app.command()
def remove(name: Name, yes: Yes = False, *, connection: Connection) -> None:
    """Delete a schedule. Invocations that it has queued still run."""
    with connection.session() as at:
        schedule = at.client.schedules.get(name)
        if not yes:
            show.ask(f"Delete the schedule {schedule.name} of {schedule.function}?")
        at.client.schedules.delete(schedule.name)
        at.say(f"removed {schedule.name}", removed=True, name=schedule.name)


@app.command()
def runs(name: Name, paging: Paging, connection: Connection) -> None:
    """List a schedule's runs, newest first."""
    with connection.session() as at:
        found = at.client.schedules.list_runs(name, **paging.fields())
        at.show(found.first(), tables.schedule_runs)


def _payload(fields: dict[str, Any], path: Path | None) -> dict[str, Any]:
    found = payloads.of_options(fields.get("payload"), path)
    return {} if found is None else {"payload": found}


def _say_next_run(schedule: Schedule) -> None:
    if not schedule.enabled:
        show.say(f"{schedule.name} is paused")
    elif schedule.next_runs:
        due = show.when(schedule.next_runs[0], tables.zone_of(schedule))
        show.say(f"{schedule.name} runs {schedule.function} next at {due}")
