"""What a `PoolSimulation` knows of each sandbox."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class SimulatedSandbox:
    """A sandbox as the world sees it."""

    digest: str
    pending: bool = True
    holder: int | None = None
    cleaning: bool = False
    destroying: bool = False
    dead: bool = False
    was_ready: bool = False
    is_sick: bool = False
    cleaning_since: float = 0.0
    idle_since: float = 0.0
    is_parked: bool = False
    is_fresh: bool = False  # made, or taken back, and not handed out since; and who waited then
    seen_by: frozenset[int] = frozenset()
    ready_at: float = -1.0

    @property
    def is_idle(self) -> bool:
        return self.holder is None and not (self.pending or self.cleaning or self.destroying)

    def become_ready(self, now: float, waiting: Iterable[int]) -> None:
        """It can be handed out from now on, and these have been waiting for that."""
        self.is_parked, self.is_fresh = False, True
        self.idle_since = self.ready_at = now
        self.seen_by = frozenset(waiting)
