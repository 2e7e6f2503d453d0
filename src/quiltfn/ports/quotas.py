"""The interface to quotas in the store."""

from collections.abc import Collection, Mapping
from typing import Protocol

from quiltfn.model.tenant_quota import TenantQuota


class QuotaStore(Protocol):
    """Quotas of tenants. Raises `StoreUnavailable`."""

    async def load(self, only: Collection[str] | None = None) -> Mapping[str, TenantQuota]:
        """Every tenant's that has one, by the tenant's id."""

    async def save(self, tenant_id: str, quota: TenantQuota | None) -> None:
        """Keeps a tenant's quota, in place of another one; None: it has none any more."""
