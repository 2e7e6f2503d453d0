"""The background tasks of a server, with their settings."""

from collections.abc import Coroutine

from quiltfn.clock import ResumableClock
from quiltfn.model.retention import RetentionPolicy, StorageLimit
from quiltfn.ports import Retention, WarmStock
from quiltfn.retention import (
    collect_images,
    follow_wall_clock,
    prune_expired,
    prune_until_done,
    reclaim_disk,
)
from quiltfn.settings import DAY_S, Settings
from quiltfn.store import (
    SqlAudit,
    SqlAuditRetention,
    SqlClockStore,
    SqlDeliveries,
    SqlDiskSpace,
    SqlIdempotencyStore,
    SqlInputRetention,
    SqliteStore,
    SqlOperations,
    SqlRetention,
    SqlRuntimes,
    SqlStats,
    SqlWork,
)
from quiltfn.tenant_images import TenantImages


def inputs_bound(chosen: Settings) -> StorageLimit:
    """The bytes of what callers gave to calls."""
    return StorageLimit(tenant=chosen.tenant_inputs_bytes, all=chosen.keep_inputs_bytes)


def background_tasks(
    chosen: Settings,
    store: SqliteStore,
    tenant_images: TenantImages,
    warm_stock: WarmStock,
    stats: SqlStats,
    clock: ResumableClock,
) -> tuple[Coroutine[None, None, None], ...]:
    """Everything that runs beside calls to follow the clock and to remove what has expired."""
    database = store.database
    keep_s = chosen.keep_invocations_days * DAY_S
    size = StorageLimit(tenant=chosen.tenant_invocations_bytes, all=chosen.keep_invocations_bytes)
    keep = RetentionPolicy(count=chosen.keep_invocations, seconds=keep_s, size=size)
    audit_limit = StorageLimit(tenant=chosen.tenant_audit_bytes, all=chosen.audit_bytes)
    deliveries = SqlDeliveries(
        database,
        SqlWork(database),
        StorageLimit(tenant=chosen.tenant_deliveries_bytes, all=chosen.deliveries_bytes),
    )

    def oldest_kept() -> int | None:
        """Deliveries that ended before that are removed, as records are."""
        return int(clock.trusted() - keep_s) if keep_s else None

    retention: Retention = SqlRetention(database, clock)
    return (
        follow_wall_clock(clock, SqlClockStore(database)),
        reclaim_disk(SqlDiskSpace(database), clock),
        prune_expired(
            SqlAudit(database),
            SqlOperations(database),
            SqlIdempotencyStore(database),
            clock,
            chosen.audit_days,
        ),
        prune_until_done(lambda: retention.prune_some(keep), clock),
        prune_until_done(stats.prune_some, clock),
        prune_until_done(SqlInputRetention(database, inputs_bound(chosen)).prune_some, clock),
        prune_until_done(SqlAuditRetention(database, audit_limit).prune_some, clock),
        prune_until_done(lambda: deliveries.prune_some(oldest_kept(), int(clock.unix())), clock),
        collect_images(tenant_images, SqlRuntimes(database), warm_stock, chosen.image_grace_s),
    )
