"""A call that comes whole: one answer, whatever happens, as on the ordinary way."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from starlette.datastructures import Address

from quiltfn.api.app import App, make_app
from quiltfn.api.direct import CallRequest, Heads
from quiltfn.api.route import ApiLimits
from service.platform_harness import open_access

ID = "018f0000-0000-7000-8000-000000000000"
BY_ID, BY_NAME = f"/api/functions/{ID}/invoke", "/api/functions/invoke/hello"


@pytest.fixture
def app() -> App:
    """The application over services whose catalog breaks."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    services: Any = SimpleNamespace(
        access=open_access(),
        catalog=SimpleNamespace(by_id=broken, by_name=broken),
        health=SimpleNamespace(machine=SimpleNamespace(memory_max_mib=1024, cores=1)),
        limits=ApiLimits(),
        clock=SimpleNamespace(unix=lambda: 0.0),
        audit=None,
    )
    return make_app(services)


def heads(**more: str) -> Heads:
    return Heads({"host": "127.0.0.1", "content-type": "application/json"} | more)


@pytest.mark.parametrize("path", [BY_ID, BY_NAME])
async def test_a_mistake_of_ours_is_told_as_such(app: App, path: str) -> None:
    found = app.call_at(path.encode())
    assert found is not None
    endpoint, parameters = found
    request = CallRequest(path, parameters, heads(), Address("127.0.0.1", 1))
    answer = await endpoint.respond(request, b"{}")
    assert answer.status == 500
    told = msgspec.json.decode(answer.body)
    assert told["error_code"] == "INTERNAL"
    assert told["request_id"] == answer.headers["x-request-id"]
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/api/functions",
        f"{BY_ID}/",
        f"{BY_ID}?a=1",
        "/api/functions/invoke/",
        "/api/functions/invoke/a/b",
    ],
)
def test_what_is_no_call_is_not_taken_for_one(app: App, path: str) -> None:
    assert app.call_at(path.encode()) is None


async def test_an_id_of_the_caller_s_own_comes_back_if_it_is_one(app: App) -> None:
    found = app.call_at(BY_ID.encode())
    assert found is not None
    for given, kept in (("r-1", True), ("two words", False)):
        request = CallRequest(BY_ID, found[1], heads(**{"x-request-id": given}), None)
        answer = await found[0].respond(request, b"{}")
        assert (answer.headers["x-request-id"] == given) is kept
