"""PoolLoad: how loaded the pool of a function on one node is, as other nodes hear of it."""

import msgspec


class PoolLoad(msgspec.Struct, frozen=True, array_like=True):
    """`version`: the number of the one that the pool serves. `idle`: how many calls could begin
    without a wait; `busy`: instances with a call; `waiting`: calls without an instance; `slots`:
    how many instances the pool may have.
    """

    function_id: str
    version: int
    idle: int = 0
    busy: int = 0
    waiting: int = 0
    slots: int = 0

    @property
    def per_slot(self) -> float:
        """Calls for each instance that it may have."""
        return (self.busy + self.waiting) / self.slots if self.slots else float("inf")
