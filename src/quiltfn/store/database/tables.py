"""The tables as the code uses them. `migrations/` creates the tables, and a test compares both."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Executable,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Select,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem

from quiltfn.model.converting import convert
from quiltfn.model.end_cause import cause_json
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports import FunctionCounters, StoredFunction, TenantFunctions

VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"
# The newest revision, according to file names. So a start with the newest schema need not import
# Alembic, which takes longer than opening the database.
REVISION = max(path.name[1:5] for path in VERSIONS.glob("r????_*.py"))

T = TypeVar("T", bound=msgspec.Struct)

metadata = MetaData()


def keys(*names: str) -> list[Column[Any]]:
    """Columns of text that make up the primary key."""
    return [Column(name, Text, primary_key=True) for name in names]


def required(kind: Any, *names: str, default: str | None = None) -> list[Column[Any]]:
    """Columns that are never null. `default`: of the database, for rows without a value."""
    expression = None if default is None else text(default)
    return [Column(name, kind, nullable=False, server_default=expression) for name in names]


def optional(kind: Any, *names: str) -> list[Column[Any]]:
    """Columns that may be null."""
    return [Column(name, kind) for name in names]


def owner() -> list[Column[Any]]:
    """Columns for the boot of the node that owns an unfinished row."""
    return [*required(Text, "node_id", default="''"), *required(BigInteger, "epoch", default="0")]


def partial_index(name: str, condition: str, *columns: str) -> Index:
    """An index of the rows that meet the condition. Only for SQLite: PostgreSQL's indices come from
    migrations, and a condition for PostgreSQL would import its whole dialect.
    """
    return Index(name, *columns, sqlite_where=text(condition))


def table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    """A table with these columns, constraints and indices."""
    return Table(name, metadata, *parts, **options)


def are_of(table: Table, functions: str | TenantFunctions) -> ColumnElement[bool]:
    """Matches rows of the function with the id, or of one of several functions."""
    if isinstance(functions, str):
        return table.c.function_id == functions
    if functions.ids is None:
        return table.c.tenant_id == functions.tenant_id
    return table.c.function_id.in_(functions.ids)


function_name = UniqueConstraint("tenant_id", "name", name="function_name")
version_number = UniqueConstraint("function_id", "number", name="version_number")

function = table(
    "function",
    *keys("id"),
    *required(Text, "tenant_id", "name"),
    *optional(Text, "cluster_id", "description"),
    *required(Text, "owner_node_id", "state"),
    *required(Integer, "current_version", "min_instances", "max_instances"),
    *required(BigInteger, "created_at", "updated_at"),
    *optional(Text, "error_message", "error_output"),
    *optional(Integer, "failed_version"),
    *required(BigInteger, "revision", default="1"),
    # The counters: only the journal writes them, never an update of the function.
    *required(BigInteger, "invocation_count", "error_count", default="0"),
    *optional(BigInteger, "last_invoked_at"),
    function_name,
)

version = table(
    "version",
    *keys("id"),
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), nullable=False),
    *required(Integer, "number"),
    *required(Text, "digest"),
    *optional(Text, "description"),
    *required(BigInteger, "created_at"),
    *required(Text, "handler", "runtime"),
    # `pinned`: the runtime snapshot.
    *required(JSON, "pinned", "environment"),
    *optional(Text, "working_directory"),
    *required(Integer, "memory_limit_mb"),
    *required(Float, "cpu_limit_percent"),
    *required(Integer, "timeout_seconds"),
    *required(Boolean, "cleanup_on_exit"),
    version_number,
)

# The runtimes by name, of a tenant or, with an empty tenant id, of all tenants. Versions do not
# refer to these rows, because they have their own snapshots.
runtime = table(
    "runtime",
    *keys("tenant_id", "name"),
    *required(Text, "id", "kind"),
    *optional(Text, "image", "base_image"),
    *required(Text, "interpreter", default="''"),
    *optional(Text, "packages", "packages_key"),
    *required(Text, "host"),
    *required(JSON, "command", "environment"),
    *required(Text, "isolation", "network"),
    *required(JSON, "writable_paths"),
    *optional(Integer, "process_limit", "tmp_limit_mb", "file_limit_mb", "open_files_limit"),
    *required(BigInteger, "created_at"),
)

# The images of each tenant, and the bytes that they count. An empty tenant id means all tenants.
tenant_image = table(
    "tenant_image",
    *keys("tenant_id", "digest"),
    *required(BigInteger, "counted_bytes"),
)

# One row; see `compatibility.py`.
compatibility = table(
    "compatibility",
    *keys("oldest_version"),
)

# The nodes of a fleet that have the files of an image on their disks.
image_copy = table(
    "image_copy",
    *keys("digest", "node"),
)

# function_id is no foreign key: a record may be written after its function was deleted, and records
# of a deleted function are removed later, in steps.
invocation = table(
    "invocation",
    *keys("invocation_id"),
    *required(Text, "tenant_id", "function_id", "function_name", "execution_node_id", "status"),
    *optional(BigInteger, "started_at", "ended_at", "duration_ms"),
    *optional(Integer, "exit_code"),
    # Bytes; but text in records from before schema 0008, as SQLite allows both in one column.
    Column("stdout", Text().with_variant(LargeBinary(), "postgresql"), nullable=False),
    Column("stderr", Text().with_variant(LargeBinary(), "postgresql"), nullable=False),
    *optional(Text, "error_message"),
    *required(Boolean, "cold_start"),
    *optional(JSON, "timeline"),
    *required(BigInteger, "stdout_dropped", "stderr_dropped", default="0"),
    *optional(Integer, "version"),
    *required(Text, "source", default="'sync'"),
    *required(Integer, "attempt", default="1"),
    *optional(BigInteger, "due_at"),
    *optional(Text, "parent_invocation_id", "origin_invocation_id", "output_order"),
    *required(Integer, "memory_mib", default="0"),
    *optional(Integer, "http_status"),
    *optional(JSON, "end_cause"),
    # The last two columns are not fields of a record: the boot of `execution_node_id` that wrote
    # it, and the bytes that it counts in `usage`; the default is the size of a record without
    # output.
    *required(BigInteger, "epoch", default="0"),
    *required(BigInteger, "size_bytes", default="600"),
    # Ids are UUIDv7, so their order is chronological. The other columns let filters use only the
    # index, since the rows may be megabytes apart.
    Index(
        "invocation_listing",
        *("function_id", "invocation_id", "status", "cold_start", "duration_ms"),
        *("source", "version"),
    ),
    # For retention, however many rows are waiting, and for the list of a tenant's invocations.
    partial_index(
        "invocation_of_tenant",
        "status NOT IN ('queued', 'running')",
        *("tenant_id", "invocation_id", "size_bytes", "status"),
        *("function_id", "cold_start", "duration_ms", "source", "version"),
    ),
    partial_index(
        "invocation_open",
        "status IN ('queued', 'running')",
        *("tenant_id", "invocation_id", "status"),
    ),
    # Records with output of attempts, which retention can remove.
    partial_index(
        "invocation_open_output",
        "status IN ('queued', 'running') AND size_bytes > 600",
        *("tenant_id", "invocation_id", "size_bytes", "status"),
    ),
    partial_index(
        "invocation_children",
        "parent_invocation_id IS NOT NULL",
        *("parent_invocation_id", "invocation_id"),
    ),
)

# The number of rows of each tenant, and their bytes. Triggers update it; see
# `store/tenants/usage.py`.
usage = table(
    "usage",
    *keys("kind", "tenant_id"),
    *required(BigInteger, "bytes", "number"),
)

# The servers that use the store, each with the number of its last start; see
# `store/database/nodes.py`. The other columns are of the nodes of a fleet
# (`store/fleet/members.py`); `report`: a `model.member.Report`.
node = table(
    "node",
    *keys("name"),
    *required(BigInteger, "epoch"),
    *required(BigInteger, "beat", default="0"),
    *required(Text, "presence", default="'present'"),
    *required(Text, "state", default="'ready'"),
    *required(Text, "address", "version", default="''"),
    *required(JSON, "report", default="'{}'"),
)

# One row if the database belongs to a fleet, created by `quiltfn fleet init`; see
# `store/fleet/init.py`.
fleet = table("fleet", *keys("id"))

# For each function, the maximum instances on all nodes of a fleet, and the slots of each node:
# `{node: {"count": …, "wanted": …, "epoch": …, "turn": …}}`; see `store/fleet/slots.py`.
slot = table(
    "slot",
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    *required(Integer, "max_instances"),
    *required(JSON, "held", default="'{}'"),
)

# The latest changes of shared state, in commit order; see `store/database/changes.py`.
change = table(
    "change",
    Column("number", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    *required(Text, "kind", "tenant_id", "object_id"),
)

# Deleted functions whose records are not all removed yet.
deletion = table("deletion", *keys("function_id"))

# At most one row, the state of the clock. See `model/trusted_time.py`.
clock = table(
    "clock",
    Column("id", Integer, primary_key=True),
    *required(Text, "boot_id"),
    *required(Float, "offset_s"),
    *required(BigInteger, "settled_at"),
)

# One row, rewritten to test whether writing works.
probe = table(
    "probe",
    Column("id", Integer, primary_key=True),
    *required(BigInteger, "count"),
)

api_key = table(
    "api_key",
    *keys("id"),
    *required(Text, "tenant_id", "scope", "prefix", "digest"),
    *required(BigInteger, "created_at"),
    *optional(BigInteger, "expires_at", "revoked_at"),
    *optional(Text, "label"),
    UniqueConstraint("prefix", name="api_key_prefix"),
)

# One row. Every change of a key increases the number in its transaction, so that other processes
# notice the change.
key_revision = table(
    "key_revision",
    Column("id", Integer, primary_key=True),
    *required(BigInteger, "number"),
)

# `status` is null while the first request runs. `made_at` is when the key was reserved.
idempotent_answer = table(
    "idempotent_answer",
    *keys("tenant_id", "method", "path", "key"),
    *required(Text, "body_digest"),
    *optional(Integer, "status"),
    *required(JSON, "headers"),
    *required(LargeBinary, "body"),
    *required(BigInteger, "made_at"),
    *owner(),
    Index("idempotent_answer_age", "made_at"),
    # Bodies that may be removed to free space, oldest first.
    partial_index("idempotent_answer_with_body", "length(body) > 0", "tenant_id", "made_at"),
    # For starts, which must find these rows without reading every body.
    partial_index("idempotent_answer_running", "status IS NULL", "made_at"),
)

audit = table(
    "audit",
    *keys("id"),
    *required(BigInteger, "at"),
    *required(Text, "tenant_id", "credential", "action"),
    *optional(Text, "object_id"),
    *required(Integer, "status"),
    *optional(Text, "error_code"),
    *required(Text, "address", "request_id"),
    *optional(Text, "note", "object_name"),
    Index("audit_listing", "tenant_id", "id"),
    Index("audit_age", "at"),
)

operation = table(
    "operation",
    *keys("operation_id"),
    *required(Text, "tenant_id", "operation_type", "idempotency_key", "action_id", "status"),
    *optional(Text, "reason_code", "reason_message"),
    *required(Boolean, "retryable"),
    *required(BigInteger, "created_at"),
    *owner(),
    UniqueConstraint("tenant_id", "idempotency_key", name="operation_key"),
    Index("operation_listing", "tenant_id", "operation_id"),
)

# Unfinished asynchronous invocations. The record is in `invocation`, the input in `input`.
# `attempts`: how many were claimed so far. `epoch`: 0 while the invocation waits; otherwise the
# epoch of the node that claimed it. `machine_boot_id`: the boot of that node's kernel. `is_begun`:
# the attempt counts as started even without a record of its start.
work = table(
    "work",
    *keys("invocation_id"),
    *required(Text, "tenant_id", "function_id"),
    *required(BigInteger, "due_at_ms", "expires_at_ms"),
    *required(Integer, "attempts", default="0"),
    *required(Boolean, "is_begun", default="0"),
    *required(Text, "machine_boot_id", default="''"),
    *owner(),
    partial_index("work_due", "epoch = 0", "function_id", "due_at_ms", "invocation_id"),
    partial_index("work_claimed", "epoch > 0", "function_id", "epoch"),
)

# The number of unfinished asynchronous invocations of a function. Triggers update it.
work_count = table(
    "work_count",
    *keys("function_id"),
    *required(BigInteger, "number"),
)

# Stored inputs. `environment` is JSON. If `is_encrypted`, it and `payload` are encrypted.
input_table = table(
    "input",
    *keys("invocation_id"),
    *required(Text, "tenant_id", "function_id"),
    *optional(Integer, "timeout_seconds", "version"),
    *required(Text, "caller"),
    *required(Boolean, "may_write"),
    *optional(Text, "traceparent"),
    *required(Boolean, "is_encrypted", default="0"),
    *required(BigInteger, "size_bytes"),
    # These come last, because SQLite reads long values to reach the columns after them.
    *optional(LargeBinary, "payload", "environment"),
    Index("input_of_tenant", "tenant_id", "invocation_id", "size_bytes"),
    Index("input_of_function", "function_id"),
)

# The completed attempts of asynchronous invocations. Times in Unix milliseconds.
attempt = table(
    "attempt",
    *keys("invocation_id"),
    Column("attempt", Integer, primary_key=True),
    *required(Text, "status"),
    *optional(BigInteger, "started_at", "ended_at", "duration_ms"),
    *optional(Integer, "exit_code"),
    *optional(Text, "error_message"),
    *required(Text, "execution_node_id"),
    *required(Boolean, "cold_start"),
    *optional(Integer, "version"),
    # The end of each stream, if another attempt followed. The record has the last attempt's output.
    *optional(LargeBinary, "stdout", "stderr"),
    *optional(JSON, "end_cause"),
)

# Dead-lettered asynchronous invocations. `reason`: "attempts" or "age".
dead_letter = table(
    "dead_letter",
    *keys("invocation_id"),
    *required(Text, "tenant_id", "function_id", "reason"),
    *required(BigInteger, "died_at"),
    Index("dead_letter_listing", "function_id", "invocation_id"),
    Index("dead_letter_of_tenant", "tenant_id", "invocation_id"),
)

# The policies of functions that don't use the defaults, as JSON.
function_policy = table(
    "function_policy",
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    *optional(JSON, "async_policy", "record_policy"),
)

# Deliveries to destinations. `policy_field`: "on_success" or "on_failure", the field of the
# function's policy that has the destination. `epoch`: 0 while no node sends it.
delivery = table(
    "delivery",
    *keys("id"),
    *required(Text, "tenant_id", "function_id", "invocation_id", "policy_field", "status"),
    *required(LargeBinary, "body"),
    *required(Integer, "attempts", default="0"),
    *required(BigInteger, "due_at_ms", "expires_at_ms"),
    *optional(Integer, "http_status"),
    *optional(Text, "error_message"),
    *optional(BigInteger, "ended_at"),
    *owner(),
    partial_index("delivery_due", "status = 'waiting' AND epoch = 0", "function_id", "due_at_ms"),
    Index("delivery_listing", "function_id", "id"),
    Index("delivery_of_tenant", "tenant_id", "id"),
    Index("delivery_ended", "tenant_id", "ended_at"),
)

# The fields of `model.schedule.Schedule`.
schedule = table(
    "schedule",
    *keys("tenant_id", "name"),
    *required(Text, "id"),
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), nullable=False),
    *optional(Text, "cron"),
    *optional(BigInteger, "every_seconds"),
    *required(Text, "timezone"),
    *optional(Text, "payload"),
    Column("environment", JSON(none_as_null=True)),
    *required(Text, "overlap", "missed"),
    *required(BigInteger, "jitter_seconds"),
    *required(Boolean, "enabled"),
    *required(BigInteger, "created_at", "updated_at", "revision", "anchor_ms"),
    *optional(BigInteger, "next_tick_ms", "next_due_ms"),
    *required(BigInteger, "looked_at_ms"),
    *required(BigInteger, "missed_count", "skipped_count", "fired_count", default="0"),
    UniqueConstraint("id", name="schedule_id"),
    Index("schedule_due", "next_due_ms"),
    Index("schedule_function", "function_id"),
)

# One row for each decided tick, and one for all ticks missed in one gap: the key prevents running a
# tick twice. `missed`: how many missed ticks the row represents.
schedule_run = table(
    "schedule_run",
    *keys("schedule_id"),
    Column("tick_ms", BigInteger, primary_key=True),
    *required(Text, "function_id", "outcome"),
    *optional(Text, "invocation_id", "reason"),
    *required(BigInteger, "missed"),
    Column("is_manual", Boolean, primary_key=True),
    *required(BigInteger, "decided_at"),
    partial_index("schedule_run_waiting", "outcome = 'waiting'", "schedule_id", "tick_ms"),
    Index("schedule_run_of_function", "function_id"),
)

# The statistics of a function's invocations between `start` (Unix seconds) and `step_s` later. They
# outlive the records and the function. `stats`: a `model.stats.CallStats`. The order of the key's
# columns keeps rows together that have the same tenant and time.
call_stats = table(
    "call_stats",
    *keys("tenant_id"),
    Column("step_s", Integer, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    *keys("function_id"),
    *required(LargeBinary, "stats"),
    Index("call_stats_of_function", "function_id", "step_s", "start"),
    Index("call_stats_by_age", "step_s", "start"),
    sqlite_with_rowid=False,
)

# Invocations of deleted functions that `call_stats` includes, kept for some minutes: no record
# shows this if the journal is read again.
counted_call = table(
    "counted_call",
    *keys("invocation_id"),
    *required(BigInteger, "ended_at"),
    Index("counted_call_age", "ended_at"),
    sqlite_with_rowid=False,
)

# A row for each function with a URL. `url`: a `model.url.FunctionUrl`.
function_url = table(
    "function_url",
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    *required(JSON, "url"),
)

# The tenants that have ever had a URL, so that no other tenant gets their paths.
url_tenant = table("url_tenant", *keys("tenant_id"))

# A row for each alias of a function. `alias`: a `model.alias.Alias`.
function_alias = table(
    "function_alias",
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    *keys("name"),
    *required(JSON, "alias"),
    *required(Integer, "revision"),
)

# A row for each tenant whose quotas differ from the settings. `quota`: a
# `model.tenant_quota.TenantQuota`.
tenant_quota = table(
    "tenant_quota",
    *keys("tenant_id"),
    *required(JSON, "quota"),
)

COUNTER_COLUMNS = FunctionCounters.__struct_fields__
# Without `share_us`, which is added to statistics, `outcome`, which is applied, and `own_message`.
INVOCATION_COLUMNS = Invocation.__struct_fields__[:-3]
OUTPUT_COLUMNS = ("stdout", "stderr")
STATUS_AT = INVOCATION_COLUMNS.index("status")
SOURCE_AT = INVOCATION_COLUMNS.index("source")
CAUSE_AT = INVOCATION_COLUMNS.index("end_cause")
TIMELINE_AT = INVOCATION_COLUMNS.index("timeline")
SPEC_COLUMNS = VersionSpec.__struct_encode_fields__


def version_row(version: Version) -> dict[str, Any]:
    """A version and its spec as one flat row."""
    row = row_of(version)
    spec: dict[str, Any] = row.pop("spec")
    return row | spec


def read_version(row: RowMapping, prefix: str = "") -> Version:
    """Reads a version from columns with this `prefix`."""
    names = [name for name in Version.__struct_fields__ if name != "spec"]
    spec = {name: row[prefix + name] for name in SPEC_COLUMNS}
    return convert({name: row[prefix + name] for name in names} | {"spec": spec}, Version)


def read_counters(row: RowMapping) -> FunctionCounters:
    """The counters of a function."""
    return convert({name: row[name] for name in COUNTER_COLUMNS}, FunctionCounters)


def read_stored(row: RowMapping) -> StoredFunction:
    """A function with its counters and its current version, whose columns are named version_…."""
    return StoredFunction(
        function=convert({n: row[n] for n in Function.__struct_fields__}, Function),
        version=read_version(row, "version_"),
        counters=read_counters(row),
    )


def invocation_row(invocation: Invocation) -> list[Any]:
    """The fields of a record in order, for the driver, which takes JSON as text."""
    row = list(msgspec.structs.astuple(invocation)[: len(INVOCATION_COLUMNS)])
    row[STATUS_AT] = invocation.status.value
    row[SOURCE_AT] = invocation.source.value
    if invocation.timeline is not None:
        row[TIMELINE_AT] = msgspec.json.encode(invocation.timeline).decode()
    if invocation.end_cause is not None:
        row[CAUSE_AT] = cause_json(invocation.end_cause)
    return row


def read_invocation(row: RowMapping) -> Invocation:
    """Reads a record, without output if the row has none."""
    fields = {name: row[name] for name in INVOCATION_COLUMNS if name in row}
    kept = {name: as_bytes(fields.pop(name, b"")) for name in OUTPUT_COLUMNS}
    return msgspec.structs.replace(convert(fields, Invocation), **kept)


def as_bytes(output: bytes | str) -> bytes:
    """An output stream, stored as text or as bytes."""
    return output.encode() if isinstance(output, str) else output


@cache
def postgresql_types(columns: Sequence[str]) -> tuple[str, ...]:
    """The PostgreSQL names of the types of columns of `invocation`."""
    from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - which SQLite does without

    named = postgresql.dialect()  # type: ignore[no-untyped-call]
    return tuple(str(invocation.c[name].type.compile(named)) for name in columns)


def as_json(ids: Sequence[str]) -> str:
    """Ids as a JSON array, for statements that take one."""
    return msgspec.json.encode(ids).decode()


def owned_by(boot: tuple[str, int, bool]) -> dict[str, Any]:
    """The values of the columns of `owner`."""
    return {"node_id": boot[0], "epoch": boot[1]}


def row_of(item: msgspec.Struct) -> dict[str, Any]:
    """A struct without bytes as a row, with each field in the column of its name."""
    row: dict[str, Any] = msgspec.to_builtins(item)
    return row


def read(row: RowMapping, kind: type[T]) -> T:
    """Reads a struct from the columns of its fields; the row may have more columns."""
    return convert({name: row[name] for name in kind.__struct_fields__}, kind)


def read_all(connection: Connection, query: Select[Any], kind: type[T]) -> list[T]:
    """Reads a struct from each row that the query finds."""
    return [read(row, kind) for row in connection.execute(query).mappings()]


def read_one(connection: Connection, query: Executable, kind: type[T]) -> T | None:
    """Reads a struct from the only row that a query finds, or a statement returns; None: no row."""
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else read(row, kind)
