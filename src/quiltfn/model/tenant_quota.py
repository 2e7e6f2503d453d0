"""Tenant quota: the limits of one tenant that differ from the server's settings."""

import msgspec


class TenantQuota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits that an operator has set for a tenant; None: as in the server's settings.

    `gb_seconds_per_day`: the sum of memory limit times duration of a day's invocations, in GB
    (1024 MiB) and seconds; 0: no such limit, as for `calls_per_second`. `disabled`: nothing of the
    tenant runs, and its credentials are refused. This is no limit, but is stored with the limits.
    """

    calls_in_flight: int | None = None
    calls_per_second: float | None = None
    functions: int | None = None
    image_bytes: int | None = None
    gb_seconds_per_day: float | None = None
    disabled: bool = False


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The effective limits of a tenant, each as in `TenantQuota`."""

    calls_in_flight: int = 1000
    calls_per_second: float = 0.0
    functions: int = 10_000
    image_bytes: int = 4096 * 1024 * 1024
    gb_seconds_per_day: float = 0.0
    disabled: bool = False

    def under(self, quota: TenantQuota) -> "TenantLimits":
        """A copy in which the quota's own limits replace these."""
        return msgspec.structs.replace(self, **own_limits(quota), disabled=quota.disabled)


def own_limits(quota: TenantQuota) -> dict[str, float]:
    """The limits that a quota sets."""
    fields = msgspec.structs.asdict(quota)
    del fields["disabled"]
    return {name: value for name, value in fields.items() if value is not None}
