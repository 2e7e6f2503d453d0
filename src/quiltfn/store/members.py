"""The nodes of a fleet in the database.

    present ──leave──▶ left ──take over──▶ gone ──a start──▶ present, with another epoch
       └──────── no beat, take over ────────▲
A beat is one statement on a connection of its own, so that it never waits behind records. A
take-over is a transaction among the others that write.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Text, cast, or_, select, update

from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.member import Member, NodeState, Presence, Report, TakenOver
from quiltfn.ports import Clock
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.store import tables
from quiltfn.store.database import Database, Quickly
from quiltfn.store.take_over import take_over
from quiltfn.store.work_recovery import StartTime

table, node = tables.node, tables.node.c
COLUMNS = node.name, node.epoch, node.beat, node.presence, node.state, node.address, node.version
ALL = (
    select(*COLUMNS, cast(node.report, Text))
    .where(or_(node.presence != Presence.GONE.value, node.version != ""))
    .order_by(node.name)
)
_report = msgspec.json.Decoder(Report).decode


class SqlMembers:
    """`ports.fleet.Members` over the table of `database`, for the node that has opened that."""

    def __init__(
        self, database: Database, quickly: Quickly, clock: Clock, lost_answer: bytes
    ) -> None:
        """`lost_answer`: the body for idempotent requests of nodes that are taken over."""
        self._database, self._quickly, self._clock = database, quickly, clock
        self._lost_answer = lost_answer
        # Of each node the last report, as it was stored and as it was understood.
        self._reports: dict[str, tuple[str, Report]] = {}

    @property
    def name(self) -> str:
        """This node's."""
        return self._database.boot.node_id

    async def register(self, address: str, report: Report) -> Member:
        """As the port says."""
        told = msgspec.to_builtins(report)
        found = await self._change_own({"address": address, "report": told})
        if found is None:
            raise StoreUnavailable("this node was started again elsewhere")
        if found.state is NodeState.REMOVED:
            raise NodeRemoved(f"The node {found.name} was removed from the fleet.")
        return found

    async def beat(self, report: Report) -> Member | None:
        """As the port says."""
        return await self._change_own(
            {"beat": node.beat + 1, "report": msgspec.to_builtins(report)}
        )

    async def read(self) -> Sequence[Member]:
        """As the port says."""
        return await self._quickly(self._read_all)

    def _read_all(self, connection: Connection) -> list[Member]:
        """All nodes do it with each beat, so it grows with the square of their number. Most reports
        are those of the beat before, and are not read again.
        """
        found, before, self._reports = [], self._reports, {}
        for name, epoch, beat, presence, state, address, version, told in connection.execute(ALL):
            known = before.get(name)
            if known is None or known[0] != told:
                known = told, _report(told)
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
        """As the port says."""
        this = node.name == name, node.version != ""
        change = update(table).where(*this, node.state != NodeState.REMOVED.value)
        change = change.values(state=state.value)

        def work(connection: Connection) -> Member | None:
            connection.execute(change).close()
            row = connection.execute(select(table).where(*this)).mappings().one_or_none()
            return None if row is None else _read(row)

        return await self._quickly(work)

    async def leave(self) -> None:
        """As the port says."""
        await self._change_own({"presence": Presence.LEFT.value, "report": {}})

    async def take_over(self, seen: Member) -> TakenOver | None:
        """As the port says."""
        now = StartTime(int(self._clock.unix()), int(self._clock.trusted() * 1000))
        found = await self._database.write(
            lambda connection: take_over(connection, seen, now, self._lost_answer)
        )
        if found is not None:
            with contextlib.suppress(StoreUnavailable):  # nobody else waits for that
                await self._database.end_node_session(seen.name)
        return found

    async def _change_own(self, values: dict[str, Any]) -> Member | None:
        """Changes the row of this node's epoch, if that still holds it."""
        boot = self._database.boot
        mine = node.name == boot.node_id, node.epoch == boot.epoch
        change = update(table).where(*mine, node.presence == Presence.PRESENT.value)
        change = change.values(values).returning(table)

        def work(connection: Connection) -> Member | None:
            row = connection.execute(change).mappings().one_or_none()
            return None if row is None else _read(row)

        return await self._quickly(work)


def _read(row: RowMapping) -> Member:
    return tables.read(row, Member)
