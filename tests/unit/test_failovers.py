"""In which order servers are asked for the primary, and what nodes tell each other about it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from promises import promise
from quiltfn.api.http.request import Request
from quiltfn.fleet.failovers import ASKED_MAX, PATH, Failovers
from quiltfn.ports.fleet import History
from quiltfn.ports.placement import PeerUnavailable

pytestmark = promise("N84")

CLUSTER = 7_000_000_000_000_000_001


class Known:
    """`PostgresTimeline`, in memory."""

    def __init__(self, timeline: int) -> None:
        self.newest = History(CLUSTER, timeline)

    def learn(self, found: History) -> bool:
        if not self.newest.is_before(found):
            return False
        self.newest = found
        return True


class AskedPeers:
    """`HttpPeers` that respond with one text, or not at all. `asked`: each node that was asked,
    and the method and target of its request.
    """

    def __init__(self, text: str | None) -> None:
        self.text, self.asked = text, list[tuple[str, str]]()

    @asynccontextmanager
    async def request(self, node: str, method: str, target: bytes, *_: Any) -> AsyncIterator[Any]:
        self.asked.append((node, f"{method} {target.decode()}"))
        if self.text is None:
            raise PeerUnavailable("it is gone", may_have_run=False)
        text = self.text

        async def read(_: int) -> bytes:
            return text.encode()

        yield SimpleNamespace(status=200, read=read)


async def asked(peers: AskedPeers, own: Known, *silent: str) -> None:
    """Ask the other nodes once."""
    failovers = Failovers(cast("Any", peers), cast("Any", own), lambda: silent)
    failovers.read(())
    for _ in range(5):
        await asyncio.sleep(0)
    await failovers.aclose()


async def test_a_silent_node_tells_of_a_failover_and_hears_of_one() -> None:
    peers, own = AskedPeers(f"{CLUSTER}/3"), Known(2)
    await asked(peers, own, "one")
    assert peers.asked == [("one", f"POST {PATH}{CLUSTER}/2")]
    assert own.newest == History(CLUSTER, 3)


async def test_nobody_is_asked_where_all_beats_are_seen_and_few_where_many_are_not() -> None:
    peers = AskedPeers(None)
    await asked(peers, Known(1))
    assert not peers.asked
    await asked(peers, Known(1), *map(str, range(100)))
    assert len(peers.asked) == ASKED_MAX


@pytest.mark.parametrize(
    "history", ["", f"{CLUSTER}/2", f"{CLUSTER}/1", f"{CLUSTER + 1}/9", "x/9", f"{CLUSTER}/9 "]
)
async def test_what_is_no_newer_history_of_the_same_database_changes_nothing(history: str) -> None:
    own = Known(2)
    await asked(AskedPeers(history), own, "one")
    assert own.newest == History(CLUSTER, 2)


async def test_a_node_answers_with_its_own_after_it_has_heard() -> None:
    own = Known(2)
    failovers = Failovers(cast("Any", AskedPeers(None)), cast("Any", own), list)
    request = cast("Request", SimpleNamespace(path=f"{PATH}{CLUSTER}/5"))
    answer = await failovers.answer(request, cast("Any", SimpleNamespace(node="one")))
    assert answer.body == f"{CLUSTER}/5".encode()
    assert own.newest == History(CLUSTER, 5)


def test_the_server_that_was_the_primary_last_is_asked_first() -> None:
    connection = pytest.importorskip("quiltfn.store.database.postgres_connection")
    parameters = {"host": "a,b,c", "port": "1,2,3", "user": "u"}
    places = [(one["host"], one["port"]) for one in connection.in_turn(parameters, ("b", "2"))]
    assert places == [("b", "2"), ("a", "1"), ("c", "3")]
    parameters = {"host": "a,b", "user": "u"}
    places = [(one["host"], one["port"]) for one in connection.in_turn(parameters, ("b", "5432"))]
    assert places == [("b", ""), ("a", "")]
    for fields in ({"host": "a", "port": "1"}, {"user": "u"}):
        assert connection.in_turn(fields, ("b", "2")) == [fields]
