"""docs/reference/errors.md has every code, with its body in a response."""

from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.fleet_node import Alone
from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.errors import STATUS
from quiltfn.api.http.route import ApiLimits
from quiltfn.base.others import Others
from quiltfn.model.access import Caller, Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.model.errors import StoreUnavailable
from service.in_process import InProcess
from spec import errors_page
from spec.api_client import is_error

pytestmark = pytest.mark.sandbox
AGAIN = "PYTHONPATH=tests .venv/bin/python -m spec.errors_page"


@pytest.fixture(scope="module")
def found() -> dict[str, httpx.Response]:
    return errors_page.collect()


@pytest.mark.parametrize("code", sorted(set(STATUS) - set(errors_page.WITHOUT_A_SERVER)))
def test_each_code_comes_with_its_status(found: dict[str, httpx.Response], code: str) -> None:
    body = is_error(found[code], code, STATUS[code])
    assert body["error"]
    if code in ("CAPACITY_FULL", "SHUTTING_DOWN", "RATE_LIMITED"):
        assert body["retry_after"]
    if code == "RUNTIME_UNAVAILABLE":
        assert found[code].headers["x-invocation-id"]
    if code == "METHOD_NOT_ALLOWED":
        assert found[code].headers["allow"] == "GET, HEAD, OPTIONS, POST"
    if code == "FUNCTION_NOT_ACTIVE":
        assert body["details"]["state"] == "pending"
        assert body["hint"]
    if code == "UNPROCESSABLE_ENTITY":
        assert all(body["details"][one] for one in ("expected", "received", "example"))


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreUnavailable(), "STORE_UNAVAILABLE"), (RuntimeError("a secret"), "INTERNAL")],
)
async def test_the_codes_that_no_healthy_server_gives(error: Exception, code: str) -> None:
    """These codes come from the application in this process, with a service that breaks during a
    change.
    """
    audited: list[AuditEntry] = []

    async def append(entry: AuditEntry) -> None:
        audited.append(entry)

    async def create(*_arguments: object) -> None:
        raise error

    async def identify(*_arguments: object) -> Caller:
        return Caller(tenant_id="t", scope=Scope.WRITE, credential="c")

    known = SimpleNamespace(memory_max_mib=1024, cores=1)
    services: Any = SimpleNamespace(
        access=SimpleNamespace(is_open=False, identify=identify),
        health=SimpleNamespace(machine=known, draining=False),
        fleet=Alone(cast("Any", None)),
        limits=ApiLimits(),
        budgets=Budgets(),
        admission=SimpleNamespace(check_functions=lambda *_: None),
        catalog=SimpleNamespace(count=lambda _: 0),
        lifecycle=SimpleNamespace(create=create, others=Others()),
        clock=SimpleNamespace(unix=lambda: 0.0, timestamp=lambda: 0.0),
        tracer=None,
        audit=SimpleNamespace(append=append),
        urls=SimpleNamespace(host=""),
    )
    transport = InProcess(make_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/api/functions", json={"name": "f", "handler": "echo"})
    is_error(answer, code, STATUS[code])
    assert "secret" not in answer.text
    assert [(one.status, one.error_code) for one in audited] == [(STATUS[code], code)]


@promise("A11")
def test_the_page_is_what_a_server_says(found: dict[str, httpx.Response]) -> None:
    page = errors_page.PAGE.read_text()
    assert page == errors_page.render(found), f"regenerate it, as root: {AGAIN}"


def test_the_page_has_every_code() -> None:
    assert set(errors_page.WHEN) == set(STATUS)
