"""PoolLimits: the numbers of instances and waiting invocations that a pool may have, and time
limits.
"""

import msgspec
from msgspec.structs import replace


class PoolLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one pool; `*_s` in seconds.

    An invocation waits `patience_s` for a recycling instance before an instance is started for it.
    An instance that is not clean after `recycle_s` is ended. Instances of the previous version stay
    for `grace_s`. A parked instance stays for `park_s`; 0: none is parked. `tenant_id`: the tenant
    whose quota the instances count against.
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
        """The limits of another version's pool, which has no minimum and no grace period."""
        return replace(self, min_instances=0, grace_s=0)
