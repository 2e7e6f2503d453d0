"""Quota: how many instances a tenant's functions may have together, whatever their state.

Each instance takes a range of the machine's uids, of which there are a few thousand, also while it
is idle, parked, being made or being ended. It counts until it is gone.
"""

from collections.abc import Hashable

import msgspec

UNBOUNDED = float("inf")


class Quota(msgspec.Struct, eq=False):
    """Of one tenant: `used` of `limit`, of which `leaving` are being ended. `waiting`: the pools
    that lack instances because of it, the first to be served first. `looked_at`: when idle ones
    were looked for last (monotonic seconds).
    """

    limit: float = UNBOUNDED
    used: int = 0
    leaving: int = 0
    waiting: dict[Hashable, None] = msgspec.field(default_factory=dict)
    looked_at: float = float("-inf")

    @property
    def has_capacity(self) -> bool:
        """Whether one more may be made."""
        return self.used < self.limit

    @property
    def refusal(self) -> str:
        """The message for whoever wants one more."""
        return (
            f"the tenant has {self.used} instances, its quota: pause or delete a function, or "
            "lower its min_instances"
        )
