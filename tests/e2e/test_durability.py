"""Whether a record is on disk when its response is sent, as seen from the kernel; and how long
records are kept.
"""

import itertools
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from e2e.server import QUILTFN, Function, Server, quiltfn, until, watched
from promises import promise
from timeouts import scaled

pytestmark = promise("D6")

STRACE = shutil.which("strace")
CALLS = "write,pwrite64,writev,sendto,sendmsg,fsync,fdatasync"
SYNCED = re.compile(r"(fsync|fdatasync)(\(\d+| resumed>)\) += 0$")
OLD = "01800000-0000-7000-8000-{:012x}"  # the time in these ids is in 2022


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    with watched("--durability strict") as server:
        yield server.start()


def trace(server: Server, tmp_path: Path, handler: str) -> list[str]:
    """Traces the server's writes and syncs during one invocation. Returns three events in the
    kernel's order: `end` (the record's end is written), `sync` and `answer`.
    """
    function = server.deploy(handler)
    function.invoke()
    server.until_ready()  # no earlier write waits to be synced
    out = tmp_path / "trace"
    with traced(server, out):
        record = function.invoke()
        key = f'\\"invocation_id\\":\\"{record["invocation_id"]}\\"'
        until(lambda: len(lines_of(out.read_text(), key)) >= 3)
    return lines_of(out.read_text(), key)[:3]


def strace_into(out: Path) -> list[str]:
    return [str(STRACE), "-f", "-s", "8192", "-e", f"trace={CALLS}", "-o", str(out)]


