"""The tables as the code uses them. `migrations/` creates them, and a test compares the two."""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from quiltfn.model.converting import convert
from quiltfn.model.end_cause import cause_json
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports import FunctionCounters, StoredFunction, TenantFunctions

# The newest revision in migrations/versions. It is repeated here so that a start with the newest
# schema need not import Alembic, which takes longer than opening the database.
REVISION = "0031"

T = TypeVar("T", bound=msgspec.Struct)

metadata = MetaData()


def owner() -> tuple[Column[Any], ...]:
    """Columns for the boot of the node that owns an unfinished row."""
    return (
        Column("node_id", Text, nullable=False, server_default=text("''")),
        Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    )


def where(condition: str) -> dict[str, Any]:
    """The condition of a partial index, for SQLite only: PostgreSQL's indices come from migrations,
    and naming the condition for it would import the whole dialect.
    """
    return {"sqlite_where": text(condition)}


def are_of(table: Table, functions: str | TenantFunctions) -> ColumnElement[bool]:
    """Matches rows of the function with the id, or of one of several functions."""
    if isinstance(functions, str):
        return table.c.function_id == functions
    if functions.ids is None:
        return table.c.tenant_id == functions.tenant_id
    return table.c.function_id.in_(functions.ids)


function_name = UniqueConstraint("tenant_id", "name", name="function_name")
version_number = UniqueConstraint("function_id", "number", name="version_number")

