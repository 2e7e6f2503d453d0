"""Timeline: where the time of one invocation went, phase by phase, as seen by the server.

queued: waiting for an instance. placed: waiting for the start of a sandbox; specialised: waiting
until the sandbox was an instance of the function's version; both only in a cold start. ran: from
the hand-over to the instance until the server noticed the handler's end. recorded: writing the two
records of the invocation.

The host cannot see when the guest starts an invocation, so `ran` includes the transfer to the
guest. Each phase begins at the end of the one before it, except that the first record is written
before `ran`. So the phases add up to the time from the acceptance of the request to the end of
writing its second record.
"""

import msgspec

from quiltfn.model.cold_start import ColdStartReason

PHASES = ("queued", "placed", "specialised", "ran", "recorded")


class StartTiming(msgspec.Struct):
    """The times of the steps of an instance's start, in monotonic seconds; None: not yet."""

    reason: ColdStartReason
    started: float
    placed: float | None = None
    specialised: float | None = None


class Timeline(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Microseconds by phase; 0 for a phase that did not happen. `reason`: None for a warm start.
    `started_ms`: when the instance got the invocation, in Unix milliseconds; 0 if it did not, or in
    a record of an earlier release.

    Stored in every record, as a list in the order of the fields.
    """

    reason: ColdStartReason | None
    queued: int
    placed: int
    specialised: int
    ran: int
    recorded: int
    started_ms: int = 0

    @property
    def total(self) -> int:
        return self.queued + self.placed + self.specialised + self.ran + self.recorded

    def recorded_for(self, seconds: float) -> "Timeline":
        """A copy with `seconds` added to the time for writing the records."""
        return Timeline(
            self.reason,
            self.queued,
            self.placed,
            self.specialised,
            self.ran,
            self.recorded + round(seconds * 1e6),
            self.started_ms,
        )

    def server_timing(self) -> str:
        """The value of the `Server-Timing` header (W3C Server Timing), in milliseconds."""
        text = (
            f"queued;dur={self.queued / 1000:.3f}, placed;dur={self.placed / 1000:.3f}, "
            f"specialised;dur={self.specialised / 1000:.3f}, ran;dur={self.ran / 1000:.3f}, "
            f"recorded;dur={self.recorded / 1000:.3f}"
        )
        return text if self.reason is None else f"{text}, cold;desc={self.reason.value}"


def of_call(
    accepted: float,
    handed: float,
    start_timing: StartTiming | None,
    *,
    ran: float = 0.0,
    recorded: float = 0.0,
    started_ms: int = 0,
) -> Timeline:
    """The timeline of an invocation that was accepted, and then got an instance or was refused one.

    `start_timing`: that of the instance that the invocation waited for, even if it didn't get that
    one; None for a warm start. `accepted` and `handed` in monotonic seconds, as in `start_timing`;
    `ran` and `recorded` in seconds; `started_ms` as in the timeline.
    """
    wait = round((handed - accepted) * 1e6)
    ran_us, recorded_us = round(ran * 1e6), round(recorded * 1e6)
    if start_timing is None:
        return Timeline(None, wait, 0, 0, ran_us, recorded_us, started_ms)
    # Only the part of the start that falls into the invocation's wait counts.
    started = min(max(start_timing.started, accepted), handed)
    placed = max(started, handed if start_timing.placed is None else start_timing.placed)
    ready = max(placed, handed if start_timing.specialised is None else start_timing.specialised)
    placing, specialising = round((placed - started) * 1e6), round((ready - placed) * 1e6)
    queued = max(0, wait - placing - specialising)
    took = (queued, placing, specialising, ran_us, recorded_us)
    return Timeline(start_timing.reason, *took, started_ms)
