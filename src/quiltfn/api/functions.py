"""The routes over functions: what each does, parse being done: call a verb, render."""

import itertools

from quiltfn.api import pages, parse, schema
from quiltfn.api.byte_range import part_of
from quiltfn.api.rooms import OutputOfCall
from quiltfn.api.route import Answer, Asked
from quiltfn.api.text_size import text_size
from quiltfn.catalog import Entry
from quiltfn.invoke import Request
from quiltfn.model.access import Scope
from quiltfn.model.cursors import BEFORE_EVERY_ID, from_cursor
from quiltfn.model.errors import CapacityFull, NotFound, PreconditionFailed, Unprocessable
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.model.pool import summed
from quiltfn.ports import InvocationQuery

PAGE_MAX = 1000
INVOCATIONS_DEFAULT = 50
STREAMS = ("stdout", "stderr")
OCTETS = "application/octet-stream"
OUTPUTS = ("full", "none")
# Output of a call from which on its answer is a long one.
LONG_OUTPUT_BYTES = 64 * 1024
LISTED_STATES = tuple(one for one in FunctionState if one is not FunctionState.DELETED)


async def create_function(asked: Asked) -> Answer:
    """Create a function. It is pending and has version 1; deploy it next."""
    new, content = asked.body.split()
    services = asked.services
    services.admission.check_functions(services.catalog.count(asked.tenant_id))
    entry = await services.lifecycle.create(asked.tenant_id, new, content)
    function = entry.function
    answer = schema.CreatedAnswer(
        function_id=function.id, name=function.name, state=function.state, version=1
    )
    return Answer(value=answer, status=201, object_id=function.id)


async def list_functions(asked: Asked) -> Answer:
    """List the tenant's functions, oldest first."""
    limit = parse.integer(asked.query.get("limit", str(PAGE_MAX)), "limit", 1, PAGE_MAX)
    after = from_cursor(asked.query.get("cursor"), BEFORE_EVERY_ID)
    state = asked.query.get("state")
    if state is not None:
        parse.one_of(state, "state", LISTED_STATES, "active")
    cluster = asked.query.get("cluster_id")
    async with asked.services.rooms.answers.making(pages.room(asked), asked.tenant_id):
        matching = (
            entry
            for entry in asked.services.catalog.of_tenant(asked.tenant_id, after)
            if (state is None or entry.function.state == state)
            and (cluster is None or entry.function.cluster_id == cluster)
        )
        found = list(itertools.islice(matching, limit + 1))
        shown = ((entry.function.id, _function(asked, entry)) for entry in found)
        return await pages.answer(asked, "functions", shown, limit)


async def get_function(asked: Asked) -> Answer:
    """Show one function. Its ETag goes into If-Match of an update that must not overwrite."""
    return _shown(asked, asked.entry())


async def get_function_by_name(asked: Asked) -> Answer:
    """Show one function, by its name."""
    return _shown(asked, asked.services.catalog.by_name(asked.tenant_id, asked.path["name"]))


async def update_function(asked: Asked) -> Answer:
    """Update a function: every update makes a new version, none is ever changed. What is not named
    stays; null resets what may be null. An active function answers once new calls are served by the
    new version, or with error_message if that cannot stand.
    """
    changes = asked.body.changes()
    if not changes:
        known = ", ".join(schema.UpdateBody.__struct_fields__)
        raise Unprocessable(
            "an update must name at least one field",
            details={"expected": f"one or more of: {known}", "example": {"handler": "echo hello"}},
        )
    entry = asked.entry()
    expected = _if_match(asked)
    return _shown(asked, await asked.services.lifecycle.update(entry, changes, expected))


async def delete_function(asked: Asked) -> Answer:
    """Delete a function. New and waiting calls get 404 at once; running ones have 5 seconds."""
    await asked.services.lifecycle.delete(asked.entry())
    return Answer(status=204)


async def deploy_function(asked: Asked) -> Answer:
    """Deploy: make instances ready. The answer says active, or error with error_message, or, after
    20 seconds, deploying.
    """
    return _shown(asked, await asked.services.lifecycle.deploy(asked.entry()))


async def pause_function(asked: Asked) -> Answer:
    """Pause: new and waiting calls are refused, running ones finish, nothing stays warm."""
    await asked.services.lifecycle.pause(asked.entry())
    return Answer(value=schema.PauseAnswer())


async def resume_function(asked: Asked) -> Answer:
    """Resume a paused function; it is deployed again."""
    return _shown(asked, await asked.services.lifecycle.resume(asked.entry()))


