"""Quota: how many instances a tenant's functions may have together, whatever their state.

Each instance takes one of the machine's few thousand ranges of uids until it is gone, even while it
is idle, parked, starting or being ended. So it counts for that time.
"""

from collections.abc import Hashable

import msgspec

UNBOUNDED = float("inf")


class Quota(msgspec.Struct, eq=False):
    """The quota of one tenant: `used` of `limit` instances exist; `leaving` of these are being
    ended. `waiting`: the pools that lack instances because of the quota, in the order in which they
    are served. `looked_at`: when idle instances were last searched for (monotonic seconds).
    """

    limit: float = UNBOUNDED
    used: int = 0
    leaving: int = 0
    waiting: dict[Hashable, None] = msgspec.field(default_factory=dict)
    looked_at: float = float("-inf")

    @property
    def has_capacity(self) -> bool:
        """Whether one more instance may be created."""
        return self.used < self.limit

    @property
    def refusal(self) -> str:
        """The error message for a request for one more instance."""
        return (
            f"the tenant has {self.used} instances, its quota: pause or delete a function, or "
            "lower its min_instances"
        )
