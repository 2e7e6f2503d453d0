"""The nodes of a fleet in the database.

    present ──leave──▶ left ──take over──▶ gone ──a start──▶ present, with another epoch
       └──────── no beat, take over ────────▲
A heartbeat is one statement on its own connection, so that it never waits behind records. A
take-over is a transaction that waits its turn among other writers.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Text, cast, or_, select, update

from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.member import Member, NodeState, Presence, Report, TakenOver
from quiltfn.ports import Clock
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.store.calls.work_recovery import StartTime
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database, Quickly
from quiltfn.store.fleet.take_over import take_over

table, node = tables.node, tables.node.c
COLUMNS = node.name, node.epoch, node.beat, node.presence, node.state, node.address, node.version
ALL = (
    select(*COLUMNS, cast(node.report, Text))
    .where(or_(node.presence != Presence.GONE.value, node.version != ""))
    .order_by(node.name)
)
_report = msgspec.json.Decoder(Report).decode


class SqlMembers:
    """The nodes of a fleet in the store. All methods raise `StoreUnavailable` if the store does not
    respond within some seconds. Heartbeats never wait behind records that are being stored.
    """

    def __init__(
        self, database: Database, quickly: Quickly, clock: Clock, lost_answer: bytes
    ) -> None:
        """`lost_answer`: the body for idempotent requests of nodes that are taken over."""
        self._database, self._quickly, self._clock = database, quickly, clock
        self._lost_answer = lost_answer
        # The last report of each node, as stored and as decoded.
        self._reports: dict[str, tuple[str, Report]] = {}

    @property
    def name(self) -> str:
        """The name of this node."""
        return self._database.boot.node_id

    async def register(self, address: str, report: Report) -> Member:
        """Publishes the address and facts of this node. Its epoch and version are already stored.
        Raises `NodeRemoved`.
        """
        fields = msgspec.to_builtins(report)
        found = await self._change_own({"address": address, "report": fields})
        if found is None:
            raise StoreUnavailable("this node was started again elsewhere")
        if found.state is NodeState.REMOVED:
            raise NodeRemoved(f"The node {found.name} was removed from the fleet.")
        return found

    async def beat(self, report: Report) -> Member | None:
        """Sends this node's heartbeat and its load; returns its row. None: another start of the
        node, or a take-over, has ended the epoch, so this server owns nothing in the store any
        more.
        """
        return await self._change_own(
            {"beat": node.beat + 1, "report": msgspec.to_builtins(report)}
        )

    async def read(self) -> Sequence[Member]:
        """All nodes by name, including those that have left, and servers that were alone in the
        store before and were not taken over.
        """
        return await self._quickly(self._read_all)

    def _read_all(self, connection: Connection) -> list[Member]:
        """All nodes run this at each heartbeat, so the cost grows with the square of their number.
        Most reports are unchanged since the last heartbeat, and are not decoded again.
        """
        found, before, self._reports = [], self._reports, {}
        for name, epoch, beat, presence, state, address, version, report in connection.execute(ALL):
            known = before.get(name)
            if known is None or known[0] != report:
                known = report, _report(report)
            self._reports[name] = known
            found.append(
                Member(
                    name=name,
                    epoch=epoch,
                    beat=beat,
                    presence=Presence(presence),
                    state=NodeState(state),
                    address=address,
                    version=version,
                    report=known[1],
                )
            )
        return found

    async def set_state(self, name: str, state: NodeState) -> Member | None:
        """Sets the state that an operator wants for a node, and returns the node's row; the node
        reads the state at its next heartbeat. None: there is no such node. A removed node stays
        removed; its row is returned unchanged.
        """
        this = node.name == name, node.version != ""
        change = update(table).where(*this, node.state != NodeState.REMOVED.value)
        change = change.values(state=state.value)

        def work(connection: Connection) -> Member | None:
            connection.execute(change).close()
            return tables.read_one(connection, select(table).where(*this), Member)

        return await self._quickly(work)

    async def leave(self) -> None:
        """Stores that this node has released everything and sends no more heartbeats. Harmless when
        repeated, and if the node was taken over.
        """
        await self._change_own({"presence": Presence.LEFT.value, "report": {}})

    async def take_over(self, seen: Member) -> TakenOver | None:
        """Ends everything of the node's epoch, unless the node has changed since `seen` (None).

        In one transaction: the node gets another epoch, its unfinished invocations are
        `interrupted`, work that it had claimed is retried or dead-lettered by each function's
        policy, and deliveries, idempotency keys and slots are released. From then on the store
        accepts nothing from the old epoch.
        """
        now = StartTime(int(self._clock.unix()), int(self._clock.trusted() * 1000))
        found = await self._database.write(
            lambda connection: take_over(connection, seen, now, self._lost_answer)
        )
        if found is not None:
            with contextlib.suppress(StoreUnavailable):  # a failure has no effect on the take-over
                await self._database.end_node_session(seen.name)
        return found

    async def _change_own(self, values: dict[str, Any]) -> Member | None:
        """Changes the row of this node if its epoch has not ended."""
        boot = self._database.boot
        mine = node.name == boot.node_id, node.epoch == boot.epoch
        change = update(table).where(*mine, node.presence == Presence.PRESENT.value)
        change = change.values(values).returning(table)
        return await self._quickly(lambda connection: tables.read_one(connection, change, Member))
