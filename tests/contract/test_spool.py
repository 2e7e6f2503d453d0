"""The spool of the journal: what may happen to its file, and what the next start then reads from
it.
"""

from pathlib import Path
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contract.stores import a_call, a_function, done, files_at_most, ids
from promises import promise
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.store import StoreBroken
from quiltfn.store.calls.spool import Spool, from_line, from_lines, latest, to_line

CALLS = st.lists(
    st.builds(
        Invocation,
        invocation_id=st.sampled_from(ids(5)),
        tenant_id=st.just("t"),
        function_id=st.just("f"),
        function_name=st.just("f"),
        execution_node_id=st.just("n"),
        status=st.sampled_from(Status),
        stdout=st.binary(),
        exit_code=st.none() | st.integers(0, 255),
        version=st.none() | st.integers(1, 9),
        source=st.sampled_from(Source),
        attempt=st.integers(1, 3),
        due_at=st.none() | st.integers(0, 2**40),
        parent_invocation_id=st.none() | st.just("p"),
        origin_invocation_id=st.none() | st.just("o"),
    ),
    max_size=6,
)


@given(CALLS, st.data())
def test_any_cut_gives_the_records_before(calls: list[Invocation], data: st.DataObject) -> None:
    lines = [to_line(call) for call in calls]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    zeros = data.draw(st.integers(0, 3))
    found = from_lines(whole[:cut] + bytes(zeros), Path("segment"))
    ends = [sum(map(len, lines[: n + 1])) - 1 for n in range(len(lines))]
    assert found == calls[: sum(end <= cut for end in ends)]


@given(CALLS.filter(len), st.data())
def test_damage_before_the_end_is_no_cut(calls: list[Invocation], data: st.DataObject) -> None:
    content = bytearray(b"".join(to_line(call) for call in calls))
    position = (
        data.draw(st.integers(0, len(content) - len(to_line(calls[-1])) - 1), label="where")
        if len(calls) > 1
        else 0
    )
    content[position] ^= data.draw(st.integers(1, 255), label="what")
    with pytest.raises(StoreBroken):
        from_lines(bytes(content), Path("segment"))


@given(CALLS)
def test_segment_order_does_not_matter_to_the_end_of_a_call(calls: list[Invocation]) -> None:
    forth, back = latest(calls), latest(reversed(calls))
    assert forth.keys() == back.keys()
    for key, record in forth.items():
        status, other = record.status, back[key].status
        assert status == other or (status.value not in ("queued", "running")) == (
            other.value not in ("queued", "running")
        )


@promise("C14")
def test_a_line_from_before_output_was_bytes_reads_as_it_was_written() -> None:
    body = (
        b'{"invocation_id":"i","tenant_id":"t","function_id":"f","function_name":"f",'
        b'"execution_node_id":"n","status":"success","exit_code":0,"stdout":"\xc3\xa4\\u0000"}'
    )
    (found,) = from_lines(b"%08x %b\n" % (crc32(body), body), Path("segment"))
    assert (found.stdout, found.stderr, found.exit_code) == ("ä\0".encode(), b"", 0)


def test_a_spool_stays_readable_after_writes_that_failed_half_way(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "segment")
    call = Invocation(
        invocation_id="i",
        tenant_id="t",
        function_id="f",
        function_name="f",
        execution_node_id="n",
        status=Status.RUNNING,
    )
    spool.append(call)
    for room in (0, 1, 50):
        with files_at_most(spool.size + room), pytest.raises(OSError, match=r".+"):
            spool.append(call)
    spool.append(call)
    assert spool.read() == [call, call]
    assert spool.size == len(to_line(call)) * 2
    spool.close()


def test_a_line_of_a_server_that_knew_nothing_of_accepted_work_is_read() -> None:
    record = a_call(a_function())
    body = msgspec.json.encode(
        {
            "invocation_id": record.invocation_id,
            "tenant_id": record.tenant_id,
            "function_id": record.function_id,
            "function_name": record.function_name,
            "execution_node_id": record.execution_node_id,
            "status": "running",
            "started_at": record.started_at,
        }
    )
    assert from_line(b"%08x %b" % (crc32(body), body)) == record


def test_a_later_attempt_counts_more_than_the_end_of_an_earlier_one() -> None:
    first = a_call(a_function())
    second = replace(first, status=Status.QUEUED, attempt=2)
    for order in ([done(first), second], [second, done(first)]):
        assert latest(order) == {first.invocation_id: second}
