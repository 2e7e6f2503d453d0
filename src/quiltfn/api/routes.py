"""Every route in one screen, and what each does: parse is done, call a verb, render."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quiltfn import __version__
from quiltfn.api import parse, schema
from quiltfn.catalog import Catalog, Entry
from quiltfn.health import Health
from quiltfn.invoke import Invoker, Request
from quiltfn.lifecycle import Lifecycle
from quiltfn.model.errors import NotFound, Unprocessable
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import Status
from quiltfn.model.pool import PoolCounts, summed
from quiltfn.ports import InvocationQuery, Journal, Pools

MIB = 1024 * 1024
PAGE_MAX = 1000
INVOCATIONS_DEFAULT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """The verbs and ports that the routes call."""

    catalog: Catalog
    lifecycle: Lifecycle
    invoker: Invoker
    pools: Pools
    journal: Journal
    health: Health


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request, parsed: parameters, headers, and the body as its route's shape."""

    house: House
    tenant_id: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = None

    def entry(self) -> Entry:
        """The function that the path names by id."""
        return self.house.catalog.by_id(self.tenant_id, self.path["function_id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to send; `value` None sends no body."""

    value: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Asked], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """`body`: the shape it takes, None for none. `limit`: bytes of body at most."""

    handler: Handler
    body: type | None = None
    limit: int = MIB
    needs_body: bool = True


async def create(asked: Asked) -> Answer:
    new, content = asked.body.split()
    entry = await asked.house.lifecycle.create(asked.tenant_id, new, content)
    function = entry.function
    answer = schema.CreatedAnswer(
        function_id=function.id, name=function.name, state=function.state, version=1
    )
    return Answer(value=answer, status=201)


async def list_functions(asked: Asked) -> Answer:
    _only(asked, "limit", "cursor", "state", "cluster_id")
    limit = parse.integer(asked.query.get("limit", str(PAGE_MAX)), "limit", 1, PAGE_MAX)
    after = _cursor(asked.query["cursor"]) if "cursor" in asked.query else ""
    state = asked.query.get("state")
    if state is not None and state not in set(FunctionState) - {FunctionState.DELETED}:
        raise Unprocessable.field("state", "a state of a function", state, "active")
    cluster = asked.query.get("cluster_id")
    found = [
        entry
        for entry in asked.house.catalog.of_tenant(asked.tenant_id)
        if entry.function.id > after
        and (state is None or entry.function.state == state)
        and (cluster is None or entry.function.cluster_id == cluster)
    ]
    found.sort(key=lambda entry: entry.function.id)
    page = found[:limit]
    cursor = _cursor_of(page[-1].function.id) if len(found) > limit else None
    functions = [schema.function_answer(entry) for entry in page]
    headers = {}
    if cursor:
        headers["link"] = f'</api/functions?limit={limit}&cursor={cursor}>; rel="next"'
    return Answer(
        value=schema.FunctionList(functions=functions, next_cursor=cursor), headers=headers
    )


async def get(asked: Asked) -> Answer:
    return Answer(value=schema.function_answer(asked.entry()))


async def get_by_name(asked: Asked) -> Answer:
    entry = asked.house.catalog.by_name(asked.tenant_id, asked.path["name"])
    return Answer(value=schema.function_answer(entry))


async def update(asked: Asked) -> Answer:
    changes = asked.body.changes()
    if not changes:
        known = ", ".join(schema.UpdateBody.__struct_fields__)
        raise Unprocessable(
            "an update must name at least one field",
            details={"expected": f"one or more of: {known}", "example": {"handler": "echo hello"}},
        )
    return Answer(
        value=schema.function_answer(await asked.house.lifecycle.update(asked.entry(), changes))
    )


async def delete(asked: Asked) -> Answer:
    await asked.house.lifecycle.delete(asked.entry())
    return Answer(status=204)


async def deploy(asked: Asked) -> Answer:
    return Answer(value=schema.function_answer(await asked.house.lifecycle.deploy(asked.entry())))


async def pause(asked: Asked) -> Answer:
    await asked.house.lifecycle.pause(asked.entry())
    return Answer(value=schema.PauseAnswer())


async def resume(asked: Asked) -> Answer:
    return Answer(value=schema.function_answer(await asked.house.lifecycle.resume(asked.entry())))


async def invoke(asked: Asked) -> Answer:
    return await _invoke(asked, asked.entry())


async def invoke_by_name(asked: Asked) -> Answer:
    return await _invoke(asked, asked.house.catalog.by_name(asked.tenant_id, asked.path["name"]))


async def _invoke(asked: Asked, entry: Entry) -> Answer:
    body = asked.body or schema.InvokeBody()
    request = Request(
        payload=body.payload,
        environment=body.environment,
        timeout_seconds=body.timeout_seconds,
        traceparent=asked.headers.get("traceparent"),
    )
    record = await asked.house.invoker.invoke(entry, request)
    return Answer(
        value=schema.invocation_answer(record),
        headers={"x-invocation-id": record.invocation_id},
    )


async def list_invocations(asked: Asked) -> Answer:
    _only(asked, "limit", "cursor", "status", "cold_start", "min_duration_ms")
    entry, query = asked.entry(), asked.query
    status = query.get("status")
    if status is not None and status not in set(Status):
        raise Unprocessable.field("status", "a status of an invocation", status, "success")
    cold = query.get("cold_start")
    slow = query.get("min_duration_ms")
    page = await asked.house.journal.query(
        InvocationQuery(
            function_id=entry.function.id,
            limit=parse.integer(query.get("limit", str(INVOCATIONS_DEFAULT)), "limit", 1, PAGE_MAX),
            cursor=query.get("cursor"),
            status=Status(status) if status is not None else None,
            cold_start=parse.boolean(cold, "cold_start") if cold is not None else None,
            min_duration_ms=parse.integer(slow, "min_duration_ms", 0, 999_999_999)
            if slow is not None
            else None,
        )
    )
    invocations = [schema.invocation_answer(record) for record in page.items]
    return Answer(
        value=schema.InvocationList(invocations=invocations, next_cursor=page.next_cursor)
    )


async def get_invocation(asked: Asked) -> Answer:
    entry = asked.entry()
    record = await asked.house.journal.get(entry.function.id, asked.path["invocation_id"])
    if record is None:
        raise NotFound("the function has no invocation with this id")
    return Answer(value=schema.invocation_answer(record))


async def versions(asked: Asked) -> Answer:
    entry = asked.entry()
    current = entry.function.current_version
    found = await asked.house.lifecycle.versions(entry)
    answers = [schema.version_answer(version, current) for version in found]
    return Answer(value=schema.VersionList(versions=answers))


async def rollback(asked: Asked) -> Answer:
    entry = await asked.house.lifecycle.rollback(asked.entry(), asked.body.version)
    return Answer(value=schema.function_answer(entry))


async def pool(asked: Asked) -> Answer:
    entry = asked.entry()
    counts = asked.house.pools.counts(entry.function.id)
    return Answer(value=schema.pool_answer(entry.function.id, counts))


async def pool_stats(asked: Asked) -> Answer:
    house = asked.house
    counts: list[PoolCounts] = [
        house.pools.counts(entry.function.id) for entry in house.catalog.of_tenant(asked.tenant_id)
    ]
    return Answer(value=schema.pool_stats_answer(summed(counts)))


async def functions_health(asked: Asked) -> Answer:
    return Answer(value=await asked.house.health.report())


async def alive(_asked: Asked) -> Answer:
    return Answer(value={"status": "ok"})


async def system_info(asked: Asked) -> Answer:
    machine = asked.house.health.machine
    return Answer(
        value={
            "version": __version__,
            "node_id": machine.node_id,
            "cgroup_mode": machine.cgroup_mode,
            "oci_runtime": machine.oci_runtime,
            "protections": machine.protections,
            "limits": {
                "memory_limit_mb": machine.memory_max_mib,
                "cpu_limit_percent": 100 * machine.cores,
            },
        }
    )


CREATE = Route(create, schema.CreateBody)
INVOKE = Route(invoke, schema.InvokeBody, 8 * MIB, needs_body=False)
INVOKE_NAME = Route(invoke_by_name, schema.InvokeBody, 8 * MIB, needs_body=False)
# Fixed words come before {function_id}; the first path that fits wins.
FUNCTION = "/api/functions/{function_id}"
ROUTES: list[tuple[str, dict[str, Route]]] = [
    (FUNCTION + "/invoke", {"POST": INVOKE}),
    ("/api/functions/invoke/{name}", {"POST": INVOKE_NAME}),
    ("/health", {"GET": Route(alive)}),
    ("/api/system/info", {"GET": Route(system_info)}),
    ("/api/functions", {"POST": CREATE, "GET": Route(list_functions)}),
    ("/api/functions/health", {"GET": Route(functions_health)}),
    ("/api/functions/pool/stats", {"GET": Route(pool_stats)}),
    ("/api/functions/by-name/{name}", {"GET": Route(get_by_name)}),
    (
        FUNCTION,
        {"GET": Route(get), "PUT": Route(update, schema.UpdateBody), "DELETE": Route(delete)},
    ),
    (FUNCTION + "/deploy", {"POST": Route(deploy)}),
    (FUNCTION + "/pause", {"POST": Route(pause)}),
    (FUNCTION + "/resume", {"POST": Route(resume)}),
    (FUNCTION + "/invocations", {"GET": Route(list_invocations)}),
    (FUNCTION + "/invocations/{invocation_id}", {"GET": Route(get_invocation)}),
    (FUNCTION + "/versions", {"GET": Route(versions)}),
    (FUNCTION + "/rollback", {"POST": Route(rollback, schema.RollbackBody)}),
    (FUNCTION + "/pool", {"GET": Route(pool)}),
]


def _only(asked: Asked, *known: str) -> None:
    """Refuses query parameters that the route does not know: a misspelt filter filters nothing."""
    for name in asked.query:
        if name not in known:
            raise Unprocessable.field(
                name[:80], f"one of the query parameters {', '.join(known)}", None
            )


def _cursor_of(function_id: str) -> str:
    return base64.urlsafe_b64encode(function_id.encode()).decode().rstrip("=")


def _cursor(text: str) -> str:
    try:
        padded = text + "=" * (-len(text) % 4)
        decoded = base64.urlsafe_b64decode(padded.encode("ascii")).decode("ascii")
        if len(decoded) != 36:
            raise ValueError
    except (binascii.Error, ValueError):
        raise Unprocessable.field("cursor", "a next_cursor as a list gave it", text) from None
    return decoded
