"""Forwards requests to other nodes of the fleet: invocations that are placed there, and requests
about an invocation that runs there. A standalone server forwards nothing.

The other node's response is streamed to the client. A node that refuses an invocation has run no
part of it, so the next node is tried.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Protocol

import msgspec

from quiltfn.api.call_response import long_response
from quiltfn.api.fleet_node import F, ForwardingServices
from quiltfn.api.http.budgets import SHORT_BYTES
from quiltfn.api.http.request import ClientDisconnected, Request
from quiltfn.api.http.response import CutShort, Header, Response, encode
from quiltfn.api.http.route import (
    AnyContext,
    AnyRoute,
    Application,
    CalledFunction,
    RequestContext,
    Route,
)
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.base.ids import made_at_ms, new_id
from quiltfn.fleet.placement import Placement
from quiltfn.http_trigger.call import of_the_connection
from quiltfn.model.end_cause import NODE_LOST
from quiltfn.model.errors import CapacityFull, RuntimeUnavailable
from quiltfn.model.forwarded import ForwardedAnswer, ForwardedCall, Refusal
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.ports import Outline
from quiltfn.ports.placement import PeerRequest, PeerResponse, Peers, PeerUnavailable
from quiltfn.ports.streamed_body import BodyCut

# Headers of one connection (RFC 9110, 7.6.1), and the length, which the connection sets.
PER_CONNECTION = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"}
PER_CONNECTION |= {"transfer-encoding", "expect", "content-length"}
# Headers about the caller, whom this node has checked already, and headers that a node sets itself.
SAID_ANEW = {"x-request-id"}
CHECKED = {"authorization", "proxy-authorization", "x-api-key", "idempotency-key", *SAID_ANEW}
LEFT_OUT, LEFT_OUT_OF_URLS = PER_CONNECTION | CHECKED, PER_CONNECTION | SAID_ANEW
# The header with a node's metadata in a response to another node. A handler's header of that name
# is removed.
ANSWER = "x-quiltfn-fleet"
REMOVED = PER_CONNECTION | {ANSWER, "x-request-id"}
_decode_answer = msgspec.json.Decoder(ForwardedAnswer).decode
# Maximum number of nodes that are tried before an invocation runs, or waits, here.
TRIES = 3
# Pauses between lookups of a record that a node may have acknowledged but not stored yet: nodes
# store acknowledged records 25 times a second.
LOOK_AGAIN_S = (0.02, 0.04, 0.08, 0.12)

# Makes the error for a caller whose node was lost.
Gone = Callable[[PeerUnavailable], RuntimeUnavailable]
# Handles a request of another node, and returns the metadata of the response.
PeerApplication = Callable[[Request, ForwardedCall], Awaitable[Response]]


class ForwardingNode(Protocol):
    """This node, as the sender of forwarded requests."""

    @property
    def name(self) -> str: ...

    @property
    def placement(self) -> Placement: ...

    @property
    def peers(self) -> Peers: ...

    @property
    def uncounted(self) -> Peers:
        """Sends requests that are not invocations, and counts them apart: a node that stops does
        not wait for them.
        """

    @property
    def readers(self) -> StreamSlots:
        """The streams that all nodes take part in, each with a connection to every other node."""

    def others(self) -> Sequence[str]:
        """The other nodes that are present."""

    def lost(self, node: str, record: Invocation) -> None:
        """An invocation was sent to the node and may have run there, but its end is unknown.
        `record`: stored as its end, unless the node has another record.
        """


class _LeftUnsent(Exception):
    """The client left before anything was sent to the node. An invocation then ends here, with a
    record of that.
    """


async def elsewhere(
    fleet: ForwardingNode, context: RequestContext[F], route: Route[F]
) -> Response | None:
    if context.request.forwarded is not None:  # the forwarding node has chosen this one
        return None
    if route.called is not None:
        called = route.called(context)
        return None if called is None else await _placed(fleet, context, called)
    if "invocation_id" in context.parameters:
        return await _where_it_is(fleet, context, route)
    return None


async def _placed(
    fleet: ForwardingNode, context: RequestContext[ForwardingServices], called: CalledFunction
) -> Response | None:
    """The response of another node that took the invocation; None: the invocation runs here."""
    function_id, tried = called.entry.function.id, set[str]()
    for left in reversed(range(TRIES)):
        version = _version_now(context, called)
        destination = await fleet.placement.place(
            function_id,
            version,
            tried,
            names_version=called.names_version,
            is_last=not left,
        )
        if destination is None:
            return None
        context.invocation_id = context.invocation_id or new_id()
        call = ForwardedCall(
            function_id=function_id,
            invocation_id=context.invocation_id,
            version=version,
            may_wait=destination.may_wait,
            in_any_case=destination.in_any_case,
            caller=None if context.is_stranger else context.caller,
            client=context.request.client,
        )
        response = await _sent(fleet, context, destination.node, call, called)
        if response is not None:
            return response
        if context.passed_on is not None and context.passed_on.is_begun:
            raise CapacityFull(
                "the node that was to run the call refused it when some of its body was taken",
                hint="send it again",
                retry_after=1,
            )
        # If the node lost its ready instance to another invocation, it may still be chosen as the
        # node at which this one waits. A node at which it was to wait is not asked again, unless
        # the current version has changed.
        if destination.may_wait and _version_now(context, called) == version:
            tried.add(destination.node)
    return None


def _version_now(context: AnyContext, called: CalledFunction) -> int:
    """The current version, which may be newer than at the start of the request."""
    entry = context.services.catalog.known(called.entry.function.id) or called.entry
    return entry.version.number


async def _where_it_is(
    fleet: ForwardingNode, context: RequestContext[ForwardingServices], route: AnyRoute
) -> Response | None:
    """The response of the node that runs the invocation in the path; None: this node responds."""
    function_id, invocation_id = context.entry().function.id, context.parameters["invocation_id"]
    found = await _outline(context, function_id, invocation_id)
    if found is None or not route.is_about_call:
        return None
    node = None
    if found.record.status is Status.RUNNING:
        node = found.record.execution_node_id
    elif found.record.status is Status.QUEUED and route.action is not None:
        # Read requests are answered from the store, which has all the data of a queued invocation.
        node = await context.services.work.store.claimed_by(invocation_id)
    elif found.record.status is Status.CANCELLED and route.action is not None:
        node = found.record.execution_node_id  # its processes may still run there
    if node is None or node == fleet.name:
        return None
    call = ForwardedCall(
        function_id=function_id,
        invocation_id=invocation_id,
        caller=context.caller,
        client=context.request.client,
    )
    return await _sent(fleet, context, node, call)


async def _outline(
    context: RequestContext[ForwardingServices], function_id: str, invocation_id: str
) -> Outline | None:
    """The invocation's record. Waits a moment if there is none: a record that another node has just
    acknowledged reaches the store with that node's next commit.
    """
    outline = partial(context.services.journal.outline, function_id, invocation_id)
    found = await outline()
    if found is None and _is_id(invocation_id):
        for pause_s in LOOK_AGAIN_S:
            await asyncio.sleep(pause_s)
            found = await outline()
            if found is not None:
                break
    return found


def _is_id(text: str) -> bool:
    try:
        made_at_ms(text)
    except ValueError:
        return False
    return True


async def _sent(
    fleet: ForwardingNode,
    context: RequestContext[ForwardingServices],
    node: str,
    call: ForwardedCall,
    called: CalledFunction | None = None,
) -> Response | None:
    """The node's response; None: the node has run nothing, so another one may be asked. `called`:
    the function, if the request invokes one.
    """
    placement, function_id = fleet.placement, call.function_id
    gone = partial(_gone, fleet, context, node, call, called)
    placement.sent(node, function_id)
    request = request_of(context, fleet.peers, node, call)
    try:
        answer = await _while_wanted(context, request)
    except _LeftUnsent:
        return None
    except PeerUnavailable as error:
        placement.update(node, function_id, None)
        is_only_looked_at = called is None and context.action is None
        if not error.may_have_run or is_only_looked_at:
            return None  # this node responds with the stored record
        raise gone(error) from error
    except BodyCut:
        passed = context.passed_on
        assert passed is not None
        assert passed.error is not None
        raise passed.error from None
    # `request` is left here, or at the end of the body if that is streamed.
    response = None
    try:
        said, length, headers = _read_headers(answer)
        is_leaving = said.refusal is Refusal.DRAINING  # its ready instances are no longer available
        placement.update(node, function_id, None if is_leaving else said.load)
        if said.refusal is Refusal.VERSION:
            await placement.catch_up()  # the other node may have applied an update first
        if said.refusal is not None:
            return None
        response = Response(status=answer.status, headers=headers, executed=said.executed)
        has_body = context.request.method != "HEAD"
        if length is None:
            response.body = _Rest(answer, gone, request)
        elif int(length) <= SHORT_BYTES and has_body:
            response.body = await _whole(answer, gone, int(length))
        elif _is_kept(context) and has_body:
            size, executed = int(length), said.executed
            async with long_response(context, call.invocation_id, size, executed=executed):
                response.body = await _whole(answer, gone, int(length))
        else:
            headers.append(("content-length", length))
            response.body = _Rest(answer, gone, request)
        return response
    finally:
        if response is None or isinstance(response.body, bytes):
            await request.__aexit__(None, None, None)


def _read_headers(answer: PeerResponse) -> tuple[ForwardedAnswer, str | None, list[Header]]:
    """The node's metadata in its response, the body's length, and the headers for the client."""
    said = length = None
    kept = []
    for header in answer.headers:
        name, value = header
        if name not in REMOVED:
            kept.append(header)
        elif name == ANSWER:
            said = said or value
        elif name == "content-length":
            length = value
    return _decode_answer(said or "{}"), length, kept


def _is_kept(context: AnyContext) -> bool:
    """Whether the whole response is stored, for repetitions of the request."""
    is_idempotent = context.route is not None and context.route.is_idempotent
    return is_idempotent and "idempotency-key" in context.headers


def _while_wanted(context: AnyContext, request: PeerRequest) -> Awaitable[PeerResponse]:
    """The node's response. If the client leaves and has asked for its invocation to end then, the
    connection to the node ends, too: the node then does the same as for a client of its own.
    """
    is_told = context.passed_on is not None  # reading the body notices that the client left
    if is_told or context.headers.get("x-on-disconnect") != "cancel":
        return request.__aenter__()
    return _unless_lost(context, request)


async def _unless_lost(context: AnyContext, request: PeerRequest) -> PeerResponse:
    """The response, while the client is connected. Raises `ClientDisconnected`, or `_LeftUnsent` if
    nothing was sent yet.
    """
    answered = asyncio.ensure_future(request.__aenter__())
    lost = asyncio.ensure_future(context.request.lost())
    is_wanted = False
    try:
        await asyncio.wait((answered, lost), return_when=asyncio.FIRST_COMPLETED)
        is_wanted = answered.done()
        if is_wanted:
            return answered.result()
    finally:
        lost.cancel()
        if not is_wanted:
            answered.cancel()
            await asyncio.wait([answered])
            # The response came meanwhile.
            if not answered.cancelled() and answered.exception() is None:
                await request.__aexit__(None, None, None)
    raise ClientDisconnected if request.is_sent else _LeftUnsent


async def _whole(answer: PeerResponse, gone: Gone, size: int) -> bytes:
    """The whole body. Raises `RuntimeUnavailable` with the invocation's id if the node is lost."""
    try:
        return await answer.read(size)
    except PeerUnavailable as error:
        raise gone(error) from error


