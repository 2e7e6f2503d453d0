"""State that outlives the process: functions, records, queues, and keys, in a database.

`SqlStore` stores functions and their versions. `SpoolJournal` stores the records of invocations
without making an invocation wait for the database. The other classes store further rows in the same
database, or remove old ones: API keys, responses to idempotent requests, audit entries, operations,
runtimes, images of tenants, asynchronous invocations, aliases, policies, URLs and schedules of
functions, deliveries, statistics of invocations, quotas of tenants.
"""

from quiltfn.store.calls.deliveries import SqlDeliveries
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.calls.old_inputs import SqlInputRetention
from quiltfn.store.calls.retention import SqlRetention
from quiltfn.store.calls.schedules import SqlSchedules
from quiltfn.store.calls.stats import SqlStats
from quiltfn.store.calls.work import SqlWork
from quiltfn.store.database.clock import SqlClockStore
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.vacuum import SqlDiskSpace
from quiltfn.store.functions.aliases import SqlAliases
from quiltfn.store.functions.functions import SqlStore
from quiltfn.store.functions.policies import SqlPolicies
from quiltfn.store.functions.runtimes import SqlRuntimes, SqlTenantImages
from quiltfn.store.functions.urls import SqlUrls
from quiltfn.store.opening import open_sqlite
from quiltfn.store.tenants.audit import SqlAudit
from quiltfn.store.tenants.audit_retention import SqlAuditRetention
from quiltfn.store.tenants.idempotency import SqlIdempotencyStore
from quiltfn.store.tenants.keys import SqlKeys
from quiltfn.store.tenants.operations import SqlOperations
from quiltfn.store.tenants.quotas import SqlQuotas

__all__ = [
    "SpoolJournal",
    "SqlAliases",
    "SqlAudit",
    "SqlAuditRetention",
    "SqlClockStore",
    "SqlDeliveries",
    "SqlDiskSpace",
    "SqlIdempotencyStore",
    "SqlInputRetention",
    "SqlKeys",
    "SqlOperations",
    "SqlPolicies",
    "SqlQuotas",
    "SqlRetention",
    "SqlRuntimes",
    "SqlSchedules",
    "SqlStats",
    "SqlStore",
    "SqlTenantImages",
    "SqlUrls",
    "SqlWork",
    "StoreBroken",
    "open_sqlite",
]
