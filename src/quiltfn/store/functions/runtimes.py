"""Runtimes in the database, and the images of tenants."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, func, insert, select, union_all

from quiltfn.model.image import TenantImage
from quiltfn.model.runtime import IMAGES, SHARED, Runtime
from quiltfn.ports import ChangeKind
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database

table, held = tables.runtime, tables.tenant_image
# The images of each tenant's runtimes and versions; null for a runtime without an image.
named = union_all(
    *(select(table.c.tenant_id, table.c[kind].label("image")) for kind in IMAGES),
    *(
        select(
            tables.function.c.tenant_id, tables.version.c.pinned[kind].as_string().label("image")
        ).join_from(tables.version, tables.function)
        for kind in IMAGES
    ),
).subquery()


class SqlRuntimes:
    """The runtimes of each tenant by name; those of the tenant `SHARED` are for all tenants. Raises
    `StoreUnavailable`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, tenants: Collection[str] | None = None) -> Sequence[tuple[str, Runtime]]:
        """All pairs of tenant and runtime, or those of these tenants."""
        query = select(table).order_by(table.c.tenant_id, table.c.name)
        if tenants is not None:
            query = query.where(table.c.tenant_id.in_(tenants))

        def work(connection: Connection) -> list[tuple[str, Runtime]]:
            rows = connection.execute(query).mappings()
            return [(row["tenant_id"], tables.read(row, Runtime)) for row in rows]

        return await self._database.read(work)

    async def save(self, tenant_id: str, runtime: Runtime) -> bool:
        """Adds or replaces the runtime of that name. If it has an image that the tenant lacks, does
        nothing and returns False. The base image may be one that all tenants share. Versions keep
        their runtime snapshots.
        """
        this = (table.c.tenant_id == tenant_id) & (table.c.name == runtime.name)
        mine, any_of = (tenant_id,), (tenant_id, SHARED)
        images = [
            held.c.tenant_id.in_(any_of if one == runtime.base_image else mine)
            & (held.c.digest == one)
            for one in runtime.images
        ]

        def work(connection: Connection) -> bool:
            if not all(_is_there(connection, one) for one in images):
                return False
            connection.execute(delete(table).where(this))
            row = tables.row_of(runtime) | {"tenant_id": tenant_id}
            connection.execute(insert(table), row)
            changes.record(connection, ChangeKind.RUNTIME, tenant_id, runtime.name)
            return True

        return await self._database.write(work)

    async def remove(self, tenant_id: str, name: str) -> None:
        """Removes the runtime of that name, if it exists."""
        this = (table.c.tenant_id == tenant_id) & (table.c.name == name)

        def work(connection: Connection) -> None:
            if connection.execute(delete(table).where(this)).rowcount:
                changes.record(connection, ChangeKind.RUNTIME, tenant_id, name)

        await self._database.write(work, frees=True)

    async def images_in_use(self) -> frozenset[tuple[str, str]]:
        """Pairs of tenant and digest: each image in a runtime or a version of the tenant."""
        query = select(named).where(named.c.image.is_not(None)).distinct()

        def work(connection: Connection) -> frozenset[tuple[str, str]]:
            return frozenset((row.tenant_id, row.image) for row in connection.execute(query))

        return await self._database.read(work)


class SqlTenantImages:
    """The images of tenants. Raises `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, digests: Collection[str] | None = None) -> Sequence[TenantImage]:
        """All pairs of tenant and image, or those with these digests."""
        query = select(held).order_by(held.c.tenant_id, held.c.digest)
        if digests is not None:
            query = query.where(held.c.digest.in_(digests))
        return await self._database.read(lambda c: tables.read_all(c, query, TenantImage))

    async def add(self, image: TenantImage, quota_bytes: int | None = None) -> bool:
        """Adds the image to the tenant's, unless all of them would then count more than
        `quota_bytes`; returns whether the tenant has the image. For an image that the tenant
        already has, stores the new count.
        """
        this = (held.c.tenant_id == image.tenant_id) & (held.c.digest == image.digest)
        theirs = select(func.coalesce(func.sum(held.c.counted_bytes), 0)).where(
            held.c.tenant_id == image.tenant_id
        )

        def work(connection: Connection) -> bool:
            is_new = not connection.execute(delete(held).where(this)).rowcount
            if is_new and quota_bytes is not None:
                used = int(connection.execute(theirs).scalar_one())
                if used + image.counted_bytes > quota_bytes:
                    return False
            connection.execute(insert(held), tables.row_of(image))
            changes.record(connection, ChangeKind.IMAGE, image.tenant_id, image.digest)
            return True

        return await self._database.write(work)

    async def remove(self, tenant_id: str, digest: str) -> bool:
        """Removes the image from the tenant's, unless a runtime or a version of the tenant uses it;
        for `SHARED`, those of all tenants count. Returns whether the tenant is now without the
        image.
        """
        this = (held.c.tenant_id == tenant_id) & (held.c.digest == digest)
        uses = named.c.image == digest
        if tenant_id != SHARED:
            uses &= named.c.tenant_id == tenant_id

        def work(connection: Connection) -> bool:
            unused = delete(held).where(this, ~exists().where(uses))
            if connection.execute(unused).rowcount:
                changes.record(connection, ChangeKind.IMAGE, tenant_id, digest)
                return True
            return not _is_there(connection, this)

        return await self._database.write(work, frees=True)


def _is_there(connection: Connection, this: ColumnElement[bool]) -> bool:
    """Whether a tenant has an image."""
    return connection.execute(select(held.c.digest).where(this)).first() is not None
