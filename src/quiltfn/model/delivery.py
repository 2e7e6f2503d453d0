"""Deliveries: outcomes of asynchronous invocations, sent to destinations."""

import codecs
import datetime
from enum import StrEnum
from typing import Any

import msgspec

from quiltfn.model.end_cause import EndCause, cause_data
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES, Invocation, Status
from quiltfn.model.work import Backoff, policy_field

# The waits between tries of a callback, and the time after which tries end: about nineteen tries.
BACKOFF = Backoff(first=5.0, factor=3.0, most=7200.0, jitter=0.2)
LIFE_S = 24 * 3600
# The maximum of a body: the limit of a function's payload. A body has the whole result of a
# success; standard error, and all output of a failure, are truncated.
BODY_MAX_BYTES = PAYLOAD_MAX_BYTES
EXCERPT_MAX_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024
# The maximum length of a chain of destinations, each invoked by the one before it. Without it, a
# function that is its own destination would run for ever.
CHAIN_MAX = 16


class DeliveryStatus(StrEnum):
    """The progress of a delivery."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one invocation, to be sent to a destination. Every try uses its id as the id
    of the webhook, or of the invocation of the destination's function.

    `policy_field`: "on_success" or "on_failure" of the function's policy, which has the
    destination. `body`: the content; empty once it is delivered. `attempts`: how many tries were
    started. `due_at_ms`, `expires_at_ms`: when the next try is due and when tries end, by trusted
    time in Unix milliseconds. `http_status`: the last response's. `ended_at`: Unix seconds.
    `end_cause`: the invocation's, only in lists.
    """

    id: str
    tenant_id: str
    function_id: str
    invocation_id: str
    policy_field: str
    status: DeliveryStatus
    body: bytes
    attempts: int = 0
    due_at_ms: int
    expires_at_ms: int
    http_status: int | None = None
    error_message: str | None = None
    ended_at: int | None = None
    end_cause: EndCause | None = None


def delivery_of(record: Invocation) -> Delivery:
    """The delivery for an ended invocation. `record.outcome` has its `destination_id`. The delivery
    is already failed if the result is too large.
    """
    assert record.outcome is not None
    # Records of the previous release lack the time of the decision.
    now_ms = record.outcome.decided_at_ms or (record.ended_at or 0) * 1000
    assert record.outcome.destination_id is not None
    body, problem = _body_or_problem(record)
    return Delivery(
        id=record.outcome.destination_id,
        tenant_id=record.tenant_id,
        function_id=record.function_id,
        invocation_id=record.invocation_id,
        policy_field=policy_field(record.status),
        status=DeliveryStatus.FAILED if problem else DeliveryStatus.WAITING,
        body=body,
        due_at_ms=now_ms,
        expires_at_ms=now_ms + LIFE_S * 1000,
        error_message=problem,
        ended_at=record.ended_at if problem else None,
    )


def _body_or_problem(record: Invocation) -> tuple[bytes, str | None]:
    """The body, or b"" and the reason for its absence."""
    whole, problem = len(record.stdout) + record.stdout_dropped, ""
    if record.status is Status.SUCCESS and record.stdout_dropped:
        problem = f"the result has {whole} bytes, of which the record keeps {len(record.stdout)}"
    elif record.status is Status.SUCCESS and whole > BODY_MAX_BYTES:
        problem = f"the result has {whole} bytes"
    body = b"" if problem else body_of(record)
    if not problem and not 0 < len(body) <= BODY_MAX_BYTES:
        problem = f"its result of {whole} bytes takes more as JSON"
    if not problem:
        return body, None
    return b"", f"RESULT_TOO_LARGE: {problem}; a destination gets up to {BODY_MAX_BYTES} bytes"


def body_of(record: Invocation) -> bytes:
    """The JSON for destinations: a type, a time and the record, as in Standard Webhooks. `stdout`
    is the whole result of a success; `stdout_truncated` and `stderr_truncated` say whether a stream
    is shorter than the handler's output, and `is_truncated` whether either is. b"" if the output
    alone exceeds `BODY_MAX_BYTES`.
    """
    stdout, stderr = record.stdout, record.stderr[:EXCERPT_MAX_BYTES]
    if record.status is not Status.SUCCESS:
        stdout = stdout[:EXCERPT_MAX_BYTES]
    output = _text(stdout, BODY_MAX_BYTES)
    if output is None:
        return b""
    is_out_cut = len(record.stdout) + record.stdout_dropped > len(stdout)
    is_err_cut = len(record.stderr) + record.stderr_dropped > len(stderr)
    data: dict[str, Any] = {
        "invocation_id": record.invocation_id,
        "function_id": record.function_id,
        "function_name": record.function_name,
        "version": record.version,
        "source": record.source,
        "status": record.status,
        "attempts": record.attempt,
        "replaces": record.outcome.replaces_id if record.outcome else None,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "duration_ms": record.duration_ms,
        "exit_code": record.exit_code,
        "error_message": record.error_message,
        "end_cause": cause_data(record.cause),
        "stdout": output,
        "stderr": stderr.decode("utf-8", "replace"),
        "is_truncated": is_out_cut or is_err_cut,
        "stdout_truncated": is_out_cut,
        "stderr_truncated": is_err_cut,
    }
    ended = datetime.datetime.fromtimestamp(record.ended_at or 0, datetime.UTC)
    return msgspec.json.encode(
        {
            "type": f"invocation.{record.status}",
            "timestamp": ended.isoformat().replace("+00:00", "Z"),
            "data": data,
        }
    )


def _text(data: bytes, json_max_bytes: int) -> str | None:
    """Output as text; None if its JSON exceeds the limit. Binary output triples in size and is slow
    to convert: so this converts pieces, lets other threads run in between, and stops at the limit.
    """
    if len(data) <= PIECE_BYTES:
        return data.decode("utf-8", "replace")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces, size = [], 0
    for at in range(0, len(data), PIECE_BYTES):
        end = at + PIECE_BYTES
        pieces.append(decoder.decode(data[at:end], final=end >= len(data)))
        size += len(msgspec.json.encode(pieces[-1])) - 2
        if size > json_max_bytes:
            return None
    return "".join(pieces)


def retry_due_ms(delivery: Delivery, now_ms: int, chance: float) -> int | None:
    """When a failed try is repeated; None: never. `chance`: a random number from [0, 1)."""
    due = now_ms + round(BACKOFF.seconds(delivery.attempts, chance) * 1000)
    return due if due <= delivery.expires_at_ms else None
