"""The response to an invocation that has ended, and the memory for a long response."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quiltfn.api import shapes
from quiltfn.api.http.long_json import long_json_response, size_of
from quiltfn.api.http.response import (
    FUNCTION_VERSION,
    INVOCATION_ID,
    Header,
    Response,
    json_response,
)
from quiltfn.api.http.route import AnyContext
from quiltfn.api.http.text_size import TEXT_FACTOR, text_size
from quiltfn.model.errors import CapacityFull
from quiltfn.model.invocation import Invocation

# A response is long if the invocation's output takes more than this as JSON.
LONG_OUTPUT_BYTES = 64 * 1024


async def call_response(context: AnyContext, record: Invocation) -> Response:
    """The response with an invocation's record. Raises `CapacityFull` if the server has too much to
    send; the invocation was executed nevertheless.
    """
    headers = [(INVOCATION_ID, record.invocation_id)]
    if record.version is not None:
        headers.append((FUNCTION_VERSION, str(record.version)))
    if record.stdout_dropped or record.stderr_dropped:
        headers += truncated(record)
    if record.timeline is not None:
        headers.append(("server-timing", record.timeline.server_timing()))
    output = len(record.stdout) + len(record.stderr)
    if output > LONG_OUTPUT_BYTES:
        size = await size_of((record.stdout, record.stderr), context.services.budgets.turn)
    elif (size := TEXT_FACTOR * output) > LONG_OUTPUT_BYTES:
        size = text_size(record.stdout) + text_size(record.stderr)
    if size <= LONG_OUTPUT_BYTES:
        return json_response(shapes.invocation(record), headers=headers)
    async with long_response(context, record.invocation_id, size):
        return await long_json_response(context, shapes.long_invocation(record), headers)


@asynccontextmanager
async def long_response(
    context: AnyContext, invocation_id: str, size: int, *, executed: bool = True
) -> AsyncIterator[None]:
    """Reserve the memory of a long response. Raises `CapacityFull`, with the id of the record if
    the invocation was executed.
    """
    try:
        async with context.services.budgets.responses.reserve(size, context.tenant_id):
            yield
    except CapacityFull as error:
        if executed:
            error.with_record(invocation_id, executed=True)
        raise


def truncated(record: Invocation) -> list[Header]:
    """The header with the number of dropped bytes of each stream; empty if none were dropped."""
    dropped = {"stdout": record.stdout_dropped, "stderr": record.stderr_dropped}
    counts = [f"{stream}={count}" for stream, count in dropped.items() if count]
    return [("x-output-truncated", ", ".join(counts))] if counts else []
