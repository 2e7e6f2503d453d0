"""What a server says of itself, and the one body that every refusal has."""

from typing import Any

from msgspec import Struct


class Liveness(Struct, kw_only=True, frozen=True):
    """The server answers; nothing else was checked."""

    status: str = "ok"


class SystemInfo(Struct, kw_only=True, frozen=True):
    """The server and its machine. `interpreters`: the paths of those that runtimes can use.
    `memory`: what all instances together may hold (`budget_mib`) and what counts now (`held_mib`).
    `durability`: strict where the record of a call is synced before its answer, else relaxed.
    `tenant_id` and `scope`: those of the credential that asked.
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
    tenant_id: str | None = None
    scope: str | None = None


class Check(Struct, kw_only=True, frozen=True):
    """One part of the server's health."""

    ok: bool
    reason: str


class Health(Struct, kw_only=True, frozen=True):
    """`ready` is true where every check is ok. `transport`: tls, cleartext or loopback.
    `durability`: relaxed or strict.
    """

    status: str
    ready: bool
    transport: str
    durability: str
    checks: dict[str, Check]
    protections: dict[str, str]


class ExampleList(Struct, kw_only=True, frozen=True):
    """Calls that work as they are shown, in this order."""

    examples: list[dict[str, Any]]


class Help(Struct, kw_only=True, frozen=True):
    """Routes with their rules, how to find out what is wrong, what is often got wrong."""

    title: str
    routes: list[dict[str, Any]]
    debugging: list[str]
    common_mistakes: list[str]


class ErrorDetails(Struct, kw_only=True, frozen=True):
    """What helps to repair a request. Every field may be null."""

    expected: Any = None
    received: Any = None
    example: Any = None
    state: str | None = None
    exit_code: int | None = None


class ErrorBody(Struct, kw_only=True, frozen=True):
    """The body of every refusal and failure. `retry_after` in seconds."""

    error: str
    error_code: str
    request_id: str
    details: ErrorDetails | None = None
    retry_after: int | None = None
    hint: str | None = None
