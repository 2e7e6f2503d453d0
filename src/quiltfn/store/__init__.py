"""What outlives the process: functions, versions and the record of every call, in a database.

`SqlStore` holds functions and their versions; `SpoolJournal` keeps the records of calls without
making a call wait for the database. The other classes each keep one kind of row in the same
database:
API keys, answers to idempotent requests, audit entries, operations, runtimes, images of tenants,
accepted work, policies and URLs of functions, deliveries, statistics of calls, quotas of tenants.
"""

from quiltfn.store.aliases import SqlAliases
from quiltfn.store.audit import SqlAudit
from quiltfn.store.audit_retention import SqlAuditRetention
from quiltfn.store.clock import SqlClockStore
from quiltfn.store.deliveries import SqlDeliveries
from quiltfn.store.directory import StoreBroken
from quiltfn.store.functions import SqlStore
from quiltfn.store.idempotency import SqlIdempotencyStore
from quiltfn.store.journal import SpoolJournal
from quiltfn.store.keys import SqlKeys
from quiltfn.store.old_inputs import SqlInputRetention
from quiltfn.store.operations import SqlOperations
from quiltfn.store.policies import SqlPolicies
from quiltfn.store.quotas import SqlQuotas
from quiltfn.store.retention import SqlRetention
from quiltfn.store.runtimes import SqlRuntimes, SqlTenantImages
from quiltfn.store.schedules import SqlSchedules
from quiltfn.store.sqlite import open_sqlite
from quiltfn.store.stats import SqlStats
from quiltfn.store.urls import SqlUrls
from quiltfn.store.vacuum import SqlDiskSpace
from quiltfn.store.work import SqlWork

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
