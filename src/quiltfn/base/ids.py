"""Ids: UUID version 7 (RFC 9562), which sort by the time of their creation."""

import os

from quiltfn.base.clock import unix_ms

# For speed, the random ends of some hundred ids are created in advance. Keeping them in memory is
# safe: an id must be unguessable, but is not a secret. The common beginning of all ids of a
# millisecond is cached as well.
_AHEAD = 256
_COUNT_MAX = 0xFFF
_ends: list[str] = []
_millisecond, _count, _begin = 0, 0, ""


def new_id() -> str:
    """A UUIDv7 that is greater than all earlier ones of this process and than the argument of
    `continue_behind`.
    """
    global _millisecond, _count, _begin
    now = unix_ms()
    if now > _millisecond or _count == _COUNT_MAX:
        # If the clock was set back, or a millisecond has too many ids, count up from the last id.
        _millisecond, _count = max(now, _millisecond + 1), 0
        digits = f"{_millisecond:012x}"
        _begin = f"{digits[:8]}-{digits[8:]}-7"
    else:
        _count += 1
    if not _ends:
        _ends.extend(_random_ends())
    return f"{_begin}{_count:03x}-{_ends.pop()}"


def continue_behind(last_id: str) -> None:
    """From now on every new id is greater than `last_id`, even if the clock is behind. A process
    that continues another process's data calls this before it creates ids.
    """
    global _millisecond, _count
    made_ms = made_at_ms(last_id)
    if made_ms >= _millisecond:
        _millisecond, _count = made_ms, _COUNT_MAX


def made_at_ms(text: str) -> int:
    """When an id was created, in Unix milliseconds."""
    return int(text[:8] + text[9:13], 16)


def _random_ends() -> list[str]:
    """Ends of ids: the two bits of the variant, then 62 random bits."""
    ends = []
    pool = os.urandom(8 * _AHEAD)
    for at in range(0, len(pool), 8):
        random = int.from_bytes(pool[at : at + 8]) >> 2
        digits = f"{random | 0x8000_0000_0000_0000:016x}"
        ends.append(f"{digits[:4]}-{digits[4:]}")
    return ends
