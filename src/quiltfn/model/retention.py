"""Limits on how much is stored, and for how long."""

import msgspec


class StorageLimit(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum of stored bytes (or rows), per tenant and for all tenants; 0: no limit."""

    tenant: int = 0
    all: int = 0


class RetentionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How many records of invocations are stored, and for how many seconds; 0: no limit."""

    count: int = 1_000_000
    seconds: int = 7 * 86_400
    size: StorageLimit = StorageLimit()


class VersionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The maximum number of stored versions of a function, and the maximum bytes of all versions of
    a tenant, of which each function gets an equal share; 0: no limit. Versions in use always stay.
    """

    kept: int = 100
    tenant_bytes: int = 256 * 1024 * 1024