class _Rest:
    """A streamed body. The request to the node ends with it, even if the body is never read."""

    def __init__(self, answer: PeerResponse, gone: Gone, request: PeerRequest) -> None:
        self._pieces, self._gone = aiter(answer.body), gone
        self._request: PeerRequest | None = request

    def __aiter__(self) -> "_Rest":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except PeerUnavailable as error:
            raise CutShort(str(self._gone(error))) from error

    async def aclose(self) -> None:
        request, self._request = self._request, None
        if request is not None:
            await request.__aexit__(None, None, None)


def _gone(
    fleet: ForwardingNode,
    context: RequestContext[ForwardingServices],
    node: str,
    call: ForwardedCall,
    called: CalledFunction | None,
    error: PeerUnavailable,
) -> RuntimeUnavailable:
    """The error for a caller whose invocation may have run on a node that is now unreachable."""
    if called is not None:
        function = called.entry.function
        record = Invocation(
            invocation_id=call.invocation_id,
            tenant_id=function.tenant_id,
            function_id=function.id,
            function_name=function.name,
            execution_node_id=node,
            status=Status.INTERRUPTED,
            ended_at=int(context.services.clock.unix()),
            error_message=NODE_LOST.sentence,
            end_cause=NODE_LOST,
            # If the request named a version or an alias, only the lost node knew the version.
            version=None if called.names_version else call.version,
            source=Source.URL if _is_at_url(context) else Source.SYNC,
        )
        fleet.lost(node, record)
    gone = RuntimeUnavailable(f"the node that had the call cannot be reached any more: {error}")
    gone.with_record(call.invocation_id, executed=True)
    return gone


