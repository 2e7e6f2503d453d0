"""The native lane: answers ordinary invocations without a task, with compiled parts.

An ordinary invocation is one request in one piece, with usual headers, of a known caller, whose
function has a ready instance. The lane does what the path through `App`, `routes/invoke.py` and
`Invoker.invoke` does, with the same records and bytes; whatever it doesn't know it leaves to that
path, before it has an effect. What turns out to be unusual at the end is left to it, too.
"""

from collections.abc import Coroutine
from functools import partial
from typing import Any

import msgspec
import structlog

from quiltfn.api.app import App, Context
from quiltfn.api.call_response import LONG_OUTPUT_BYTES, call_response
from quiltfn.api.http.budgets import CallOutputBudget
from quiltfn.api.http.connection import HttpConnection
from quiltfn.api.http.connections import ConnectionLimits
from quiltfn.api.http.guards import is_loopback, names_host
from quiltfn.api.http.request import Headers, Request
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Application
from quiltfn.api.http.text_size import TEXT_FACTOR
from quiltfn.api.services import Services
from quiltfn.base.ids import new_id
from quiltfn.calls import invoke
from quiltfn.functions.catalog import Entry
from quiltfn.model.access import Caller, Scope
from quiltfn.model.invocation import Invocation, Status
from quiltfn.native import compiled
from quiltfn.tenants.access import ANYBODY
from quiltfn.tenants.admission import InFlight

# Longer requests and outputs aren't ordinary. `HEADERS` in request.c: ordinary headers.
DATA_MAX, OUTPUT_MAX, HEADERS = 16 * 1024, LONG_OUTPUT_BYTES // TEXT_FACTOR, 12
NO_HEADERS = Headers()
Found = tuple[bool, str, str, str | None, str | None, bytes | None]  # as in compiled.pyi

_log = structlog.get_logger()


class LaneCall(msgspec.Struct, eq=False):
    """An invocation in the lane, and what must be released at its end."""

    connection: HttpConnection
    request: Request
    request_id: str
    is_by_name: bool
    name: str
    caller: Caller
    wanted: invoke.Request
    in_flight: InFlight
    output: CallOutputBudget


