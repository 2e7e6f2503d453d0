"""Invocations of a function with a web server, by its URL. They pass through all parts of quiltfn;
the web server is in this process, too.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

import quiltfn
from quiltfn.functions.runtimes import Runtimes
from quiltfn.http_trigger.answer import wrong_field
from quiltfn.model.invocation import CallResult
from quiltfn.model.runtime import SHELL, Kind
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Call
from quiltfn.sandbox.fake import FakeSandbox
from service.platform_harness import open_harness
from service.python_calls import fewest_python_calls
from service.routes import Web
from service.test_collector import Connection, connected
from service.test_web_server import always, served

CALLS, PYTHON_CALLS_MAX = 50, 260
OURS = f"{Path(quiltfn.__file__).parent}/"  # excludes the tests, even in a checkout named quiltfn
SERVER = replace(SHELL, id="server", name="server", kind=Kind.SERVER)


@pytest.fixture
async def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """A connection to quiltfn, with a public URL of the function `f`, which has a web server."""
    async with served(always) as guest, open_harness(tmp_path) as harness:

        async def call(_: FakeSandbox, call: Call) -> CallResult:
            return await guest.server.call(call)

        def as_server(_: Runtimes, _tenant_id: str, spec: VersionSpec) -> VersionSpec:
            return replace(spec, runtime_snapshot=SERVER)

        monkeypatch.setattr(FakeSandbox, "call", call)
        monkeypatch.setattr(Runtimes, "with_snapshot", as_server)
        web = Web(harness)
        await web.url(await web.function(cleanup_on_exit=False), auth="none")
        async with connected(harness) as caller:
            yield caller


async def python_calls(connection: Connection) -> int:
    """The number of Python calls that a warm invocation of the function takes in quiltfn."""
    return await fewest_python_calls((OURS,), lambda: connection.call("/fn/default/f"), CALLS)


async def test_a_warm_call_of_a_server_takes_few_python_calls(connection: Connection) -> None:
    assert await python_calls(connection) <= PYTHON_CALLS_MAX


async def test_negative_control_a_head_that_is_checked_line_by_line_is_noticed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await python_calls(connection)

    def one_by_one(fields: list[tuple[str, str]]) -> str | None:
        return next((why for one in fields if (why := wrong_field([one]))), None)

    monkeypatch.setattr("quiltfn.http_trigger.server.wrong_field", one_by_one)
    assert await python_calls(connection) >= before + 3
