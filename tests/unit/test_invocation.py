"""Invocation: its states, each transition, and the effect of each kind of end on the record."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from contract.stores import a_call, a_function
from promises import promise
from quiltfn.api import shapes
from quiltfn.model import end_cause
from quiltfn.model.end_cause import HttpFailed, NotStarted, cause_data
from quiltfn.model.invocation import (
    FINAL,
    NEXT,
    CallEvent,
    CallResult,
    ExitKind,
    Invocation,
    RunContext,
    Status,
    conclude,
)
from quiltfn.model.state_machine import InvalidTransition
from unit.transition_table import check_table

TABLE = """
queued: handed over > running, cancelled > cancelled, error > error, interrupted > interrupted
running: retried > queued, success > success, failed > failed, timeout > timeout, oom > oom, cancelled > cancelled, error > error, interrupted > interrupted
success:
failed:
timeout:
oom:
cancelled:
error:
interrupted:
"""  # noqa: E501


def test_the_states_are_the_table_and_every_other_event_raises() -> None:
    check_table(NEXT, Status, CallEvent, TABLE)
    assert frozenset(Status) - FINAL == {Status.QUEUED, Status.RUNNING}, "the ends are empty rows"
    assert {kind for kind, *_ in ENDS} == set(ExitKind), "each kind of end has a row"


# fmt: off
ENDS = [
    # kind,             code, oom,   → status,      exit code, a sentence with
    (ExitKind.EXITED,          0, False, "success",          0, None),
    (ExitKind.EXITED,          0, True,  "success",          0, None),
    (ExitKind.EXITED,          1, False, "failed",           1, "exited with code 1"),
    (ExitKind.EXITED,        255, False, "failed",         255, "exited with code 255"),
    (ExitKind.EXITED,        137, True,  "oom",            137, "its limit of 128 MiB"),
    (ExitKind.SIGNALLED,       9, False, "failed",         137, "signal 9"),
    (ExitKind.SIGNALLED,      15, False, "failed",         143, "signal 15"),
    (ExitKind.SIGNALLED,       9, True,  "oom",            137, "memory"),
    (ExitKind.DEADLINE,        0, False, "timeout",       None, "timed out"),
    (ExitKind.DEADLINE,        0, True,  "timeout",       None, "timed out"),
    (ExitKind.NOT_STARTED,     0, False, "error",         None, "ended before"),
    (ExitKind.SANDBOX_GONE,    0, False, "error",         None, "ended before"),
    (ExitKind.SANDBOX_GONE,    0, True,  "oom",            137, "memory"),
    (ExitKind.CANCELLED,       0, False, "cancelled",     None, "cancelled"),
    (ExitKind.CANCELLED,       0, True,  "cancelled",     None, "cancelled"),
    (ExitKind.BODY_CUT,        0, False, "cancelled",     None, "did not come"),
    (ExitKind.INTERRUPTED,     0, False, "interrupted",   None, "stopped"),
]
# fmt: on


@promise("A84")
@pytest.mark.parametrize(("kind", "code", "oom", "status", "exit_code", "sentence"), ENDS)
def test_an_end_and_what_it_means(
    kind: ExitKind, code: int, oom: bool, status: str, exit_code: int | None, sentence: str | None
) -> None:
    event, concluded, cause = conclude(
        CallResult(kind=kind, code=code, out_of_memory=oom),
        RunContext(memory_mib=128, timeout_s=5),
    )
    assert (Status(event), concluded) == (status, exit_code)
    if sentence is None:
        assert cause is None
    else:
        assert cause is not None
        assert sentence in cause.sentence


def ended(kind: ExitKind = ExitKind.EXITED, **more: Any) -> CallResult:
    return CallResult(kind=kind, **more)


def cause(name: str, **fields: object) -> dict[str, object]:
    return {"cause": name, **fields}


CUT = ended(stdout=b"ab", stdout_dropped=5)
OOM = ended(ExitKind.SIGNALLED, code=9, out_of_memory=True)
DELETED = ended(ExitKind.CANCELLED, by="function_deleted")
NOT_FOUND = HttpFailed(404, "it answered 404")
CAUSES: list[tuple[CallResult, dict[str, object]]] = [
    (ended(code=3), cause("exit", code=3, message=None)),
    (ended(ExitKind.SIGNALLED, code=9), cause("signal", signal=9)),
    (ended(ExitKind.DEADLINE), cause("timeout", limit_seconds=5, from_outside=False)),
    (OOM, cause("oom", limit_bytes=128 * 1024 * 1024, peak_bytes=None)),
    (ended(ExitKind.NOT_STARTED, reason="no file"), cause("start", phase="ran", message="no file")),
    (DELETED, cause("cancelled", by="function_deleted", message=None)),
    (ended(ExitKind.BODY_CUT, reason="late"), cause("cancelled", by="body_cut", message="late")),
    (ended(ExitKind.INTERRUPTED, by="server_stopped"), cause("interrupted", by="server_stopped")),
    (ended(refusal=NOT_FOUND), cause("http", status=404, message="it answered 404")),
    (CUT, cause("result_too_large", bytes=7, limit_bytes=2, kind="result")),
    (ended(http_status=503), cause("http", status=503, message=None)),
]


@promise("A90")
@pytest.mark.parametrize(("result", "expected"), CAUSES)
def test_the_cause_is_data_for_the_message(result: CallResult, expected: dict[str, object]) -> None:
    context = RunContext(memory_mib=128, timeout_s=5, is_value=True)
    record = a_call(a_function()).after(result, now=0, duration_ms=1, ran_in=context)
    assert cause_data(record.cause) == expected
    assert record.end_cause is None or record.error_message == record.end_cause.sentence
    shown = shapes.end_cause(record.cause)
    assert msgspec.to_builtins(shown) == expected, "clients get all of it"
    assert msgspec.json.decode(msgspec.json.encode(record), type=Invocation) == record


def test_whoever_can_end_an_invocation_has_a_sentence() -> None:
    """Each value of `by` in the server's code must have a sentence."""
    source = Path(end_cause.__file__).parents[1]
    call = r"(?<!class )(?:end_(?:calls?|running|all)|\.cancel|Cancelled|Interrupted)\("
    said = rf'(?:{call}|by: str = )[^"\n]*"(\w+)"'
    known = {by for one in source.rglob("*.py") for by in re.findall(said, one.read_text())}
    assert {"function_deleted", "server_stopped", "node_lost", "caller_left"} <= known
    assert known <= set(end_cause.BY), known - set(end_cause.BY)


