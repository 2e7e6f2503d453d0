"""`quiltfn top`: shows the load of all functions, updated every second."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

from msgspec import Struct, structs

from quiltfn.cli import show
from quiltfn.cli.load_columns import DROP, HEAD
from quiltfn.cli.output import Output
from quiltfn.cli.parsing import Option
from quiltfn.cli.session import Connection
from quiltfn.sdk import Client, ConnectionFailed, NotFoundError

REFRESH_S = 1.0
# Statistics cover this number of seconds, the shortest period that servers support.
WINDOW_S = 60
# Names and versions of functions are fetched again after this time, or if a new one appears.
NAMES_FOR_S = 10.0
# Maximum number of functions with names; the busiest functions are shown first.
FUNCTIONS_MAX = 1000
# Maximum number of tenants, since each takes two requests; those with the most instances and
# invocations are shown.
TENANTS_MAX = 20


class FunctionLoad(Struct, kw_only=True, frozen=True):
    """The load of one function. Counts invocations that ended in the last minute."""

    function_id: str
    name: str
    tenant_id: str | None = None
    version: int | None
    ready: int = 0
    busy: int = 0
    starting: int = 0
    parked: int = 0
    memory_mib: float = 0.0
    calls_per_second: float = 0.0
    errors: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


class Load(Struct, kw_only=True, frozen=True):
    """The load of all functions with instances or recent invocations, the busiest first."""

    functions: list[FunctionLoad]


def top(
    *,
    all_tenants: Annotated[
        bool,
        Option(("--all-tenants",), help="Show functions of all tenants; needs an operator's key."),
    ] = False,
    connection: Connection,
) -> None:
    """Monitor all functions, updated every second; q or Ctrl-C quits.

    Each row has a function's instances by state, and its invocations per second, latencies and
    errors of the last minute. In a pipe or with -o json, print once.
    """
    with connection.session() as at:
        observer = AllTenants(at.client) if all_tenants else Observer(at.client)
        if at.output is Output.TABLE and sys.stdout.isatty():
            from quiltfn.cli import screen  # noqa: PLC0415 — loads what draws

            screen.refresh(frames(observer, at.address), REFRESH_S)
            return
        found = observer.look()
        at.print(found, show.encoded(found), _table)


def frames(
    observer: "Observer | AllTenants", server: str
) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Frames: a summary line and the table's rows. Repeats the last rows if the server is down."""
    found = Load(functions=[])
    while True:
        trouble = ""
        try:
            found = observer.look()
        except ConnectionFailed:
            trouble = ", which does not respond; this is its last known state"
        yield f"{server}{trouble} · {summary(found)}", [row(one) for one in found.functions]


class Observer:
    """Fetches the load of the tenant's functions."""

    def __init__(self, client: Client) -> None:
        self._client, self._names = client, dict[str, tuple[str, int]]()
        self._named_at = -NAMES_FOR_S

    def look(self) -> Load:
        """Raises as the client does."""
        functions = self._client.functions
        pools = {one.function_id: one for one in functions.list_pools()}
        page = functions.list_stats(window_seconds=WINDOW_S).first()
        stats = {one.function_id: one for one in page.functions}
        self._name(pools.keys() | stats.keys())
        found = []
        for function_id in pools.keys() | stats.keys():
            name, version = self._names.get(function_id, (function_id, None))
            said: dict[str, Any] = {"function_id": function_id, "name": name, "version": version}
            if (pool := pools.get(function_id)) is not None:
                said |= {"ready": pool.ready_count, "busy": pool.busy_count}
                said |= {"starting": pool.warming_count - pool.parked_count}
                said |= {"parked": pool.parked_count, "memory_mib": pool.memory_mib}
            if (calls := stats.get(function_id)) is not None:
                said |= {"calls_per_second": calls.calls / WINDOW_S, "errors": calls.errors}
                said |= {"p50_ms": calls.p50_ms, "p99_ms": calls.p99_ms}
            found.append(FunctionLoad(**said))
        found.sort(key=lambda function: (-function.busy, -function.calls_per_second, function.name))
        return Load(functions=found)

    def _name(self, wanted: set[str]) -> None:
        now = time.monotonic()
        if wanted <= self._names.keys() and now - self._named_at < NAMES_FOR_S:
            return
        self._named_at = now
        self._names = {}
        for function in self._client.functions.list_summaries():
            alias = show.elsewhere(function)
            self._names[function.id] = (
                function.name,
                alias.version if alias else function.current_version,
            )
            if len(self._names) == FUNCTIONS_MAX:
                break


class AllTenants:
    """Fetches the load of the functions of tenants with instances or invocations: of at most
    `TENANTS_MAX` tenants, those with the most of both together.
    """

    def __init__(self, client: Client) -> None:
        self._client, self._observers = client, dict[str, Observer]()

    def look(self) -> Load:
        """Raises as the client does."""
        found = []
        for tenant_id in self._busiest():
            observer = self._observers.get(tenant_id)
            if observer is None:
                observer = Observer(self._client.in_tenant(tenant_id))
                self._observers[tenant_id] = observer
            with suppress(NotFoundError):  # its last key and function were just deleted
                found += [
                    structs.replace(load, tenant_id=tenant_id, name=f"{tenant_id}/{load.name}")
                    for load in observer.look().functions
                ]
        found.sort(key=lambda load: (-load.busy, -load.calls_per_second, load.name))
        return Load(functions=found)

    def _busiest(self) -> list[str]:
        instances = self._client.system.list_instances().instances
        counts = Counter(one.tenant_id for one in instances if one.tenant_id)
        for tenant in self._client.tenants.list(page_size=1000).first().tenants:
            if tenant.calls_in_flight:
                counts[tenant.tenant_id] += tenant.calls_in_flight
        return [tenant_id for tenant_id, _ in counts.most_common(TENANTS_MAX)]


def summary(found: Load) -> str:
    """A line that summarizes all functions."""
    functions = found.functions
    instances = sum(one.ready + one.busy + one.starting + one.parked for one in functions)
    busy = sum(one.busy for one in functions)
    calls = sum(one.calls_per_second for one in functions)
    memory = sum(one.memory_mib for one in functions)
    parts = [show.amount(len(functions), "function"), show.amount(instances, "instance")]
    return ", ".join(
        [*parts, f"{busy} busy", f"{_rate(calls)} invocations/s", f"{memory:,.0f} MiB"]
    )


def row(load: FunctionLoad) -> tuple[str, ...]:
    """A row of the table, with the cells that HEAD names."""
    counts = (load.ready, load.busy, load.starting, load.parked)
    return (
        load.name,
        "-" if load.version is None else str(load.version),
        *(str(count) if count else "-" for count in counts),
        _rate(load.calls_per_second),
        _latency(load.p50_ms),
        _latency(load.p99_ms),
        str(load.errors or "-"),
        f"{load.memory_mib:,.0f} MiB",
    )


def _rate(calls: float) -> str:
    return "-" if not calls else f"{calls:.2f}" if calls < 10 else f"{calls:,.0f}"


def _latency(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.1f} ms" if milliseconds < 100 else f"{milliseconds:,.0f} ms"


def _table(found: Load) -> None:
    if not found.functions:
        show.note("no function has instances or had invocations in the last minute")
        return
    show.table(HEAD, [row(one) for one in found.functions], drop=DROP)
