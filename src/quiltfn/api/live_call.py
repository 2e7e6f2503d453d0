"""An invocation whose caller watches it: its output is sent as it is written, and it may be
cancelled when the caller disconnects.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

import msgspec

from quiltfn.api.http import event_stream, parse
from quiltfn.api.http.budgets import CallOutputBudget
from quiltfn.api.http.event_stream import Events, event
from quiltfn.api.http.failures import failure, log_bug
from quiltfn.api.http.response import INVOCATION_ID, Response
from quiltfn.api.http.route import AnyContext, RequestContext, RouteServices
from quiltfn.api.live_output import OutputReader, live_events, started
from quiltfn.calls.invoke import Invoker, Request, RunningCall
from quiltfn.calls.work import Work
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import Internal, QuiltfnError
from quiltfn.model.invocation import Invocation
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.tenants.admission import Admission

ON_DISCONNECT = ("continue", "cancel")


class LiveServices(RouteServices, Protocol):
    """The services for running invocations and reading their output."""

    admission: Admission
    invoker: Invoker
    journal: SpoolJournal
    work: Work


def ends_with_caller(context: AnyContext) -> bool:
    """Whether to cancel the invocation when its caller disconnects. Raises `Unprocessable`."""
    wanted = context.headers.get("x-on-disconnect", "continue")
    return parse.one_of(wanted, "X-On-Disconnect", ON_DISCONNECT, "cancel") == "cancel"


@contextlib.asynccontextmanager
async def cancelled_if_lost(
    context: RequestContext[LiveServices], entry: Entry, request: Request
) -> AsyncIterator[None]:
    """Within the block, cancel the invocation if the client disconnects, provided that the client
    has asked for the cancellation.
    """
    if not ends_with_caller(context):
        yield
        return
    watch = asyncio.ensure_future(_cancel_when_lost(context, entry, request))
    try:
        yield
    finally:
        watch.cancel()


async def _cancel_when_lost(
    context: RequestContext[LiveServices], entry: Entry, request: Request
) -> None:
    await context.request.lost()
    context.services.invoker.in_background(_cancel(context, entry, request))


async def _cancel(context: RequestContext[LiveServices], entry: Entry, request: Request) -> None:
    assert request.invocation_id is not None
    await context.services.invoker.cancel(entry.function.id, request.invocation_id, "caller_left")


class WatchedCall(NamedTuple):
    """An invocation that continues if the client disconnects. `begun`: set once the handler has
    started. `call`: returns the record at the end.
    """

    begun: "asyncio.Future[RunningCall]"
    call: "asyncio.Task[Invocation]"

    async def handed_over(self) -> RunningCall | None:
        """The invocation once its handler has started. None: the invocation ended before."""
        either: tuple[asyncio.Future[Any], ...] = (self.call, self.begun)
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return self.begun.result() if self.begun.done() else None


def begin_call(
    context: RequestContext[LiveServices], entry: Entry, request: Request, output: CallOutputBudget
) -> WatchedCall:
    """Start an invocation that is watched. Until its end, it holds the budgets of the request."""
    begun: asyncio.Future[RunningCall] = asyncio.get_running_loop().create_future()
    request = msgspec.structs.replace(request, on_start=begun.set_result)
    reserved, context.reserved_bytes = context.reserved_bytes, 0
    work = _run(context, entry, request, output, reserved)
    return WatchedCall(begun, context.services.invoker.in_background(work))


async def stream_call(
    context: RequestContext[LiveServices], entry: Entry, request: Request, output: CallOutputBudget
) -> Response:
    """Run the invocation, and respond with its events once its handler has started. Until then the
    invocation may be refused like any other. It continues if the client disconnects, unless the
    client has asked for its cancellation.
    """
    invoker = context.services.invoker
    with event_stream.opened(context) as stream:
        cancels = ends_with_caller(context)
        watched = begin_call(context, entry, request, output)
        call = watched.call
        async with cancelled_if_lost(context, entry, request):
            running = await watched.handed_over()
        if running is None:
            call.result()  # raises if the invocation has no record

        def end_with_client() -> None:
            if cancels and not call.done():
                invoker.in_background(_cancel(context, entry, request))

        return stream.response(
            _events(context, entry, request, running, call),
            [(INVOCATION_ID, request.invocation_id or "")],
            on_close=end_with_client,
        )


async def _run(
    context: RequestContext[LiveServices],
    entry: Entry,
    request: Request,
    output: CallOutputBudget,
    reserved_bytes: int,
) -> Invocation:
    """Run the invocation, then release its budgets. `reserved_bytes`: its part of the budget of
    long bodies.
    """
    services, tenant_id = context.services, context.tenant_id
    try:
        with services.admission.call(tenant_id), output:
            record = await services.invoker.invoke(entry, request)
            await services.work.keep_input(record, request, context.caller.credential)
            return record
    except Internal:
        log_bug(context.request, context.request_id)
        raise
    finally:
        services.budgets.bodies.release(reserved_bytes, tenant_id, is_stranger=context.is_stranger)


async def _events(
    context: RequestContext[LiveServices],
    entry: Entry,
    request: Request,
    running: RunningCall | None,
    call: "asyncio.Task[Invocation]",
) -> Events:
    """The events from `started` to `end`, or to `error` if the invocation has no record."""
    journal, invocation_id = context.services.journal, request.invocation_id
    reader = OutputReader(journal, entry.function.id, invocation_id or "")
    try:
        if running is not None:
            yield started(running)
            async for piece in live_events(reader, running):
                yield piece
        await asyncio.wait({call})
        async for piece in reader.events():
            yield piece
        call.result()
        async for piece in reader.last_events():
            yield piece
    except QuiltfnError as error:
        body = failure(error, context.request_id).body
        assert isinstance(body, bytes)
        yield event("error", body)
    finally:
        reader.close()