def test_the_reason_of_a_sandbox_is_the_sentence_of_the_record() -> None:
    ended = CallResult(kind=ExitKind.NOT_STARTED, reason="Argument list too long")
    cause = NotStarted("ran", "Argument list too long")
    assert conclude(ended) == (CallEvent.ERROR, None, cause)
    assert cause.sentence == "Argument list too long"


def test_a_success_whose_output_was_cut_says_so_and_keeps_the_beginning() -> None:
    final = a_call(a_function()).after(CUT, now=0, duration_ms=1)
    assert (final.status, final.exit_code, final.stdout) == (Status.SUCCESS, 0, b"ab")
    assert (final.stdout_dropped, final.stderr_dropped) == (5, 0)
    note = "of its standard output the first 2 bytes are kept and 5 were dropped"
    assert final.error_message == note
    both = replace(CUT, code=3, stderr=b"c", stderr_dropped=1)
    message = a_call(a_function()).after(both, now=0, duration_ms=1).error_message
    assert message is not None
    note += "; of its log (standard error)"
    assert message.startswith(f"the handler exited with code 3: c; {note}")


@promise("C13")
def test_a_value_that_is_too_large_fails_and_no_part_of_it_is_the_result() -> None:
    call = a_call(a_function())
    final = call.after(CUT, now=0, duration_ms=1, ran_in=RunContext(is_value=True))
    assert (final.status, final.exit_code, final.stdout) == (Status.FAILED, 1, b"")
    assert final.stdout_dropped == 7
    assert final.error_message == "the handler returned 7 bytes; at most 2 are kept of a result"
    whole = replace(CUT, stdout_dropped=0, stderr_dropped=9)  # only the log was cut, not the result
    final = call.after(whole, now=0, duration_ms=1, ran_in=RunContext(is_value=True))
    assert (final.status, final.stdout, final.stderr_dropped) == (Status.SUCCESS, b"ab", 9)
    late = replace(CUT, kind=ExitKind.DEADLINE)
    assert (
        call.after(late, now=0, duration_ms=1, ran_in=RunContext(is_value=True)).status
        is Status.TIMEOUT
    )


def test_the_final_record_has_the_output_and_cannot_end_again() -> None:
    record = a_call(a_function())
    ended = CallResult(kind=ExitKind.EXITED, code=3, stdout=b"out", stderr=b"err")
    final = record.after(ended, now=1_760_000_105, duration_ms=12)
    assert final.status is Status.FAILED
    assert (final.stdout, final.stderr, final.exit_code) == (b"out", b"err", 3)
    assert (final.started_at, final.ended_at, final.duration_ms) == (
        record.started_at,
        1_760_000_105,
        12,
    )
    with pytest.raises(InvalidTransition):
        final.after(ended, now=0, duration_ms=0)
