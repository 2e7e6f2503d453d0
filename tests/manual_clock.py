"""The clock of tests: it stands still until a test moves it, or advances a step at each `now`."""

from quiltfn.model.trusted_time import ClockState
from quiltfn.ports import ClockReading


class ManualClock:
    """A `clock.ResumableClock`. `time`: its reading, for all kinds of seconds."""

    resumed: ClockState | None = None
    jump_s = 0.0

    def __init__(self, time: float = 1_760_000_000.0, step_s: float = 0.0) -> None:
        self.time, self._step_s = time, step_s

    def now(self) -> float:
        self.time += self._step_s
        return self.time

    def unix(self) -> float:
        return self.time

    def timestamp(self) -> float:
        return self.unix()

    trusted = timestamp

    def resume(self, state: ClockState | None) -> None:
        """Only records the state, since tests set the reading."""
        self.resumed = state

    def go_by(self, reading: ClockReading) -> None:
        """Does nothing: tests set the reading."""

    def observe(self) -> bool:
        return False

    def state(self) -> ClockState:
        return ClockState(boot_id="manual", offset_s=0.0, settled_at=int(self.trusted()))
