"""What a pool may hold, and how long it waits for what."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """`*_s` in seconds. A recycling instance is waited for `patience_s` before one is started;
    one that is not clean after `recycle_s` is given up. Instances of the content before the current
    one are kept for `grace_s`; a parked one stays for `park_s`. `tenant_id`: whose quota they count
    against."""

    min_instances: int = 0
    max_instances: int = 5
    queue_max: int = 1000
    queue_wait_s: float = 10.0
    idle_s: float = 300.0
    patience_s: float = 0.005
    recycle_s: float = 5.0
    grace_s: float = 60.0
    park_s: float = 86_400.0
    tenant_id: str = ""
