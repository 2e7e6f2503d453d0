"""The background tasks of a server, with their settings."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial

import structlog

from quiltfn.api.services import Services
from quiltfn.base.store_retry import until_stored
from quiltfn.calls.dispatch import Dispatcher
from quiltfn.model.retention import RetentionPolicy, StorageLimit
from quiltfn.server.ground import Ground
from quiltfn.server.retention import (
    collect_images,
    prune_expired,
    prune_until_done,
    reclaim_disk,
)
from quiltfn.settings import DAY_S, Settings
from quiltfn.store import (
    SpoolJournal,
    SqlAuditRetention,
    SqlDiskSpace,
    SqlInputRetention,
    SqlStore,
)
from quiltfn.store.calls.retention import SqlRetention

Task = Callable[[], Coroutine[None, None, None]]
# Reloads all stored objects of one kind into memory, if called with None.
TakeOver = Callable[[None], Awaitable[None]]
# Seconds before a failed task is restarted.
AGAIN_S = 10.0

_log = structlog.get_logger("quiltfn.server.background")


async def keep_running(task: Task) -> None:
    """Run a task until it returns. Log an exception, which is a bug, and restart the task."""
    while True:
        try:
            return await task()
        except Exception:
            _log.exception("a background task has failed and is restarted")
            await asyncio.sleep(AGAIN_S)


async def run_recovered(journal: SpoolJournal, dispatcher: Dispatcher) -> None:
    """After a start on a full disk: once there is space, start the dispatcher with the work that
    the previous server had claimed.
    """
    if await journal.recovered():
        await until_stored(dispatcher.start)


async def compare_when_unsure(store: SqlStore, take_overs: Iterable[TakeOver]) -> None:
    """For a standalone server, until cancelled: after a write with an unknown outcome, reload
    memory from the store once the store accepts a write again. Writes are serial, so by then the
    uncertain write was either made or never will be.
    """

    async def compare() -> None:
        await store.ping()
        for take_over in take_overs:
            await take_over(None)

    while True:
        await store.database.unsure()
        await until_stored(compare)


def inputs_bound(chosen: Settings) -> StorageLimit:
    """The limit on the bytes of stored inputs."""
    return StorageLimit(tenant=chosen.tenant_inputs_bytes, all=chosen.keep_inputs_bytes)


def background_tasks(ground: Ground, services: Services) -> tuple[Task, ...]:
    """The tasks that remove expired data."""
    chosen, database, clock = ground.settings, ground.database, services.clock
    keep_s = chosen.keep_invocations_days * DAY_S
    size = StorageLimit(tenant=chosen.tenant_invocations_bytes, all=chosen.keep_invocations_bytes)
    keep = RetentionPolicy(count=chosen.keep_invocations, seconds=keep_s, size=size)
    audit_limit = StorageLimit(tenant=chosen.tenant_audit_bytes, all=chosen.audit_bytes)

    def oldest_kept() -> int | None:
        """Deliveries that ended before this time are removed, like records."""
        return int(clock.trusted() - keep_s) if keep_s else None

    retention = SqlRetention(database, clock)
    prunes = (
        lambda: retention.prune_some(keep),
        services.stats.prune_some,
        SqlInputRetention(database, inputs_bound(chosen)).prune_some,
        SqlAuditRetention(database, audit_limit).prune_some,
        lambda: services.deliveries.prune_some(oldest_kept(), int(clock.unix())),
    )
    return (
        partial(reclaim_disk, SqlDiskSpace(database), clock),
        partial(prune_expired, services, chosen.audit_days),
        *(partial(prune_until_done, one, clock, ground.others.count) for one in prunes),
        partial(collect_images, services, chosen.image_grace_s),
    )
