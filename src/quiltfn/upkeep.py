"""What a server does beside its calls, for as long as it runs."""

from collections.abc import Coroutine

from quiltfn.clock import SystemClock
from quiltfn.holdings import Holdings
from quiltfn.model.kept import Keep
from quiltfn.ports import Stock
from quiltfn.settings import DAY_S, Settings
from quiltfn.store import (
    SqlAnswers,
    SqlAudit,
    SqlClock,
    SqliteStore,
    SqlRetention,
    SqlRoom,
    SqlRuntimes,
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
    keep = Keep(count=chosen.keep_invocations, seconds=keep_s)
    return (
        keep_time(clock, SqlClock(database)),
        tidy_room(SqlRoom(database), clock),
        tidy(SqlAudit(database), SqlAnswers(database), clock, chosen.audit_days),
        tidy_records(SqlRetention(database, clock), clock, keep),
        tidy_images(holdings, SqlRuntimes(database), stock, chosen.image_grace_s),
    )
