"""Which nodes of a fleet have which images, in the database."""

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, delete, insert, select

from quiltfn.ports import ChangeKind
from quiltfn.ports.fleet import ImageCopy
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database

table, copy = tables.image_copy, tables.image_copy.c
# The tenant in changes of a node's images, which belong to no tenant.
NO_TENANT = ""


class SqlImageCopies:
    """Which nodes have the files of which images. Raises `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, digests: Collection[str] | None = None) -> Sequence[ImageCopy]:
        """All copies, or those of these images."""
        query = select(copy.digest, copy.node)
        if digests is not None:
            query = query.where(copy.digest.in_(digests))

        def work(connection: Connection) -> list[ImageCopy]:
            return [ImageCopy(*row) for row in connection.execute(query)]

        return await self._database.read(work)

    async def state(self, node: str, digests: Collection[str]) -> None:
        """Stores that the node has exactly these images. Harmless when repeated: only differences
        are written and reported to the other nodes.
        """
        wanted = frozenset(digests)

        def work(connection: Connection) -> None:
            rows = connection.execute(select(copy.digest).where(copy.node == node))
            there = {digest for (digest,) in rows}
            for digest in sorted(there - wanted):
                this = (copy.node == node) & (copy.digest == digest)
                connection.execute(delete(table).where(this)).close()
            for digest in sorted(wanted - there):
                connection.execute(insert(table), {"digest": digest, "node": node})
            for digest in sorted(there ^ wanted):
                changes.record(connection, ChangeKind.IMAGE_COPY, NO_TENANT, digest)

        await self._database.write(work)
