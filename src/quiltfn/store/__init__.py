"""What outlives the process: functions, versions and the record of every call, in one SQLite file.

`SqliteStore` is the truth about functions; `SpoolJournal` keeps the records of calls without making
a call wait for the database. `SqlKeys`, `SqlAnswers`, `SqlAudit` and `SqlOperations` keep what
belongs to callers and their requests, `SqlRuntimes` what runtimes stand for, `SqlHoldings`
who has which images, in the same file.
"""

from quiltfn.store.answers import SqlAnswers
from quiltfn.store.audit import SqlAudit
from quiltfn.store.clock import SqlClock
from quiltfn.store.directory import StoreBroken
from quiltfn.store.journal import SpoolJournal
from quiltfn.store.keys import SqlKeys
from quiltfn.store.operations import SqlOperations
from quiltfn.store.retention import SqlRetention
from quiltfn.store.runtimes import SqlHoldings, SqlRuntimes
from quiltfn.store.shrink import SqlRoom
from quiltfn.store.sqlite import SqliteStore
from quiltfn.store.trim import SqlTrim

__all__ = [
    "SpoolJournal",
    "SqlAnswers",
    "SqlAudit",
    "SqlClock",
    "SqlHoldings",
    "SqlKeys",
    "SqlOperations",
    "SqlRetention",
    "SqlRoom",
    "SqlRuntimes",
    "SqlTrim",
    "SqliteStore",
    "StoreBroken",
]
