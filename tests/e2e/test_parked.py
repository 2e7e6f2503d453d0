"""Real interpreters load modules before an invocation needs them, measured by the host's clock."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("P20")]
MODULE = """
    import time
    IMPORTED_AT = time.monotonic()  # the host's clock

    def handler(event, context):
        if event == "eat":
            bytearray(1 << 30)
        return IMPORTED_AT
"""


def listed(function: Function) -> dict[str, Any]:
    """The function's entry in the list of pools; empty if it has none."""
    answer = function.server.call("GET", f"/api/functions/pools?function_id={function.id}")
    return dict(next(iter(answer.json()["pools"]), {}))


def is_parked(function: Function) -> bool:
    return listed(function).get("parked_count") == 1


def imported_before_the_call(function: Function, reason: str) -> bool:
    before = time.monotonic()
    record = function.invoke()
    assert (record["status"], record["cold_start"]) == ("success", True)
    path = f"{function.path}/invocations/{record['invocation_id']}/timeline"
    assert function.server.call("GET", path).json()["cold_reason"] == reason
    return float(record["stdout"]) < before


@promise("C12")
def test_after_a_restart_and_after_a_call_that_took_it_along(server: Server) -> None:
    function = sample_runtimes.python(server, MODULE)
    function.invoke()
    server.restart()
    until(lambda: is_parked(function))
    assert imported_before_the_call(function, "first")
    assert function.invoke('"eat"')["status"] == "oom"
    until(lambda: is_parked(function))
    assert imported_before_the_call(function, "replaced")


def test_what_it_uses_is_counted_and_shown(server: Server) -> None:
    function = sample_runtimes.python(server, "KEPT = bytes(range(256)) * (40 << 12)\n" + PLAIN)
    function.invoke()
    server.restart()
    until(lambda: is_parked(function) and 40 < listed(function)["memory_mib"] < 80)


PLAIN = """
def handler(event, context):
    return None
"""


def test_without_parking_the_call_waits_for_the_imports(another: Callable[..., Server]) -> None:
    server = another("--park-s 0").start()
    function = sample_runtimes.python(server, MODULE)
    server.restart()
    assert not imported_before_the_call(function, "first")
