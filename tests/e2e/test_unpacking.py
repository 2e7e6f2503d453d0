"""Archives that take long to unpack: the server answers other requests meanwhile, and no process is
left.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e import sample_runtimes
from e2e.server import Server, all_children, is_alive, until
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("R45")]
GZIP = {"content-type": "application/gzip"}


@pytest.fixture(scope="module")
def flood() -> bytes:
    """An archive of headers without content. It has fewer entries than the limit, but takes seconds
    to unpack.
    """
    info = tarfile.TarInfo("./")
    info.type = tarfile.DIRTYPE
    return gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) * 200_000 + bytes(1024), 1)


@contextlib.contextmanager
def unpacking(server: Server, flood: bytes) -> Iterator[tuple[int, Future[httpx.Response]]]:
    """Yields the pid of the process that unpacks, and the future response to the upload."""
    response: Future[Any] = server.later(
        server.http.post, "/api/runtimes/images", content=flood, headers=GZIP
    )
    pid = until(lambda: next(iter(workers(server)), None))
    # Once the worker has set its limits, it also ends together with the server.
    until(lambda: os.getpriority(os.PRIO_PROCESS, pid))
    yield pid, response


def workers(server: Server) -> list[int]:
    found = []
    for pid in all_children(server.pid):
        with contextlib.suppress(OSError):
            if "quiltfn.images.worker" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found


def half_made(server: Server) -> list[str]:
    return [one for one in os.listdir(server.data_dir / "images") if one.startswith(".new")]


def test_the_server_answers_while_an_archive_is_unpacked(shared: Server, flood: bytes) -> None:
    with unpacking(shared, flood) as (pid, response):
        took: list[float] = []
        while is_alive(pid) and len(took) < 50:
            began = time.monotonic()
            shared.call("GET", "/api/functions")
            took.append(time.monotonic() - began)
        assert "it is empty" in response.result(scaled(120)).json()["error"]
    assert max(took) < scaled(1)
    assert half_made(shared) == []


def test_a_killed_unpacker_leaves_nothing_and_is_an_error(shared: Server, flood: bytes) -> None:
    with unpacking(shared, flood) as (pid, response):
        os.kill(pid, signal.SIGKILL)
        answer = response.result(scaled(20))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert "killed by signal 9" in answer.json()["error"]
    assert half_made(shared) == []
    assert sample_runtimes.upload(shared, {"a": "b"})


@pytest.mark.parametrize("end", [Server.kill_server, Server.kill_launcher, Server.terminate])
def test_unpackers_end_first(server: Server, flood: bytes, end: Callable[[Server], None]) -> None:
    with unpacking(server, flood) as (pid, response):
        end(server)
        server.wait(60)
        until(lambda: not is_alive(pid))
        with contextlib.suppress(httpx.HTTPError):
            response.result(scaled(20))
    server.start()
    assert half_made(server) == []
    assert sample_runtimes.upload(server, {"a": "b"})


def test_an_upload_ends_with_its_sender(shared: Server, flood: bytes) -> None:
    """The worker is suspended at work, so that only a signal can end it."""
    where, patience = f"{shared.url}/api/runtimes/images", httpx.Timeout(scaled(1))
    upload = shared.later(
        httpx.post, where, content=flood, headers=GZIP, timeout=patience, trust_env=False
    )
    pid = until(lambda: next(iter(workers(shared)), None))
    os.kill(pid, signal.SIGSTOP)
    # Another upload of the same tenant waits for its turn, and its sender disconnects as well.
    other = shared.later(
        httpx.post, where, content=flood, headers=GZIP, timeout=patience, trust_env=False
    )
    for left in (upload, other):
        assert isinstance(left.exception(scaled(30)), httpx.TimeoutException)
    until(lambda: not is_alive(pid))
    assert sample_runtimes.upload(shared, {"a": "b"})
    assert half_made(shared) == []
    assert workers(shared) == []


def test_the_list_of_packages_ends_with_its_caller(shared: Server) -> None:
    """The worker is suspended at work, so that only a signal can end it."""
    package = '{"name": "a", "version": "1"}'
    files = {f"node_modules/p{n}/package.json": package for n in range(9000)}
    for number in range(5):  # repeated until a worker was suspended before it had finished
        files["number"] = str(number)
        sample_runtimes.add(shared, "node", dict(files), f"many-{number}")
        path = f"/api/runtimes/many-{number}/packages"
        with httpx.Client(base_url=shared.url, timeout=0.01, trust_env=False) as client:
            for _ in range(3):
                with pytest.raises(httpx.TimeoutException):
                    client.get(path)
        until(lambda: not workers(shared))
        listing = shared.later(httpx.get, shared.url + path, timeout=scaled(1), trust_env=False)
        pid = until(lambda: next(iter(workers(shared)), None))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        if isinstance(listing.exception(scaled(10)), httpx.TimeoutException):
            break
    else:
        pytest.fail("each list was made before its process could be stopped")
    until(lambda: not is_alive(pid))
    assert shared.call("GET", path).json()["packages"] == [
        {"kind": "node", "name": "a", "version": "1"}
    ]
