"""A long queue of asynchronous invocations is kept when the server ends, and does not slow down its
start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from e2e.server import Function, Server, pages
from e2e.timed_client import Client
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("D32")]
WAITING, AT_ONCE = 20_000, 32


async def _give(function: Function, count: int) -> set[str]:
    """Queues invocations that are due in an hour; returns their ids."""
    client = Client(function.server.url)
    left = iter(range(count))
    path, found = f"{function.path}/invoke?mode=async&delay_seconds=3600", set()

    async def some() -> None:
        for number in left:
            answer = await client.ask("POST", path, {"payload": f"waiting-{number}"})
            assert answer.status == 202, answer.body
            found.add(answer.body["invocation_id"])

    try:
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    finally:
        await client.close()
    return found


def started_in_s(server: Server) -> float:
    began = time.monotonic()
    server.start()
    return time.monotonic() - began


def test_twenty_thousand_queued_outlive_a_kill(another: Callable[..., Server]) -> None:
    server = another("--prewarmed 0").start()
    function = server.deploy('printf %s "$QUILT_PAYLOAD"')

    def after_a_kill() -> float:
        server.kill_server()
        server.wait()
        return started_in_s(server)

    with_none = min(after_a_kill() for _ in range(2))
    accepted = asyncio.run(_give(function, WAITING))
    assert len(accepted) == WAITING
    with_many = min(after_a_kill() for _ in range(2))
    print(f"start with none waiting {with_none:.2f} s, with {WAITING} {with_many:.2f} s")
    assert with_many < with_none + 2, (with_none, with_many)
    queue = server.call("GET", f"{function.path}/queue").json()
    assert (queue["delayed"], queue["queued"], queue["running"]) == (WAITING, 0, 0)
    kept = pages(server, f"{function.path}/invocations", "invocations")
    assert {one["invocation_id"] for one in kept} == accepted
    assert {one["status"] for one in kept} == {"queued"}
    # The queue delays no other invocation, needs no instance, and its invocations can be cancelled.
    assert function.invoke("now")["stdout"] == "now"
    call_id = accepted.pop()
    cancelled: Any = server.call("POST", f"{function.path}/invocations/{call_id}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert server.call("GET", f"{function.path}/queue").json()["delayed"] == WAITING - 1
