"""The wire shapes of keys, audit, operations and the server; `schema.py` has the functions'."""

from typing import Any

import msgspec

from quiltfn.model.access import Key
from quiltfn.model.kept import AuditEntry, Operation

REPLAY = "ELASTICITY_IDEMPOTENCY_REPLAY"


class AliveAnswer(msgspec.Struct, kw_only=True):
    """GET /health."""

    status: str = "ok"


class InfoAnswer(msgspec.Struct, kw_only=True):
    """The server and its machine. `interpreters`: the paths of those that runtimes can use.
    `memory`: what all instances together may hold (`budget_mib`) and what counts now (`held_mib`).
    `durability`: strict where the record of a call is synced before its answer, else relaxed.
    """

    version: str
    node_id: str
    cgroup_mode: str
    oci_runtime: str
    durability: str
    protections: dict[str, str]
    interpreters: dict[str, str]
    limits: dict[str, float]
    memory: dict[str, float]


class CheckAnswer(msgspec.Struct, kw_only=True):
    """One part of the server's health."""

    ok: bool
    reason: str


class HealthAnswer(msgspec.Struct, kw_only=True):
    """`ready` is true where every check is ok. `transport`: tls, cleartext or loopback.
    `durability`: relaxed or strict.
    """

    status: str
    ready: bool
    transport: str
    durability: str
    checks: dict[str, CheckAnswer]
    protections: dict[str, str]


class ExampleList(msgspec.Struct, kw_only=True):
    """Calls that work as they are shown, in this order."""

    examples: list[dict[str, Any]]


class HelpAnswer(msgspec.Struct, kw_only=True):
    """Routes with their rules, how to find out what is wrong, what is often got wrong."""

    title: str
    routes: list[dict[str, Any]]
    debugging: list[str]
    common_mistakes: list[str]


class NewKeyBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /api/keys."""

    tenant: str | None = None
    scope: str | None = None
    expires_seconds: int | None = None


class KeyAnswer(msgspec.Struct, kw_only=True):
    """An API key without its secret. Times in Unix seconds."""

    id: str
    tenant_id: str
    scope: str
    prefix: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class NewKeyAnswer(KeyAnswer, kw_only=True):
    """A key just made; `key` is shown this once."""

    key: str


class KeyList(msgspec.Struct, kw_only=True):
    keys: list[KeyAnswer]


class AuditAnswer(msgspec.Struct, kw_only=True):
    """Who did what, and what came of it. `at` in Unix seconds."""

    id: str
    at: int
    tenant_id: str
    credential: str
    action: str
    object_id: str | None
    status: int
    error_code: str | None
    address: str
    request_id: str


class AuditList(msgspec.Struct, kw_only=True):
    entries: list[AuditAnswer]
    next_cursor: str | None


class PoolTargetBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST …/pool-target."""

    min_instances: int
    max_instances: int


class PoolTargetAnswer(msgspec.Struct, kw_only=True):
    """The scaling targets as they are now."""

    function_id: str
    min_instances: int
    max_instances: int


class OperationAnswer(msgspec.Struct, kw_only=True):
    """A controlled change. `status`: running, succeeded or failed."""

    operation_id: str
    operation_type: str
    action_id: str
    status: str
    reason_code: str | None
    reason_message: str | None
    retryable: bool


def key_answer(key: Key) -> KeyAnswer:
    return KeyAnswer(**_key(key))


def new_key_answer(key: Key, text: str) -> NewKeyAnswer:
    return NewKeyAnswer(**_key(key), key=text)


def audit_answer(entry: AuditEntry) -> AuditAnswer:
    return AuditAnswer(**msgspec.structs.asdict(entry))


def operation_answer(operation: Operation) -> OperationAnswer:
    fields = msgspec.structs.asdict(operation)
    return OperationAnswer(**{name: fields[name] for name in OperationAnswer.__struct_fields__})


def as_replay(answer: OperationAnswer) -> OperationAnswer:
    """The first operation, told to whoever asks for it again."""
    return msgspec.structs.replace(
        answer,
        reason_code=REPLAY,
        reason_message="this Idempotency-Key was used before; this is the operation it made",
    )


def _key(key: Key) -> dict[str, Any]:
    fields = msgspec.structs.asdict(key)
    return {name: fields[name] for name in KeyAnswer.__struct_fields__}