async def invoke_function(asked: Asked) -> Answer:
    """Invoke a function and wait for its end. A handler that fails is an answer, not an error:
    read status and exit_code.
    """
    return await _invoke(asked, asked.entry())


async def invoke_function_by_name(asked: Asked) -> Answer:
    """Invoke a function, by its name, and wait for its end."""
    entry = asked.services.catalog.by_name(asked.tenant_id, asked.path["name"])
    return await _invoke(asked, entry)


def _request(asked: Asked, output: OutputOfCall) -> Request:
    """What the body asks for; the body is not kept, since the call may wait long."""
    body, asked.body = asked.body or schema.InvokeBody(), None
    return Request(
        payload=None if body.payload is None else body.payload.encode(),
        environment=body.environment,
        timeout_seconds=body.timeout_seconds,
        traceparent=asked.headers.get("traceparent"),
        may_write=_sees_values(asked),
        long_output=output,
    )


async def _invoke(asked: Asked, entry: Entry) -> Answer:
    services = asked.services
    tenant_id = asked.tenant_id
    with services.rooms.outputs.call(tenant_id) as output, services.admission.call(tenant_id):
        record = await services.invoker.invoke(entry, _request(asked, output))
        headers = {"x-invocation-id": record.invocation_id, **_truncated(record)}
        if record.timeline is not None:
            headers["server-timing"] = record.timeline.server_timing()
        if len(record.stdout) + len(record.stderr) <= LONG_OUTPUT_BYTES:
            return Answer(value=schema.invocation_answer(record), headers=headers)
        try:
            size = text_size(record.stdout) + text_size(record.stderr)
            async with services.rooms.answers.making(size, tenant_id):
                return pages.encoded(schema.invocation_answer(record), headers)
        except CapacityFull as error:
            error.with_record(record.invocation_id, executed=True)
            raise


async def list_invocations(asked: Asked) -> Answer:
    """List a function's calls, newest first."""
    entry, query = asked.entry(), asked.query
    status = query.get("status")
    if status is not None:
        parse.one_of(status, "status", tuple(Status), "success")
    cold = query.get("cold_start")
    slow = query.get("min_duration_ms")
    limit = parse.integer(query.get("limit", str(INVOCATIONS_DEFAULT)), "limit", 1, PAGE_MAX)
    output = parse.one_of(query.get("output", "full"), "output", OUTPUTS, "none")
    wanted = InvocationQuery(
        function_id=entry.function.id,
        limit=limit,
        cursor=query.get("cursor"),
        status=Status(status) if status is not None else None,
        cold_start=parse.boolean(cold, "cold_start") if cold is not None else None,
        min_duration_ms=parse.integer(slow, "min_duration_ms", 0, 999_999_999)
        if slow is not None
        else None,
        max_bytes=asked.services.limits.page_max,
        with_output=output == "full",
    )
    async with asked.services.rooms.answers.making(pages.room(asked), asked.tenant_id):
        page = await asked.services.journal.query(wanted)
        shown = ((one.invocation_id, schema.invocation_answer(one)) for one in page.items)
        return await pages.answer(asked, "invocations", shown, limit, page.next_cursor)


async def get_invocation(asked: Asked) -> Answer:
    """Show the record of one call."""
    async with asked.services.rooms.answers.making(pages.room(asked), asked.tenant_id):
        record = await _record(asked)
        return pages.encoded(schema.invocation_answer(record), _truncated(record))


async def get_invocation_output(asked: Asked) -> Answer:
    """Read what the handler wrote, byte for byte; Range asks for a part. A record shows the same as
    text, with U+FFFD for what is not UTF-8.
    """
    stream = parse.one_of(asked.query.get("stream", "stdout"), "stream", STREAMS, "stderr")
    async with asked.services.rooms.answers.making(pages.room(asked), asked.tenant_id):
        record = await _record(asked)
        if record.status not in FINAL:
            raise NotFound("the call has not ended yet", hint="ask again once it has")
        whole: bytes = getattr(record, stream)
        # Nothing here has a validator, so no If-Range can match, and the whole is to be sent then.
        wanted = None if "if-range" in asked.headers else asked.headers.get("range")
        headers = {"accept-ranges": "bytes", **_truncated(record)}
        part = part_of(len(whole), wanted)
        if part is None:
            return Answer(value=whole, headers=headers, content_type=OCTETS)
        first, end = part
        headers["content-range"] = f"bytes {first}-{end - 1}/{len(whole)}"
        return Answer(value=whole[first:end], status=206, headers=headers, content_type=OCTETS)


