"""The parameters of the methods that list objects."""

from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict


class FunctionFilters(Struct, kw_only=True, frozen=True):
    """Which functions are listed, and in which order."""

    state: str | None = None
    cluster_id: str | None = None
    search: str | None = None
    outdated: bool | None = None
    sort: str | None = None
    order: str | None = None
    page_size: int | None = None
    cursor: str | None = None


class CallFilters(Struct, kw_only=True, frozen=True):
    """Which invocations are listed."""

    status: str | None = None
    cold_start: bool | None = None
    min_duration_ms: int | None = None
    source: str | None = None
    version: int | None = None
    since: datetime | int | None = None
    until: datetime | int | None = None
    page_size: int | None = None
    cursor: str | None = None


class AuditFilters(Struct, kw_only=True, frozen=True):
    """Which entries of the audit log are listed."""

    action: str | None = None
    credential: str | None = None
    object_id: str | None = None
    since: datetime | int | None = None
    until: datetime | int | None = None
    page_size: int | None = None
    cursor: str | None = None


# Parameters that have a different name in the API.
IN_API = {"page_size": "limit", "search": "q", "since": "from", "until": "to"}


def parameters_of(filters: Struct) -> dict[str, Any]:
    """The query parameters, with the cursor of the first page."""
    given = asdict(filters)
    paging = {name: given.pop(name) for name in ("page_size", "cursor")}
    return {
        IN_API.get(name, name): int(value.timestamp()) if isinstance(value, datetime) else value
        for name, value in (paging | given).items()
    }
