"""`client.schedules`: run functions by a cron expression or an interval."""

from quiltfn.sdk.methods import (
    AnyClient,
    Group,
    Listing,
    Method,
    PagedMethod,
    with_fields_of,
    with_name_and_fields_of,
)
from quiltfn.sdk.named_function import listing
from quiltfn.sdk.request import Flow, ask, change, delete, get, post, segment
from quiltfn.wire import (
    Invocation,
    NewSchedule,
    Schedule,
    ScheduleChanges,
    SchedulePage,
    ScheduleRun,
    ScheduleRunPage,
)

BASE = "/api/schedules"


@with_fields_of(NewSchedule)
def create_schedule(new: NewSchedule) -> Flow[Schedule]:
    """Create a schedule: give either `cron` or `every_seconds`."""
    return ask(post(BASE, Schedule, new, takes_key=True))


def list_schedules(
    *, page_size: int | None = None, cursor: str | None = None
) -> Listing[SchedulePage, Schedule]:
    """The tenant's schedules, oldest first."""
    paging = {"limit": page_size, "cursor": cursor}
    return listing(BASE, SchedulePage, lambda page: page.schedules, paging)


def get_schedule(name: str) -> Flow[Schedule]:
    """One schedule, with its next times and its last run."""
    return ask(get(f"{BASE}/{segment(name)}", Schedule))


@with_name_and_fields_of(ScheduleChanges)
def update_schedule(name: str, changes: ScheduleChanges) -> Flow[Schedule]:
    """Change a schedule. Omitted fields stay the same; None resets nullable fields."""
    return ask(change(f"{BASE}/{segment(name)}", Schedule, changes))


def pause_schedule(name: str) -> Flow[Schedule]:
    """Stop a schedule from running its function until `resume`."""
    return update_schedule(name, enabled=False)


def resume_schedule(name: str) -> Flow[Schedule]:
    """Resume a paused schedule."""
    return update_schedule(name, enabled=True)


def delete_schedule(name: str) -> Flow[None]:
    """Delete a schedule. Invocations that it has queued still run."""
    return ask(delete(f"{BASE}/{segment(name)}"))


def run_schedule(name: str) -> Flow[Invocation]:
    """Queue a run now. Returns the record of the queued invocation."""
    return ask(post(f"{BASE}/{segment(name)}/run", Invocation, takes_key=True))


def list_schedule_runs(
    name: str, *, page_size: int | None = None, cursor: str | None = None
) -> Listing[ScheduleRunPage, ScheduleRun]:
    """The outcomes of a schedule's ticks, newest first."""
    path, paging = f"{BASE}/{segment(name)}/runs", {"limit": page_size, "cursor": cursor}
    return listing(path, ScheduleRunPage, lambda page: page.runs, paging)


class Schedules(Group[AnyClient]):
    """`client.schedules`."""

    create = Method(create_schedule)
    list = PagedMethod(list_schedules)
    get = Method(get_schedule)
    update = Method(update_schedule)
    pause = Method(pause_schedule)
    resume = Method(resume_schedule)
    delete = Method(delete_schedule)
    run = Method(run_schedule)
    list_runs = PagedMethod(list_schedule_runs)
