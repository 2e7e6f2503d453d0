"""What outlives the process: functions, versions and the record of every call, in one SQLite file.

`SqliteStore` is the truth about functions; `SpoolJournal` keeps the records of calls without making
a call wait for the database.
"""

from quiltfn.store.directory import StoreBroken
from quiltfn.store.journal import SpoolJournal
from quiltfn.store.sqlite import SqliteStore

__all__ = ["SpoolJournal", "SqliteStore", "StoreBroken"]
