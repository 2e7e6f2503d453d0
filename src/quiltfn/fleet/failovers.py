"""Failovers: nodes tell each other which PostgreSQL timeline they use.

After a failover the old primary may still run, and some nodes may still be connected to it. These
nodes and those that use the new primary do not see each other's heartbeats. So each node asks some
nodes that it does not see, and a node on the older timeline leaves the old primary.

    POST /fleet/history/<system identifier>/<timeline>   the response has the same form
"""

import asyncio
import random
import re
from collections.abc import Callable, Sequence

import structlog

from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, text_response
from quiltfn.fleet.peers import HttpPeers
from quiltfn.model.member import Member
from quiltfn.ports.fleet import History
from quiltfn.ports.peers import Asker
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.store.database.postgres_timeline import PostgresTimeline

PATH = "/fleet/history/"
TOLD = re.compile(r"([0-9]{1,20})/([0-9]{1,10})")
ASKED_MAX, ANSWER_MAX_BYTES = 3, 64
_log = structlog.get_logger("quiltfn.fleet")


class Failovers:
    """Call `read` with the members. `silent`: returns the nodes whose heartbeats are not seen."""

    def __init__(
        self, peers: HttpPeers, timeline: PostgresTimeline, silent: Callable[[], Sequence[str]]
    ) -> None:
        self._peers, self._timeline, self._silent = peers, timeline, silent
        self._asking: asyncio.Task[None] | None = None

    def read(self, _: Sequence[Member]) -> None:
        """Ask some silent nodes in the background, unless earlier requests are in progress."""
        silent = self._silent()
        if silent and (self._asking is None or self._asking.done()):
            some = random.sample(silent, min(ASKED_MAX, len(silent)))
            self._asking = asyncio.ensure_future(self._ask_all(some))

    async def answer(self, request: Request, asker: Asker) -> Response:
        """Learn another node's timeline, and respond with this node's."""
        self._heard(request.path.removeprefix(PATH), asker.node)
        return text_response(_shown(self._timeline.newest), "text/plain; charset=utf-8")

    async def aclose(self) -> None:
        """Cancel peer queries."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _ask_all(self, nodes: Sequence[str]) -> None:
        await asyncio.gather(*map(self._ask, nodes))

    async def _ask(self, node: str) -> None:
        target = f"{PATH}{_shown(self._timeline.newest)}".encode()
        try:
            async with self._peers.request(node, "POST", target, (), b"", None) as answer:
                if answer.status == 200:
                    self._heard((await answer.read(ANSWER_MAX_BYTES)).decode("latin-1"), node)
        except PeerUnavailable:
            pass  # the node may have stopped

    def _heard(self, text: str, node: str) -> None:
        found = TOLD.fullmatch(text)
        if found is not None and self._timeline.learn(History(*map(int, found.groups()))):
            _log.warning(
                "PostgreSQL was failed over: connections to the primary before it are given up",
                told_by=node,
                timeline=self._timeline.newest.timeline,
            )


def _shown(history: History) -> str:
    return f"{history.cluster}/{history.timeline}"
