"""Asks all other nodes for their parts of a response."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

from quiltfn.api.http.event_stream import Events
from quiltfn.api.http.route import AnyContext
from quiltfn.fleet.forwarding import ForwardingNode, request_of
from quiltfn.fleet.peer_streams import Together
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.placement import PeerResponse, PeerUnavailable

# Headers that are not forwarded, since this node reads the responses, not the client.
READ_HERE = frozenset(("accept-encoding",))
# Maximum time and size of another node's response.
ANSWER_MAX_S, ANSWER_MAX_BYTES = 2.0, 1024 * 1024
# Maximum number of responses that are read at a time.
READ_MAX = 16


async def asked_of_others(
    fleet: ForwardingNode, context: AnyContext
) -> AsyncGenerator[bytes, None]:
    """See `FleetNode`. A node is left out if it does not respond successfully within
    `ANSWER_MAX_S`, or if its response is longer than `ANSWER_MAX_BYTES`.
    """
    if context.request.forwarded is not None:
        return
    call = ForwardedCall(caller=context.caller, client=context.request.client)
    free = asyncio.Semaphore(READ_MAX)

    async def ask(node: str) -> bytes | None:
        with contextlib.suppress(PeerUnavailable, TimeoutError):
            async with (
                free,
                asyncio.timeout_at(until),
                request_of(context, fleet.uncounted, node, call, READ_HERE) as answer,
            ):
                body = await answer.read(ANSWER_MAX_BYTES)
                return body if answer.status == HTTPStatus.OK else None
        return None

    until = asyncio.get_running_loop().time() + ANSWER_MAX_S
    asking = [asyncio.ensure_future(ask(node)) for node in fleet.others()]
    try:
        for answered in asyncio.as_completed(asking):
            body = await answered
            if body is not None:
                yield body
    finally:
        for task in asking:
            task.cancel()


def streamed_by_all(
    fleet: ForwardingNode, context: AnyContext, own: Events, gap: Callable[[str], bytes]
) -> Together | None:
    if context.request.forwarded is not None:
        return None
    call = ForwardedCall(caller=context.caller, client=context.request.client)

    def ask(node: str) -> AbstractAsyncContextManager[PeerResponse]:
        return request_of(context, fleet.uncounted, node, call, READ_HERE)

    return Together(own, fleet.others, ask, gap, fleet.readers, context.tenant_id)