function = Table(
    "function",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("cluster_id", Text),
    Column("description", Text),
    Column("owner_node_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("current_version", Integer, nullable=False),
    Column("min_instances", Integer, nullable=False),
    Column("max_instances", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("error_message", Text),
    Column("failed_version", Integer),
    Column("revision", BigInteger, nullable=False, server_default=text("1")),
    # The counters: only the journal writes them, never an update of the function.
    Column("invocation_count", BigInteger, nullable=False, server_default=text("0")),
    Column("error_count", BigInteger, nullable=False, server_default=text("0")),
    Column("last_invoked_at", BigInteger),
    function_name,
)

version = Table(
    "version",
    metadata,
    Column("id", Text, primary_key=True),
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("description", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("handler", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    # A snapshot of the whole runtime: later changes to the name don't change the version.
    Column("pinned", JSON, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("working_directory", Text),
    Column("memory_limit_mb", Integer, nullable=False),
    Column("cpu_limit_percent", Float, nullable=False),
    Column("timeout_seconds", Integer, nullable=False),
    Column("cleanup_on_exit", Boolean, nullable=False),
    version_number,
)

# The runtimes by name, of a tenant or, with an empty tenant id, of all tenants. Versions do not
# refer to these rows, because they have their own snapshots.
runtime = Table(
    "runtime",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("image", Text),
    Column("base_image", Text),
    Column("interpreter", Text, nullable=False, server_default=text("''")),
    Column("packages", Text),
    Column("packages_key", Text),
    Column("host", Text, nullable=False),
    Column("command", JSON, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("isolation", Text, nullable=False),
    Column("network", Text, nullable=False),
    Column("writable_paths", JSON, nullable=False),
    Column("process_limit", Integer),
    Column("tmp_limit_mb", Integer),
    Column("file_limit_mb", Integer),
    Column("open_files_limit", Integer),
    Column("created_at", BigInteger, nullable=False),
)

# The images of each tenant, and the bytes that they count. An empty tenant id means all tenants.
tenant_image = Table(
    "tenant_image",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("counted_bytes", BigInteger, nullable=False),
)

# One row; see `compatibility.py`.
compatibility = Table(
    "compatibility",
    metadata,
    Column("oldest_version", Text, primary_key=True),
)

# The nodes of a fleet that have reported the files of an image on their disks.
image_copy = Table(
    "image_copy",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("node", Text, primary_key=True),
)

# function_id is no foreign key: a record may be written after its function was deleted, and the
# records of a deleted function are removed later, in steps.
invocation = Table(
    "invocation",
    metadata,
    Column("invocation_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("function_name", Text, nullable=False),
    Column("execution_node_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("duration_ms", BigInteger),
    Column("exit_code", Integer),
    # Bytes. Records from before schema 0008 have text here; SQLite allows both in one column.
    Column("stdout", Text().with_variant(LargeBinary(), "postgresql"), nullable=False),
    Column("stderr", Text().with_variant(LargeBinary(), "postgresql"), nullable=False),
    Column("error_message", Text),
    Column("cold_start", Boolean, nullable=False),
    Column("timeline", JSON),
    Column("stdout_dropped", BigInteger, nullable=False, server_default=text("0")),
    Column("stderr_dropped", BigInteger, nullable=False, server_default=text("0")),
    Column("version", Integer),
    Column("source", Text, nullable=False, server_default=text("'sync'")),
    Column("attempt", Integer, nullable=False, server_default=text("1")),
    Column("due_at", BigInteger),
    Column("parent_invocation_id", Text),
    Column("origin_invocation_id", Text),
    Column("output_order", Text),
    Column("memory_mib", Integer, nullable=False, server_default=text("0")),
    Column("http_status", Integer),
    Column("end_cause", JSON),
    # The last two columns are not fields of a record: the boot of `execution_node_id` that wrote
    # it, and the bytes that it counts in `usage`; the default is that of a record without output.
    Column("epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("size_bytes", BigInteger, nullable=False, server_default=text("600")),
    # Ids are UUIDv7, so their order is chronological. The other columns let filters use only the
    # index, since the rows may be megabytes apart.
    Index(
        "invocation_listing",
        *("function_id", "invocation_id", "status", "cold_start", "duration_ms"),
        *("source", "version"),
    ),
    # For retention, fast with any number of waiting rows, and for the list of a tenant's
    # invocations.
    Index(
        "invocation_of_tenant",
        *("tenant_id", "invocation_id", "size_bytes", "status"),
        *("function_id", "cold_start", "duration_ms", "source", "version"),
        **where("status NOT IN ('queued', 'running')"),
    ),
    Index(
        "invocation_open",
        *("tenant_id", "invocation_id", "status"),
        **where("status IN ('queued', 'running')"),
    ),
    # Records with output of attempts, which retention can remove.
    Index(
        "invocation_open_output",
        *("tenant_id", "invocation_id", "size_bytes", "status"),
        **where("status IN ('queued', 'running') AND size_bytes > 600"),
    ),
    Index(
        "invocation_children",
        *("parent_invocation_id", "invocation_id"),
        **where("parent_invocation_id IS NOT NULL"),
    ),
)

# The number of rows of each tenant, and their bytes. Triggers update it; see
# `store/tenants/usage.py`.
usage = Table(
    "usage",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("tenant_id", Text, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
)

# The servers that use the store, each with the number of its last start; see
# `store/fleet/nodes.py`. The other columns are of the nodes of a fleet (`store/fleet/members.py`);
# `report`: a `model.member.Report`.
node = Table(
    "node",
    metadata,
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False, server_default=text("0")),
    Column("presence", Text, nullable=False, server_default=text("'present'")),
    Column("state", Text, nullable=False, server_default=text("'ready'")),
    Column("address", Text, nullable=False, server_default=text("''")),
    Column("version", Text, nullable=False, server_default=text("''")),
    Column("report", JSON, nullable=False, server_default=text("'{}'")),
)

# One row if the database is a fleet's. `quiltfn fleet init` makes it; see `store/fleet/init.py`.
fleet = Table("fleet", metadata, Column("id", Text, primary_key=True))

# For each function, the maximum instances on all nodes of a fleet, and the slots of each node:
# `{node: {"count": …, "wanted": …, "epoch": …, "turn": …}}`; see `store/fleet/slots.py`.
slot = Table(
    "slot",
    metadata,
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    Column("max_instances", Integer, nullable=False),
    Column("held", JSON, nullable=False, server_default=text("'{}'")),
)

# The latest changes of shared state, in commit order; see `store/functions/changes.py`.
change = Table(
    "change",
    metadata,
    Column("number", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("object_id", Text, nullable=False),
)

# Deleted functions with records that are not removed yet.
deletion = Table("deletion", metadata, Column("function_id", Text, primary_key=True))

# At most one row, the state of the clock. See `model/trusted_time.py`.
clock = Table(
    "clock",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("boot_id", Text, nullable=False),
    Column("offset_s", Float, nullable=False),
    Column("settled_at", BigInteger, nullable=False),
)

# One row, rewritten to test whether writing works.
probe = Table(
    "probe",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("label", Text),
    UniqueConstraint("prefix", name="api_key_prefix"),
)

# One row. The transaction of every change to a key increases it, so that other processes notice.
key_revision = Table(
    "key_revision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

# `status` is null while the first request runs. `made_at` is when the key was reserved.
idempotent_answer = Table(
    "idempotent_answer",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_digest", Text, nullable=False),
    Column("status", Integer),
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("made_at", BigInteger, nullable=False),
    *owner(),
    Index("idempotent_answer_age", "made_at"),
    # Bodies that may be removed to free space, oldest first.
    Index(
        "idempotent_answer_with_body",
        *("tenant_id", "made_at"),
        **where("length(body) > 0"),
    ),
    # A start finds these rows without reading every body.
    Index(
        "idempotent_answer_running",
        "made_at",
        **where("status IS NULL"),
    ),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("credential", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object_id", Text),
    Column("status", Integer, nullable=False),
    Column("error_code", Text),
    Column("address", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("note", Text),
    Column("object_name", Text),
    Index("audit_listing", "tenant_id", "id"),
    Index("audit_age", "at"),
)

operation = Table(
    "operation",
    metadata,
    Column("operation_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("operation_type", Text, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("action_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason_code", Text),
    Column("reason_message", Text),
    Column("retryable", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    *owner(),
    UniqueConstraint("tenant_id", "idempotency_key", name="operation_key"),
    Index("operation_listing", "tenant_id", "operation_id"),
)

# Unfinished asynchronous invocations. The record is in `invocation`, the input in `input`.
# `attempts`: how many were claimed so far. `epoch`: 0 while it waits; otherwise the boot of the
# node that claimed it. `machine_boot_id`: the boot of that node's kernel. `is_begun`: whether its
# attempt counts as started even without a record of it.
work = Table(
    "work",
    metadata,
    Column("invocation_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("due_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("is_begun", Boolean, nullable=False, server_default=text("0")),
    Column("machine_boot_id", Text, nullable=False, server_default=text("''")),
    *owner(),
    Index(
        "work_due",
        *("function_id", "due_at_ms", "invocation_id"),
        **where("epoch = 0"),
    ),
    Index(
        "work_claimed",
        *("function_id", "epoch"),
        **where("epoch > 0"),
    ),
)

# The number of unfinished asynchronous invocations of a function. Triggers update it.
work_count = Table(
    "work_count",
    metadata,
    Column("function_id", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

# Stored inputs. `environment` is JSON, and so is its plain text if `is_encrypted`.
input_table = Table(
    "input",
    metadata,
    Column("invocation_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("timeout_seconds", Integer),
    Column("version", Integer),
    Column("caller", Text, nullable=False),
    Column("may_write", Boolean, nullable=False),
    Column("traceparent", Text),
    Column("is_encrypted", Boolean, nullable=False, server_default=text("0")),
    Column("size_bytes", BigInteger, nullable=False),
    # Last, because SQLite reads through a long value to reach the columns after it.
    Column("payload", LargeBinary),
    Column("environment", LargeBinary),
    Index("input_of_tenant", "tenant_id", "invocation_id", "size_bytes"),
    Index("input_of_function", "function_id"),
)

# The completed attempts of asynchronous invocations. Times in Unix milliseconds.
attempt = Table(
    "attempt",
    metadata,
    Column("invocation_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("status", Text, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("duration_ms", BigInteger),
    Column("exit_code", Integer),
    Column("error_message", Text),
    Column("execution_node_id", Text, nullable=False),
    Column("cold_start", Boolean, nullable=False),
    Column("version", Integer),
    # The end of each stream, of an attempt with a successor. The last attempt's is in the record.
    Column("stdout", LargeBinary),
    Column("stderr", LargeBinary),
    Column("end_cause", JSON),
)

# Dead-lettered asynchronous invocations. `reason`: "attempts" or "age".
dead_letter = Table(
    "dead_letter",
    metadata,
    Column("invocation_id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("died_at", BigInteger, nullable=False),
    Index("dead_letter_listing", "function_id", "invocation_id"),
    Index("dead_letter_of_tenant", "tenant_id", "invocation_id"),
)

# The policies of functions that don't use the defaults, as JSON.
function_policy = Table(
    "function_policy",
    metadata,
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    Column("async_policy", JSON),
    Column("record_policy", JSON),
)

# Deliveries to destinations. `policy_field`: "on_success" or "on_failure", the field of the
# function's policy that has the destination. `epoch`: 0 while no node sends it.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("function_id", Text, nullable=False),
    Column("invocation_id", Text, nullable=False),
    Column("policy_field", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("due_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("http_status", Integer),
    Column("error_message", Text),
    Column("ended_at", BigInteger),
    *owner(),
    Index(
        "delivery_due",
        *("function_id", "due_at_ms"),
        **where("status = 'waiting' AND epoch = 0"),
    ),
    Index("delivery_listing", "function_id", "id"),
    Index("delivery_of_tenant", "tenant_id", "id"),
    Index("delivery_ended", "tenant_id", "ended_at"),
)

# The fields of `model.schedule.Schedule`.
schedule = Table(
    "schedule",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), nullable=False),
    Column("cron", Text),
    Column("every_seconds", BigInteger),
    Column("timezone", Text, nullable=False),
    Column("payload", Text),
    Column("environment", JSON(none_as_null=True)),
    Column("overlap", Text, nullable=False),
    Column("missed", Text, nullable=False),
    Column("jitter_seconds", BigInteger, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("anchor_ms", BigInteger, nullable=False),
    Column("next_tick_ms", BigInteger),
    Column("next_due_ms", BigInteger),
    Column("looked_at_ms", BigInteger, nullable=False),
    Column("missed_count", BigInteger, nullable=False, server_default=text("0")),
    Column("skipped_count", BigInteger, nullable=False, server_default=text("0")),
    Column("fired_count", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("id", name="schedule_id"),
    Index("schedule_due", "next_due_ms"),
    Index("schedule_function", "function_id"),
)

# One row for each decided tick, and one for all ticks missed in one gap: the key prevents running a
# tick twice. `missed`: how many missed ticks the row represents.
schedule_run = Table(
    "schedule_run",
    metadata,
    Column("schedule_id", Text, primary_key=True),
    Column("tick_ms", BigInteger, primary_key=True),
    Column("function_id", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("invocation_id", Text),
    Column("reason", Text),
    Column("missed", BigInteger, nullable=False),
    Column("is_manual", Boolean, primary_key=True),
    Column("decided_at", BigInteger, nullable=False),
    Index(
        "schedule_run_waiting",
        "schedule_id",
        "tick_ms",
        **where("outcome = 'waiting'"),
    ),
    Index("schedule_run_of_function", "function_id"),
)

# The statistics of a function's invocations between `start` (Unix seconds) and `step_s` later. They
# outlive the records, and the function. `stats`: a `model.stats.CallStats`. The order of the key's
# columns keeps the rows of all functions of a tenant within a time together.
# time is in one place.
call_stats = Table(
    "call_stats",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("step_s", Integer, primary_key=True),
    Column("start", BigInteger, primary_key=True),
    Column("function_id", Text, primary_key=True),
    Column("stats", LargeBinary, nullable=False),
    Index("call_stats_of_function", "function_id", "step_s", "start"),
    Index("call_stats_by_age", "step_s", "start"),
    sqlite_with_rowid=False,
)

# Invocations of deleted functions that `call_stats` includes, kept for some minutes: they have no
# record that would show this when the journal is read again.
counted_call = Table(
    "counted_call",
    metadata,
    Column("invocation_id", Text, primary_key=True),
    Column("ended_at", BigInteger, nullable=False),
    Index("counted_call_age", "ended_at"),
    sqlite_with_rowid=False,
)

# A row for each function with a URL. `url`: a `model.url.FunctionUrl`.
function_url = Table(
    "function_url",
    metadata,
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    Column("url", JSON, nullable=False),
)

# The tenants that have ever had a URL: a path keeps its tenant for good.
url_tenant = Table("url_tenant", metadata, Column("tenant_id", Text, primary_key=True))

# A row for each alias of a function. `alias`: a `model.alias.Alias`.
function_alias = Table(
    "function_alias",
    metadata,
    Column("function_id", Text, ForeignKey("function.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("alias", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
)

# A row for each tenant whose quotas differ from the settings. `quota`: a
# `model.tenant_quota.TenantQuota`.
tenant_quota = Table(
    "tenant_quota",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("quota", JSON, nullable=False),
)

COUNTER_COLUMNS = FunctionCounters.__struct_fields__
# Without `share_us` (added to statistics), `outcome` (carried out), and `own_message`.
INVOCATION_COLUMNS = Invocation.__struct_fields__[:-3]
OUTPUT_COLUMNS = ("stdout", "stderr")
STATUS_AT = INVOCATION_COLUMNS.index("status")
SOURCE_AT = INVOCATION_COLUMNS.index("source")
CAUSE_AT = INVOCATION_COLUMNS.index("end_cause")
TIMELINE_AT = INVOCATION_COLUMNS.index("timeline")
SPEC_COLUMNS = VersionSpec.__struct_encode_fields__


def function_row(function: Function) -> dict[str, Any]:
    """The columns of a function, without its counters."""
    row: dict[str, Any] = msgspec.to_builtins(function)
    return row


def version_row(version: Version) -> dict[str, Any]:
    """A version and its spec as one flat row."""
    row: dict[str, Any] = msgspec.to_builtins(version)
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
    """A function with its counters and, from columns named version_…, its current version."""
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
    """The columns of a struct without bytes, each field in the column of its name."""
    row: dict[str, Any] = msgspec.to_builtins(item)
    return row


def read(row: RowMapping, kind: type[T]) -> T:
    """Reads a struct from the columns of its fields; the row may have more columns."""
    return convert({name: row[name] for name in kind.__struct_fields__}, kind)
