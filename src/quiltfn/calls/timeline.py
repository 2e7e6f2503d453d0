"""Collects the data about one ended or running invocation: its timeline, its attempts, the
invocation that caused it, and those that it caused.
"""

from collections.abc import Sequence

import msgspec

from quiltfn.calls.work import Work, attempt_of
from quiltfn.functions.catalog import Entry
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.timeline import Timeline
from quiltfn.model.version import Version
from quiltfn.ports.work import Attempt

CHILDREN_MAX = 100


class CallTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """One invocation. `record`: without its output. `timeline`: so far, while it runs; None if none
    was stored. `attempts`: first to last, including a running one. `children`: the newest
    invocations that it has caused, oldest first. `parent_function_id`: the function whose
    invocation caused it, if known. `variables`: the names of its variables.
    `has_input`: whether its input is stored.
    """

    record: Invocation
    timeline: Timeline | None
    attempts: Sequence[Attempt]
    children: Sequence[Invocation]
    parent_function_id: str | None
    variables: Sequence[str]
    has_input: bool


async def call_timeline(work: Work, entry: Entry, invocation_id: str) -> CallTimeline:
    """The data about an invocation of the function. Raises `NotFound`."""
    found = await _look(work, entry, invocation_id)
    if found.timeline is None and found.record.status is Status.RUNNING:
        # If the invocation has ended meanwhile, a retry finds its end; if it runs on another node,
        # a retry does no harm.
        found = await _look(work, entry, invocation_id)
    return found


async def _look(work: Work, entry: Entry, invocation_id: str) -> CallTimeline:
    function = entry.function
    record = await work.outline(entry, invocation_id)
    attempts = list(await work.attempts_at(record))
    children = await work.journal.children(function.tenant_id, invocation_id, CHILDREN_MAX)
    parent_id, parent_function_id = record.parent_invocation_id, None
    if parent_id is not None:
        parent_function_id = await work.journal.function_of(function.tenant_id, parent_id)
    kept = await work.store.input_variables(invocation_id)
    given = kept or ()
    version = await _version_of(work, entry, record)
    # Last, and without a further await: the invocation may end during one.
    progress = work.invoker.progress(function.id, invocation_id)
    timeline = record.timeline
    if progress is not None and not record.is_final:
        timeline, given = progress.timeline, (*given, *progress.variables)
        if progress.record is not None:
            record = msgspec.structs.replace(progress.record, timeline=timeline)
            attempts.append(attempt_of(record))
    return CallTimeline(
        record=record,
        timeline=timeline,
        attempts=attempts,
        children=children,
        parent_function_id=parent_function_id,
        variables=_names(version, given),
        has_input=kept is not None,
    )


async def _version_of(work: Work, entry: Entry, record: Invocation) -> Version | None:
    """The version that ran, or that would run now; None if this version was removed."""
    if record.version is None or record.version == entry.version.number:
        return entry.version
    return await work.functions.version(entry.function.id, record.version)


def _names(version: Version | None, given: Sequence[str]) -> Sequence[str]:
    names = set(given)
    if version is not None:
        names |= version.spec.runtime_snapshot.environment.keys() | version.spec.environment.keys()
    return sorted(names)
