"""How much of something is kept, and for how long."""

import msgspec


class StorageLimit(msgspec.Struct, frozen=True, kw_only=True):
    """The most bytes (or rows) to keep: of one tenant, and of all together; 0: no limit."""

    tenant: int = 0
    all: int = 0


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How many records of calls are kept, and for how many seconds; 0: no limit."""

    count: int = 1_000_000
    seconds: int = 7 * 86_400
    size: StorageLimit = StorageLimit()


class VersionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many versions of a function are kept, and how many bytes all versions of a tenant may
    take, each function an equal share of them; 0: no limit. What is in use stays in any case.
    """

    kept: int = 100
    tenant_bytes: int = 256 * 1024 * 1024