@contextmanager
def traced(server: Server, out: Path) -> Iterator[None]:
    """Traces the server's writes and syncs during the block into the file `out`."""
    command = [*strace_into(out), "-p", str(server.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(scaled(10))


def lines_of(lines: str, key: str) -> list[str]:
    """The events in the lines, from the write of the record's end on."""
    found = []
    for line in lines.splitlines():
        if key in line and "HTTP/1.1 200" in line:
            found.append("answer")
        elif key in line and '\\"status\\":\\"running\\"' not in line:
            found.append("end")
        elif SYNCED.search(line) and found:
            found.append("sync")
    return [what for what, _ in itertools.groupby(found)]


@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_strict_answers_a_call_once_its_end_is_synced(strict: Server, tmp_path: Path) -> None:
    assert trace(strict, tmp_path, "echo hello") == ["end", "sync", "answer"]


@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_relaxed_answers_before_and_syncs_by_itself(shared: Server, tmp_path: Path) -> None:
    """Negative control of the test above: with relaxed durability, the response comes first.
    Earlier writes, such as the start of the invocation, may be synced just between the two.
    """
    orders = (trace(shared, tmp_path, "echo hello") for _ in range(10))
    assert any(order == ["end", "answer", "sync"] for order in orders)


def order_of(lines: str, stored: str, answer: str) -> list[str]:
    """The events in the kernel's order: `write` for each page of the database that contains the
    text `stored`, `sync`, and `answer` for the write that matches the pattern `answer`.
    """
    found = []
    for line in lines.splitlines():
        if re.search(answer, line) and " pwrite64(" not in line:
            found.append("answer")
        elif stored in line and " pwrite64(" in line:
            found.append("write")
        elif SYNCED.search(line):
            found.append("sync")
    return [what for what, _ in itertools.groupby(found)]


def is_synced_first(order: list[str]) -> bool:
    """Whether a sync came after a write, and the response after that sync."""
    before = order[: order.index("answer")]
    return "write" in before and "sync" in before[before.index("write") :]


@promise("D3")
@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_functions_and_versions_are_synced_first(shared: Server, tmp_path: Path) -> None:
    server, out = shared, tmp_path / "trace"
    with traced(server, out):
        function = server.create("echo the-first-handler", name="synced-function")
        until(lambda: "answer" in order_of(out.read_text(), "", "HTTP/1.1 201"))
        changes = {"handler": "echo the-second-handler"}
        assert server.call("PUT", function.path, changes).status_code == 200
        until(lambda: "answer" in order_of(out.read_text(), "", "HTTP/1.1 200"))
    lines = out.read_text()
    for stored in ("synced-function", "the-first-handler"):
        order = order_of(lines, stored, "HTTP/1.1 201")
        assert is_synced_first(order), order
    order = order_of(lines, "the-second-handler", "HTTP/1.1 200")
    assert is_synced_first(order), order


@promise("D32")
@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_accepted_work_is_synced_before_the_answer(shared: Server, tmp_path: Path) -> None:
    """With either durability, an asynchronous invocation must be on disk before the response: here,
    each of twenty that share commits.
    """
    server, out = shared, tmp_path / "trace"
    function = server.create("true", name="accepting")
    function.deploy()
    path = f"{function.path}/invoke?mode=async&delay_seconds=3600"
    with traced(server, out):
        asked = [
            server.later(server.call, "POST", path, {"payload": f"payload-{number:02}"})
            for number in range(20)
        ]
        answers = [one.result(scaled(30)) for one in asked]
        until(lambda: out.read_text().count("HTTP/1.1 202") == len(answers))
    lines = out.read_text()
    for number, answer in enumerate(answers):
        assert answer.status_code == 202, answer.text
        pattern = f"HTTP/1.1 202 .*{answer.json()['invocation_id']}"
        for stored in (f"payload-{number:02}", answer.json()["invocation_id"]):
            order = order_of(lines, stored, pattern)
            assert is_synced_first(order), order


@promise("D3")
@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_a_key_is_synced_before_it_is_printed(tmp_path: Path) -> None:
    out, there = tmp_path / "trace", ("--data-dir", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    # The first request creates the database; the second one is examined.
    first = quiltfn("keys", "create", *there)
    assert first.code == 0, first.stderr
    command = [str(QUILTFN), "keys", "create", "--tenant", "synced-tenant"]
    made = subprocess.run(
        [*strace_into(out), *command, *there],
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=True,
    )
    assert "quilt_sk_" in made.stdout
    order = order_of(out.read_text(), "synced-tenant", "quilt_sk_")
    assert is_synced_first(order), order


def test_the_durability_is_told(strict: Server, shared: Server) -> None:
    for server, word in ((strict, "strict"), (shared, "relaxed")):
        for path in ("/api/functions/health", "/api/system/info"):
            assert server.call("GET", path).json()["durability"] == word


@promise("D9")
def test_records_are_kept_as_the_settings_say(another: Callable[..., Server]) -> None:
    server = another(options="--keep-invocations 5 --keep-invocations-days 0").start()
    function = server.deploy("echo hello")
    function.invoke()
    server.stop()
    with closing(sqlite3.connect(server.data_dir / "quiltfn.db")) as connection, connection:
        row = list(connection.execute("SELECT * FROM invocation").fetchone())
        marks = ", ".join("?" * len(row))
        rows = [[OLD.format(number), *row[1:]] for number in range(20)]
        connection.executemany(f"INSERT INTO invocation VALUES ({marks})", rows)
    server.start()
    until(lambda: len(function.records()) == 5)
    left = sorted(function.records())
    assert left[:4] == [OLD.format(number) for number in range(16, 20)]
    assert server.call("GET", function.path).json()["invocation_count"] == 1
    server.stop()
    server._command += ["--keep-invocations", "0", "--keep-invocations-days", "7"]
    server.start()
    until(lambda: len(function.records()) == 1)


@promise("D16")
def test_what_a_tenant_has_kept_stays_within_its_bytes(another: Callable[..., Server]) -> None:
    """The output of 41 invocations is a megabyte each, and two of them have keys. The tenant may
    store four megabytes of output, and 1.5 megabytes of responses with keys.
    """
    bounds = "--tenant-invocations-bytes 4000000 --tenant-answers-bytes 1500000"
    server = another(options=bounds).start()
    function = server.deploy("head -c 1000000 /dev/zero | tr '\\0' x", max_instances=2)
    first = keyed(function, "first")
    made = [function.invoke()["invocation_id"] for _ in range(39)]
    keyed(function, "second")

    def kept() -> list[bool]:
        paths = [f"{function.path}/invocations/{one}" for one in made]
        return [len(server.call("GET", path).json()["stdout"]) > 0 for path in paths]

    # The list is read until two results are equal: while output is removed, a list may mix two
    # states.
    found = until(lambda: (now := kept()).count(True) <= 4 and now == kept() and now, 30)
    assert sorted(found) == found  # the oldest records lost their output, but still exist
    again = keyed(function, "first")
    assert (again.status_code, again.json()["error_code"]) == (409, "CONFLICT")
    assert again.headers["x-invocation-id"] == first.json()["invocation_id"]
    assert len(function.records()) == 41


def keyed(function: Function, key: str) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return function.server.http.post(f"{function.path}/invoke", json={}, headers=headers)
