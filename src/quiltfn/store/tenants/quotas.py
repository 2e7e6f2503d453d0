"""Quotas of tenants: a row for each tenant that has one."""

from collections.abc import Callable, Collection, Mapping

import msgspec
from sqlalchemy import Connection, delete, insert, select

from quiltfn.model.converting import convert
from quiltfn.model.tenant_quota import TenantQuota
from quiltfn.ports import ChangeKind
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database

row = tables.tenant_quota


class SqlQuotas:
    """Quotas of tenants. Raises `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, only: Collection[str] | None = None) -> Mapping[str, TenantQuota]:
        """All quotas, by tenant id. `only`: for these tenants."""
        query = select(row) if only is None else select(row).where(row.c.tenant_id.in_(only))

        def work(connection: Connection) -> dict[str, TenantQuota]:
            rows = connection.execute(query).all()
            return {one.tenant_id: convert(one.quota, TenantQuota) for one in rows}

        return await self._database.read(work)

    async def change(
        self, tenant_id: str, change: Callable[[TenantQuota | None], TenantQuota | None]
    ) -> TenantQuota | None:
        """Replaces a tenant's quota by the result of `change`, atomically, and returns the new one;
        None: no quota. `change` may be called several times, in another thread. Its exceptions are
        raised.
        """
        this = select(row.c.quota).where(row.c.tenant_id == tenant_id)

        def work(connection: Connection) -> TenantQuota | None:
            stored = connection.execute(this).scalar()
            quota = change(None if stored is None else convert(stored, TenantQuota))
            connection.execute(delete(row).where(row.c.tenant_id == tenant_id)).close()
            changes.record(connection, ChangeKind.QUOTA, tenant_id, tenant_id)
            if quota is not None:
                values = {"tenant_id": tenant_id, "quota": msgspec.to_builtins(quota)}
                connection.execute(insert(row), values).close()
            return quota

        return await self._database.write(work)