def answering_peers(app: Application, fleet: ForwardingNode) -> PeerApplication:
    """Handles requests of other nodes with `app`, for the caller that they name."""

    async def respond(request: Request, call: ForwardedCall) -> Response:
        refusal = None if call.version is None else await fleet.placement.refusal(call)
        if refusal is not None:
            response = Response(status=503, executed=False)
        else:
            request.forwarded, request.client = call, call.client
            response = await app(request)
            # An invocation with a record, for example of a failed instance start, must not run at
            # another node, which would add a second record.
            is_left = call.version is not None and not (response.executed or response.has_record)
            if is_left and not fleet.placement.takes_calls():
                refusal = Refusal.DRAINING  # this node began to drain while the body arrived
        load = fleet.placement.load(call.function_id) if call.function_id else None
        said = ForwardedAnswer(refusal=refusal, executed=response.executed, load=load)
        if response.header(ANSWER) is not None:  # a handler may have set it
            response.headers = [one for one in response.headers if one[0] != ANSWER]
        response.headers.append((ANSWER, encode(said).decode()))
        return response

    return respond


def request_of(
    context: AnyContext,
    peers: Peers,
    node: str,
    call: ForwardedCall,
    left_out: AbstractSet[str] = frozenset(),
) -> PeerRequest:
    """The client's request, for another node. `left_out`: headers that are not forwarded."""
    request, headers = context.request, context.headers
    # At a function URL, headers can have credentials for the handler, so they are forwarded; the
    # other node hides quiltfn's own credentials from handlers.
    is_url = _is_at_url(context)
    known = LEFT_OUT_OF_URLS if is_url else LEFT_OUT
    left_out = left_out | known if left_out else known
    if is_url and "connection" in headers:
        left_out = left_out | of_the_connection(
            [("connection", value) for value in headers.getlist("connection")]
        )
    sent_on = [one for one in headers.items() if one[0] not in left_out]
    if headers.repeated:
        sent_on = [(name, value) for name, _ in sent_on for value in headers.getlist(name)]
    sent_on.append(("x-request-id", context.request_id))
    body = context.passed_on or context.raw_body or b""
    return peers.request(node, request.method, _origin_form(request), sent_on, body, call)


def _is_at_url(context: AnyContext) -> bool:
    return context.route is not None and context.route.admit is not None


def _origin_form(request: Request) -> bytes:
    """Path and query, exactly as the client sent them."""
    if request.target.startswith(b"/"):
        return request.target
    query = b"?" + request.query if request.query else b""
    return request.raw_path.encode() + query
