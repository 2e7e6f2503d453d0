"""A disk without a free byte: requests that are refused, requests that still work, and the
recovery.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import httpx
import pytest

from e2e.full_disk import Disk, small_disk
from e2e.server import Server, until
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
MIB = 1024 * 1024


@pytest.fixture(params=["ext4"])
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    with small_disk(request.param, 96) as disk:
        yield disk


@pytest.fixture
def server(disk: Disk, another: Callable[..., Server]) -> Server:
    """A server on this disk. At the end of the test, the disk has space again, so that the server
    can stop normally.
    """
    made = another(data_dir=disk.data)
    return made.start()


def refused(server: Server, method: str, path: str, body: object = None) -> None:
    answer = server.call(method, path, body)
    assert (answer.status_code, answer.json()["error_code"]) == (503, "STORE_UNAVAILABLE")
    assert "disk is full" in answer.json()["error"] or "No space left" in answer.json()["error"]


@promise("D13")
def test_a_full_disk_refuses_calls_and_loses_none(server: Server, disk: Disk) -> None:
    function = server.deploy('[ "$QUILT_PAYLOAD" ] && sleep "$QUILT_PAYLOAD"; echo done')
    acknowledged = [function.invoke() for _ in range(5)]
    under_way = [server.later(function.invoke, "2") for _ in range(4)]
    until(lambda: len(server.named("sleep")) == 4)
    disk.fill()
    # their records fit into the reserved space
    acknowledged += [one.result(scaled(30)) for one in under_way]
    until(lambda: function.try_invoke().status_code == 503)
    refused(server, "POST", f"{function.path}/invoke")
    refused(server, "POST", "/api/functions", {"name": "more", "handler": "true"})
    health = server.call("GET", "/api/functions/health").json()
    assert health["ready"] is False
    assert server.call("GET", "/health").status_code == 200
    assert server.call("GET", function.path).status_code == 200
    disk.free()
    until(lambda: function.try_invoke().status_code == 200)
    for record in acknowledged:
        assert function.records()[record["invocation_id"]] == record


@promise("D14")
@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_on_a_full_disk_delete_works_and_a_server_starts(server: Server, disk: Disk) -> None:
    """The server is killed, stopped and restarted on the full disk, and must lose nothing."""
    kept, gone = server.deploy("echo kept"), server.deploy("echo gone")
    acknowledged = [kept.invoke() for _ in range(5)]
    gone.invoke()
    disk.fill()
    gone.delete()
    refused(server, "POST", "/api/functions", {"name": "more", "handler": "true"})
    server.kill_server()
    assert server.wait(20) == 70
    disk.fill()
    server.start()
    assert server.call("GET", gone.path).status_code == 404
    for record in acknowledged:
        assert kept.records()[record["invocation_id"]] == record
    disk.fill()  # the start has freed some space
    until(lambda: kept.try_invoke().status_code == 503)
    server.restart()
    also = server.call("DELETE", kept.path)
    assert also.status_code == 204, also.text
    disk.free()
    until(lambda: server.call("GET", "/api/functions/health").json()["checks"]["store"]["ok"])
    assert server.deploy("echo again").invoke()["stdout"] == "again\n"


@promise("D14")
@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_a_server_starts_on_a_full_disk_with_leftovers(server: Server, disk: Disk) -> None:
    """The server is killed while the spool has several megabytes of ended invocations, for which
    the database has no space.
    """
    function = server.deploy("sleep 2; head -c 4000000 /dev/zero | tr '\\\\0' x", max_instances=4)
    under_way = [server.later(function.try_invoke) for _ in range(4)]
    until(lambda: len(server.named("sleep")) == 4)
    disk.fill()
    answers = [one.result(scaled(30)) for one in under_way]
    acknowledged = [one.json() for one in answers if one.status_code == 200]
    assert acknowledged
    server.kill_server()
    assert server.wait(20) == 70
    disk.fill()
    server.start()
    refused(server, "POST", f"{function.path}/invoke")

    def check() -> None:
        for record in acknowledged:
            path = f"{function.path}/invocations/{record['invocation_id']}"
            assert server.call("GET", path).json() == record

    check()
    disk.free()
    until(lambda: function.try_invoke(timeout_seconds=10).status_code == 200)
    check()


@promise("D14")
@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_a_server_starts_on_a_full_disk_with_keyed_calls_open(server: Server, disk: Disk) -> None:
    """No byte is free, including the reserve. The invocations with keys have ended with the server,
    which can only store this later.
    """
    function = server.deploy("sleep 60")
    under_way = server.later(keyed, server, "POST", f"{function.path}/invoke", "call")
    until(lambda: len(server.named("sleep")) == 1)
    target = f"/api/elasticity/control{function.path.removeprefix('/api')}/pool-target"
    targets = {"min_instances": 0, "max_instances": 3}
    operation = keyed(server, "POST", target, "operation", targets).json()
    with closing(sqlite3.connect(disk.data / "quiltfn.db")) as database:
        # the row as a kill can leave it
        database.execute("UPDATE operation SET status = 'running'")
        database.commit()
    path = f"/api/elasticity/control/operations/{operation['operation_id']}"
    assert server.call("GET", path).json()["status"] == "running"
    server.kill_server()
    assert server.wait(20) == 70
    assert under_way.exception(20) is not None
    disk.data.joinpath("reserve").unlink()
    disk.fill()
    server.start()
    ended = server.call("GET", path).json()
    assert (ended["status"], ended["reason_code"]) == ("failed", "ELASTICITY_INTERRUPTED")
    refused(server, "POST", f"{function.path}/invoke")
    disk.free()
    until(lambda: server.call("GET", "/api/functions/health").json()["checks"]["store"]["ok"])
    for _ in range(2):
        again = keyed(server, "POST", f"{function.path}/invoke", "call")
        assert (again.status_code, again.headers["idempotency-replayed"]) == (503, "true")
        assert "ended" in again.json()["error"], again.text
        assert server.call("GET", path).json() == ended
        server.restart()
    assert not server.named("sleep")


def keyed(server: Server, method: str, path: str, key: str, body: object = None) -> httpx.Response:
    headers = {"Idempotency-Key": key, "X-Orch-Action-Id": "a", "X-Tenant-Id": "default"}
    return server.http.request(method, path, json=body, headers=headers)


@promise("D14")
@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_a_first_start_needs_room(disk: Disk, another: Callable[..., Server]) -> None:
    server = another(data_dir=disk.data)
    server.makes_database = True
    disk.fill()
    server.start_without_waiting()
    assert server.wait() in (73, 75)
    assert "disk is full" in server.log.read_text() or "No space left" in server.log.read_text()
    disk.free()
    server.start()
    reserve = server.data_dir / "reserve"
    until(lambda: reserve.exists() and reserve.stat().st_size == 32 * MIB)