async def get_invocation_timeline(asked: Asked) -> Answer:
    """Show where the time of one call went, phase by phase, in microseconds, and why it was cold.
    queued: in line for an instance. placed and specialised: the wait while a sandbox was made and
    became one of this version; cold calls only. ran: from the hand-over to the handler's end.
    recorded: writing its records.
    """
    record = await _record(asked)
    if record.timeline is None:
        if record.status not in FINAL:
            raise NotFound("the call has not ended yet", hint="ask again once it has")
        raise NotFound(
            "no timeline was kept of this invocation",
            hint="there is none of calls that ended with their server, or before it kept any",
        )
    return Answer(value=schema.timeline_answer(record, record.timeline))


async def list_function_versions(asked: Asked) -> Answer:
    """List a function's versions, newest first."""
    entry, query = asked.entry(), asked.query
    limit = parse.integer(query.get("limit", str(PAGE_MAX)), "limit", 1, PAGE_MAX)
    after = from_cursor(query["cursor"], "") if "cursor" in query else None
    current, show = entry.function.current_version, _sees_values(asked)
    async with asked.services.rooms.answers.making(pages.room(asked), asked.tenant_id):
        page = await asked.services.lifecycle.versions(entry, after, limit)
        shown = ((one.id, schema.version_answer(one, current, show=show)) for one in page.items)
        return await pages.answer(asked, "versions", shown, limit, page.next_cursor)


async def rollback_function(asked: Asked) -> Answer:
    """Roll back to an earlier version; none is made by that."""
    entry = await asked.services.lifecycle.rollback(asked.entry(), asked.body.version)
    return _shown(asked, entry)


async def get_function_pool(asked: Asked) -> Answer:
    """Count a function's instances. Ready ones are started and invocable now; busy includes those
    that are being cleaned.
    """
    entry = asked.entry()
    counts = asked.services.pools.counts(entry.function.id)
    return Answer(value=schema.pool_answer(entry.function.id, counts))


async def get_function_egress(asked: Asked) -> Answer:
    """Show what the function's sandboxes may reach, and count the attempts that were refused since
    the server started.
    """
    entry = asked.entry()
    return Answer(
        value=schema.EgressAnswer(
            function_id=entry.function.id,
            network=entry.version.content.pinned.network,
            blocked_count=await asked.services.pools.blocked(entry.function.id),
        )
    )


async def get_pool_stats(asked: Asked) -> Answer:
    """Count all instances of the tenant, state by state."""
    services = asked.services
    own = services.catalog.owned(asked.tenant_id, services.pools.occupied())
    counts = summed(services.pools.counts(function_id) for function_id in own)
    return Answer(value=schema.pool_stats_answer(counts))


def _truncated(record: Invocation) -> dict[str, str]:
    """The header that says how many bytes each stream lacks; none where nothing was dropped."""
    if not (record.stdout_dropped or record.stderr_dropped):
        return {}
    dropped = {"stdout": record.stdout_dropped, "stderr": record.stderr_dropped}
    told = ", ".join(f"{stream}={count}" for stream, count in dropped.items() if count)
    return {"x-output-truncated": told}


async def _record(asked: Asked) -> Invocation:
    """The record that the path names."""
    entry = asked.entry()
    record = await asked.services.journal.get(entry.function.id, asked.path["invocation_id"])
    if record is None:
        raise NotFound("the function has no invocation with this id")
    return record


def _sees_values(asked: Asked) -> bool:
    """Whether the caller may write: then it may see and set the environment's values."""
    return asked.caller.scope.includes(Scope.WRITE)


def _function(asked: Asked, entry: Entry) -> schema.FunctionAnswer:
    return schema.function_answer(entry, show=_sees_values(asked))


def _shown(asked: Asked, entry: Entry) -> Answer:
    return Answer(value=_function(asked, entry), headers={"etag": f'"{entry.fingerprint()}"'})


def _if_match(asked: Asked) -> set[str] | None:
    """The fingerprints that If-Match allows; None where anything is fine."""
    given = asked.headers.get("if-match")
    if given is None or given.strip() == "*":
        return None
    tags = [tag.strip() for tag in given.split(",")]
    if not all(len(tag) >= 2 and tag[0] == tag[-1] == '"' for tag in tags):
        # A weak tag never matches here (RFC 9110, 13.1.1), and anything else is not a tag.
        raise PreconditionFailed("If-Match must be an ETag as a GET gave it", hint="GET it again")
    return {tag[1:-1] for tag in tags}