class Lane:
    """`api.http.connection.Lane`, in front of `app`."""

    def __init__(self, services: Services, app: App, data_max: int) -> None:
        self._services, self._app, self._data_max = services, app, data_max
        self._access, self._catalog = services.access, services.catalog
        self._admission, self._invoker = services.admission, services.invoker
        self._outputs, self._policies = services.budgets.outputs, services.work.policies
        self._url_host = services.urls.host

    def take(self, connection: HttpConnection, client: str, data: bytes) -> bool:
        try:
            return self._take(connection, client, data)
        except Exception:
            _log.exception("an ordinary request was left to the complete path")
            return False

    def _take(self, connection: HttpConnection, client: str, data: bytes) -> bool:
        assert compiled is not None
        found = compiled.request(data) if len(data) <= self._data_max else None
        if found is None:
            return False
        is_by_name, name, host, secret, _, _ = found
        caller = self._caller(host, secret)
        if caller is None or not caller.scope.includes(Scope.INVOKE):
            return False
        tenant_id = caller.tenant_id
        entry = self._entry(tenant_id, name, is_by_name=is_by_name)
        if entry is None or not self._admission.would_admit(tenant_id):
            return False
        lease = self._invoker.reserve(entry)
        if lease is None:
            return False
        try:
            call = self._begin(connection, client, caller, found)
        except Exception:
            lease.leave()
            raise
        self._invoker.start(entry, call.wanted, lease, partial(self._ended, call))
        return True

    def _begin(
        self, connection: HttpConnection, client: str, caller: Caller, found: Found
    ) -> LaneCall:
        is_by_name, name, _, _, request_id, payload = found
        request = Request("POST", "", NO_HEADERS, b"", client, connection)
        request.is_whole = True
        request_id = request_id or new_id()
        output = CallOutputBudget(self._outputs, caller.tenant_id)
        wanted = invoke.Request(
            payload=payload,
            may_write=caller.scope.includes(Scope.WRITE),
            long_output=output,
            invocation_id=new_id(),
            client=request,
        )
        call = LaneCall(
            connection,
            request,
            request_id,
            is_by_name,
            name,
            caller,
            wanted,
            self._admission.call(caller.tenant_id),
            output,
        )
        connection.begin(request)
        return call

    def _caller(self, host: str, secret: str | None) -> Caller | None:
        if self._url_host and names_host(host, self._url_host):
            return None
        access = self._access
        if not access.is_open:
            return None if secret is None else access.identify_at_once(secret)
        return ANYBODY if is_loopback(host) and not access.is_outdated else None

    def _entry(self, tenant_id: str, name: str, *, is_by_name: bool) -> Entry | None:
        entry = self._catalog.find(tenant_id, name) if is_by_name else self._catalog.known(name)
        return entry if entry is not None and entry.function.tenant_id == tenant_id else None

    def _ended(self, call: LaneCall, ended: Invocation | Coroutine[Any, Any, Invocation]) -> None:
        data = None
        try:
            if isinstance(ended, Invocation):
                data = self._response(call, ended)
        except Exception:
            _log.exception("a response was left to the complete path", request_id=call.request_id)
        if data is not None:
            call.in_flight.__exit__()
            call.output.__exit__()
            call.connection.answer_at_once(call.request, data)
            return
        request, handler = call.request, partial(self._rest, call, ended)
        path = f"invoke/{call.name}" if call.is_by_name else f"{call.name}/invoke"
        request.path = f"/api/functions/{path}"
        call.connection.answer(
            request, lambda it: self._app.answer_call(it, call.request_id, call.caller, handler)
        )

    def _response(self, call: LaneCall, record: Invocation) -> bytes | None:
        """The response to an ordinary end; None for others."""
        assert compiled is not None
        timeline, version, started_at = record.timeline, record.version, record.started_at
        ended_at, duration_ms = record.ended_at, record.duration_ms
        if timeline is None or version is None or started_at is None:
            return None
        if ended_at is None or duration_ms is None or record.status is not Status.SUCCESS:
            return None
        if (
            record.stdout_dropped
            or record.stderr_dropped
            or len(record.stdout) + len(record.stderr) > OUTPUT_MAX
            or self._policies.record_policy_of(record.function_id).keep_input == "all"
        ):
            return None
        begin = call.connection.begin_answer(call.request, 200)
        if begin is None:
            return None
        return compiled.response(
            call.request_id,
            record.invocation_id,
            record.function_id,
            record.function_name,
            record.execution_node_id,
            begin,
            record.stdout,
            record.stderr,
            version,
            started_at,
            ended_at,
            duration_ms,
            timeline.queued,
            timeline.ran,
            timeline.recorded,
        )

    async def _rest(
        self, call: LaneCall, ended: Invocation | Coroutine[Any, Any, Invocation], context: Context
    ) -> Response:
        """The end of an invocation that turned out to be unusual."""
        with call.in_flight, call.output:
            record = ended if isinstance(ended, Invocation) else await ended
            work, credential = context.services.work, call.caller.credential
            await work.keep_input(record, call.wanted, credential)
            return await call_response(context, record)


def lane_of(services: Services, app: Application, limits: ConnectionLimits) -> Lane | None:
    """The lane in front of `app`. None: the library is missing, or each invocation needs more: it
    is traced, or another node may run it.
    """
    is_alone = services.fleet.is_alone and not services.lifecycle.others.are_possible
    if compiled is None or not isinstance(app, App) or not is_alone:
        return None
    data_max = min(DATA_MAX, limits.head_max_bytes, services.limits.invoke_body_max)
    return Lane(services, app, data_max) if limits.headers_max >= HEADERS else None
