"""What a server does beside its calls, for as long as it runs."""

from collections.abc import Coroutine

from quiltfn.clock import SystemClock
from quiltfn.holdings import Holdings
from quiltfn.model.kept import Bound, Keep
from quiltfn.ports import Stock
from quiltfn.settings import DAY_S, Settings
from quiltfn.store import (
    SqlAnswers,
    SqlAudit,
    SqlClock,
    SqliteStore,
    SqlOperations,
    SqlRetention,
    SqlRoom,
    SqlRuntimes,
    SqlTrim,
)
from quiltfn.tidy import keep_time, tidy, tidy_images, tidy_records, tidy_room


def upkeep(
    chosen: Settings,
    store: SqliteStore,
    holdings: Holdings,
    stock: Stock,
    clock: SystemClock,
) -> tuple[Coroutine[None, None, None], ...]:
    """Everything that removes what is kept for a time only."""
    database = store.database
    keep_s = chosen.keep_invocations_days * DAY_S
    size = Bound(tenant=chosen.tenant_invocations_bytes, all=chosen.keep_invocations_bytes)
    keep = Keep(count=chosen.keep_invocations, seconds=keep_s, size=size)
    trail = Bound(tenant=chosen.tenant_audit_bytes, all=chosen.audit_bytes)
    retention = SqlRetention(database, clock)
    return (
        keep_time(clock, SqlClock(database)),
        tidy_room(SqlRoom(database), clock),
        tidy(
            SqlAudit(database),
            SqlOperations(database),
            SqlAnswers(database),
            clock,
            chosen.audit_days,
        ),
        tidy_records(lambda: retention.prune_some(keep), clock),
        tidy_records(SqlTrim(database, trail).prune_some, clock),
        tidy_images(holdings, SqlRuntimes(database), stock, chosen.image_grace_s),
    )
