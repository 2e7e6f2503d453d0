"""Timeline: where the time of one call went, phase by phase, as the server saw it.

queued: in line for an instance. placed: the wait while a sandbox was made, specialised: the wait
while it was made an instance of the function's version; both only of a cold start. ran: from the
hand-over until the handler's end was seen. recorded: the writing of the call's two records.

When the guest begins with a call cannot be seen from the host, so `ran` has that way, too. Each
phase ends where the next begins, so they add up to the whole: from the moment the request was
accepted to the moment its record was closed.
"""

from dataclasses import dataclass

import msgspec

from quiltfn.model.cold_start import ColdStartReason

PHASES = ("queued", "placed", "specialised", "ran", "recorded")


@dataclass(slots=True)
class StartTiming:
    """The making of an instance, in monotonic seconds; None for what has not come about."""

    why: ColdStartReason
    begun: float
    placed: float | None = None
    specialised: float | None = None


class Timeline(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Microseconds by phase; 0 for one that did not happen. `why`: None of a warm call.

    It is kept as a list in this order, with every record.
    """

    why: ColdStartReason | None
    queued: int
    placed: int
    specialised: int
    ran: int
    recorded: int

    @property
    def total(self) -> int:
        return self.queued + self.placed + self.specialised + self.ran + self.recorded

    def recorded_for(self, seconds: float) -> "Timeline":
        """The same once writing the record has taken so much longer."""
        return Timeline(
            self.why,
            self.queued,
            self.placed,
            self.specialised,
            self.ran,
            self.recorded + _us(seconds),
        )

    def server_timing(self) -> str:
        """As the header of that name (W3C Server Timing): milliseconds."""
        text = (
            f"queued;dur={self.queued / 1000:.3f}, placed;dur={self.placed / 1000:.3f}, "
            f"specialised;dur={self.specialised / 1000:.3f}, ran;dur={self.ran / 1000:.3f}, "
            f"recorded;dur={self.recorded / 1000:.3f}"
        )
        return text if self.why is None else f"{text}, cold;desc={self.why.value}"


def of_call(
    accepted: float,
    handed: float,
    start_timing: StartTiming | None,
    *,
    ran: float = 0.0,
    recorded: float = 0.0,
) -> Timeline:
    """Of a call that was accepted and then handed an instance, or told that there is none.

    `start_timing`: of the instance that it waited for, handed to it or not; None for a warm call.
    `accepted` and `handed` in monotonic seconds, as `start_timing` has them; the others in seconds.
    """
    wait = _us(handed - accepted)
    if start_timing is None:
        return Timeline(None, wait, 0, 0, _us(ran), _us(recorded))
    # What lies before the call was nobody's wait; what was not over ended with the wait.
    begun = min(max(start_timing.begun, accepted), handed)
    placed = max(begun, handed if start_timing.placed is None else start_timing.placed)
    ready = max(placed, handed if start_timing.specialised is None else start_timing.specialised)
    placing, specialising = _us(placed - begun), _us(ready - placed)
    queued = max(0, wait - placing - specialising)
    return Timeline(start_timing.why, queued, placing, specialising, _us(ran), _us(recorded))


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
