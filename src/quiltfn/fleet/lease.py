"""NodeLease: how long this node may continue without a heartbeat that the store has accepted.

Others can't distinguish a dead node from a slow one. So they wait, and the node stops itself before
their wait ends: it starts nothing, and later ends its instances. All times count from before a
heartbeat was sent, by CLOCK_BOOTTIME.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

LOOK_EVERY_S = 0.25
# The server ends its invocations this many seconds before the launcher ends every sandbox, since
# the server can record the reason.
END_CALLS_BEFORE_S = 0.5
CUT_OFF = (
    "this node has not reached the store for {age:.0f} s and starts nothing until it has; "
    "ask another node, or repeat the request"
)


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME, which continues while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Seconds since the last renewal: after `start_s` nothing more is started, at `end_s` every
    instance ends. Other nodes wait longer than `end_s` before they take over.
    """

    start_s: float = 10.0
    end_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.start_s < self.end_s:
            raise ValueError(f"{self.start_s} s must be less than {self.end_s} s, and more than 0")

    @property
    def end_calls_s(self) -> float:
        """When the server ends its invocations, at least halfway from `start_s` to `end_s`."""
        return self.end_s - min(END_CALLS_BEFORE_S, (self.end_s - self.start_s) / 2)


class LeaseState(IntEnum):
    """What the node may do. HELD: everything; STALE: continue, but start nothing; OVER: nothing."""

    HELD = 0
    STALE = 1
    OVER = 2


class NodeLease:
    """`renewed_at`: when the last accepted renewal was sent, in seconds of the clock."""

    def __init__(
        self,
        renewed_at: Callable[[], float],
        times: LeaseTimes | None = None,
        now: Callable[[], float] = boottime,
    ) -> None:
        self._renewed_at, self._now = renewed_at, now
        self.times = times or LeaseTimes()

    @property
    def deadline(self) -> float:
        """When every instance ends, by the clock, without a further renewal."""
        return self._renewed_at() + self.times.end_s

    @property
    def state(self) -> LeaseState:
        age = self._now() - self._renewed_at()
        if age >= self.times.end_calls_s:
            return LeaseState.OVER
        return LeaseState.STALE if age >= self.times.start_s else LeaseState.HELD

    @property
    def is_held(self) -> bool:
        """Whether the node may start anything."""
        return self.state is LeaseState.HELD

    def problem(self) -> str:
        """Why nothing may be started; empty if the node may start anything."""
        age = self._now() - self._renewed_at()
        return "" if self.is_held else CUT_OFF.format(age=age)

    async def watch(
        self, renewed: Callable[[float], None], changed: Callable[[LeaseState], Awaitable[None]]
    ) -> None:
        """Run until cancelled: report each new deadline, and each change of the state."""
        deadline_told, state = None, LeaseState.HELD
        while True:
            deadline, now = self.deadline, self.state
            if deadline != deadline_told:
                deadline_told = deadline
                renewed(deadline)
            if now is not state:
                state = now
                await changed(state)
            await asyncio.sleep(LOOK_EVERY_S)
