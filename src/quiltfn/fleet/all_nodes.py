"""What all nodes of a fleet answer together: each is asked for its own part."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

from quiltfn.api.http.event_stream import Events
from quiltfn.api.http.route import RequestContext
from quiltfn.fleet.forwarding import ForwardingNode, request_of
from quiltfn.fleet.peer_streams import Together
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.placement import PeerResponse, PeerUnavailable

# What a client may want of an answer, and this node, which reads the answer itself, does not.
READ_HERE = frozenset(("accept-encoding",))
# How long other nodes have for what all of them are asked, and how long an answer may be.
ANSWER_MAX_S, ANSWER_MAX_BYTES = 2.0, 1024 * 1024
# So many answers are read at a time.
READ_MAX = 16


async def asked_of_others(
    fleet: ForwardingNode, context: RequestContext[Any]
) -> AsyncGenerator[bytes, None]:
    """As `FleetNode` says. A node that has no good answer within `ANSWER_MAX_S`, or a longer one
    than `ANSWER_MAX_BYTES`, is left out.
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
    fleet: ForwardingNode, context: RequestContext[Any], own: Events, gap: Callable[[str], bytes]
) -> Together | None:
    if context.request.forwarded is not None:
        return None
    call = ForwardedCall(caller=context.caller, client=context.request.client)

    def ask(node: str) -> AbstractAsyncContextManager[PeerResponse]:
        return request_of(context, fleet.uncounted, node, call, READ_HERE)

    return Together(own, fleet.others, ask, gap, fleet.readers, context.tenant_id)
