"""PoolLimits: how many instances and waiting calls a pool may have, and for how long."""

import msgspec
from msgspec.structs import replace


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """`*_s` in seconds.

    A call waits for a recycling instance for `patience_s` before one is started for it. An instance
    that is not clean after `recycle_s` is ended. Instances of the previous version stay for
    `grace_s`; a parked one stays for `park_s`, and none is parked where that is 0. `tenant_id`: the
    tenant whose quota they count against.
    """

    min_instances: int = 0
    max_instances: int = 5
    queue_max: int = 1000
    queue_wait_s: float = 10.0
    idle_s: float = 300.0
    patience_s: float = 0.005
    recycle_s: float = 5.0
    grace_s: float = 60.0
    park_s: float = 315_360_000.0
    tenant_id: str = ""

    @property
    def beside(self) -> "PoolLimits":
        """Of a pool of another version: nothing is kept there for the current version's sake."""
        return replace(self, min_instances=0, grace_s=0)
