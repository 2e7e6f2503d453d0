"""The cost of a warm invocation, counted: it leaves nothing that only the garbage collector could
free, and the API makes few Python calls.

After about five thousand invocations that each leave a few objects, the collector stops the whole
server for 15 to 30 ms: the longest delay for callers. A Python call takes about 50 ns of the 250 µs
that the server spends on a warm invocation, 150 with the native lane.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.api.http.request import Request
from service.platform_harness import Harness, open_harness
from service.python_calls import fewest_python_calls
from service.served import served

pytestmark = promise("R17")

CALLS = 50
REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)


class Connection:
    """A client that keeps its connection open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def call(self, path: str) -> None:
        self._writer.write(REQUEST % path.encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await self._reader.readexactly(int(length))

    def close(self) -> None:
        self._writer.close()


@pytest.fixture(autouse=True)
def collector_is_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    async with open_harness(tmp_path) as harness:
        yield harness


@asynccontextmanager
async def connected(harness: Harness, *, has_lane: bool = True) -> AsyncIterator[Connection]:
    """A client connection to the application over real sockets."""
    async with served(harness, has_lane=has_lane) as port:
        caller = Connection(*await asyncio.open_connection("127.0.0.1", port))
        yield caller
        caller.close()


@pytest.fixture(params=[False, True], ids=["without the lane", "with the lane"])
async def connection(harness: Harness, request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    async with connected(harness, has_lane=request.param) as caller:
        yield caller


async def left_by_calls(harness: Harness, connection: Connection) -> int:
    """The number of objects that `CALLS` warm invocations leave, and that only the collector
    frees.
    """
    entry = await harness.active()
    path = f"/api/functions/{entry.function.id}/invoke"
    for _ in range(CALLS):  # creates objects that exist only once
        await connection.call(path)
    await harness.journal.synced()
    gc.collect()
    for _ in range(CALLS):
        await connection.call(path)
    await harness.journal.synced()
    return gc.collect()


async def test_a_warm_call_leaves_nothing(harness: Harness, connection: Connection) -> None:
    assert await left_by_calls(harness, connection) < CALLS


async def test_negative_control_a_call_that_refers_to_itself_is_left(
    harness: Harness, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Request.__init__

    def itself(request: Any, *given: Any) -> None:
        begin(request, *given)
        request.reader = request

    monkeypatch.setattr(Request, "__init__", itself)
    monkeypatch.setattr(Request, "wake", lambda _: None)
    assert await left_by_calls(harness, connection) >= CALLS


# Only the functions in these folders count: those of the API, and the checks of credentials and
# limits; not the functions that they call.
API = ("/quiltfn/api/", "/quiltfn/tenants/")
API_CALLS_MAX, LANE_CALLS_MAX = 55, 21


async def python_calls_of_the_api(harness: Harness, connection: Connection, name: str = "f") -> int:
    """The number of Python calls in the API for a warm invocation."""
    entry = await harness.active(name=name)
    path = f"/api/functions/{entry.function.id}/invoke"
    return await fewest_python_calls(API, lambda: connection.call(path), CALLS)


async def test_a_warm_call_takes_few_python_calls(
    harness: Harness, connection: Connection, request: pytest.FixtureRequest
) -> None:
    most = LANE_CALLS_MAX if request.node.callspec.params["connection"] else API_CALLS_MAX
    assert await python_calls_of_the_api(harness, connection) <= most


async def test_negative_control_two_more_steps_of_the_api_are_noticed(
    harness: Harness, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await python_calls_of_the_api(harness, connection)
    begin = Request.__init__

    def thrice(request: Any, *given: Any) -> None:
        for _ in range(3):
            begin(request, *given)

    monkeypatch.setattr(Request, "__init__", thrice)
    assert await python_calls_of_the_api(harness, connection, "g") >= before + 2
