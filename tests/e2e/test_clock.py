"""A wall clock that jumps under a real server does not affect stored data."""

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.server import Function, Server, short_dir, until, watched
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
HERE = Path(__file__).parent
DAY_S, HOUR_S = 86_400, 3600


class Jump:
    """Sets the difference between the server's wall clock and the real one."""

    def __init__(self, root: Path) -> None:
        self.library, self.file = root / "jump.so", root / "jump"
        source = HERE / "jump.c"
        build = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*build, str(source), "-o", str(self.library)], check=True)
        self.set(0)

    def set(self, seconds: int) -> None:
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    @property
    def program(self) -> list[str]:
        return [sys.executable, str(HERE / "jumping.py"), str(self.library), str(self.file)]


@pytest.fixture(scope="module")
def jump() -> Iterator[Jump]:
    with short_dir() as root:
        yield Jump(root)


@pytest.fixture(scope="module")
def server(jump: Jump) -> Iterator[Server]:
    """A server whose clock is the real one at the start and the end of each test."""
    with watched(program=jump.program) as server:
        yield server.start()


def seen(server: Server) -> int:
    """The time by the server's wall clock."""
    return int(server.run("true")["started_at"])


def keyed(function: Function, payload: str, key: str) -> httpx.Response:
    return function.server.http.post(
        f"{function.path}/invoke", json={"payload": payload}, headers={"Idempotency-Key": key}
    )


def invoked(function: Function, count: int) -> list[dict[str, Any]]:
    """Invokes the function `count` times; returns the responses."""
    return [function.invoke() for _ in range(count)]


def in_order(function: Function) -> list[str]:
    """The ids of the records in the order of the API's list, oldest first."""
    return list(function.records())[::-1]


@promise("D11")
def test_ten_days_forward_and_back_delete_nothing(server: Server, jump: Jump) -> None:
    """The server restarts while the clock is wrong: a start removes old data at once."""
    function = server.deploy("echo hello")
    ids = [one["invocation_id"] for one in invoked(function, 3)]
    jump.set(10 * DAY_S)
    assert seen(server) > time.time() + 9 * DAY_S  # control: the server's clock has jumped
    ids += [one["invocation_id"] for one in invoked(function, 3)]
    server.restart()
    ids += [one["invocation_id"] for one in invoked(function, 3)]
    time.sleep(0.5)  # enough time for a start to remove data
    assert in_order(function) == ids
    jump.set(0)
    server.restart()
    ids += [one["invocation_id"] for one in invoked(function, 3)]
    time.sleep(0.5)
    assert in_order(function) == ids


@promise("D11")
def test_a_keyed_call_is_not_run_again_because_the_clock_jumps(server: Server, jump: Jump) -> None:
    function = server.deploy('sleep "$QUILT_PAYLOAD"; echo ran', max_instances=3)
    answered = keyed(function, "0", "done").json()
    running: Future[httpx.Response] = server.later(keyed, function, "3", "running")
    until(lambda: server.named("sleep"))
    jump.set(2 * DAY_S)
    assert keyed(function, "3", "running").status_code == 409
    again = keyed(function, "0", "done")
    assert (again.headers["idempotency-replayed"], again.json()) == ("true", answered)
    first = running.result(scaled(30)).json()
    jump.set(-10 * DAY_S)
    for payload, key, before in (("3", "running", first), ("0", "done", answered)):
        again = keyed(function, payload, key)
        assert (again.headers["idempotency-replayed"], again.json()) == ("true", before)
    back = keyed(function, "0", "made-ten-days-ago").json()
    jump.set(0)
    server.restart()
    assert keyed(function, "0", "made-ten-days-ago").json() == back
    assert len(function.records()) == 3


@promise("D12")
def test_an_hour_back_leaves_ends_behind_starts_in_order(server: Server, jump: Jump) -> None:
    function = server.deploy("sleep ${QUILT_PAYLOAD:-1}")
    during = server.later(function.invoke)
    until(lambda: server.named("sleep"))
    jump.set(-HOUR_S)
    made = [during.result(scaled(30)), function.invoke()]
    server.restart()
    made.append(function.invoke())
    assert [one["invocation_id"] for one in made] == in_order(function)
    for ended in made:
        assert ended["ended_at"] - ended["started_at"] in (1, 2)
        assert 1000 <= ended["duration_ms"] < scaled(2000)
    # This invocation does not end before its server.
    lost = server.later(function.try_invoke, "60")
    until(lambda: server.named("sleep"))
    jump.set(-2 * HOUR_S)
    server.kill_server()
    server.wait()
    assert lost.exception(30) is not None
    server.start()
    record = function.records()[in_order(function)[-1]]
    assert record["status"] == "interrupted"
    assert record["ended_at"] == record["started_at"]
    jump.set(0)
