"""Ids: UUID version 7 (RFC 9562), which sort by the time they were made."""

import os

from quiltfn.base.clock import unix_ms

# Random ends are made for some hundred ids at once: nobody may guess an id, but an id is no secret
# once it is made. Likewise what all ids of one millisecond begin with.
_AHEAD = 256
_COUNT_MAX = 0xFFF
_ends: list[str] = []
_millisecond, _count, _begin = 0, 0, ""


def new_id() -> str:
    """A UUIDv7 that is greater than every one this process made before, and than the one that
    `continue_behind` was told of.
    """
    global _millisecond, _count, _begin
    now = unix_ms()
    if now > _millisecond or _count == _COUNT_MAX:
        # A clock that was set back, or too many in a millisecond: the time counts on by itself.
        _millisecond, _count = max(now, _millisecond + 1), 0
        digits = f"{_millisecond:012x}"
        _begin = f"{digits[:8]}-{digits[8:]}-7"
    else:
        _count += 1
    if not _ends:
        _ends.extend(_random_ends())
    return f"{_begin}{_count:03x}-{_ends.pop()}"


def continue_behind(last_id: str) -> None:
    """From now on every new id is greater than this one, wherever the clock stands; a process that
    goes on with what another has made calls it before it makes ids of its own.
    """
    global _millisecond, _count
    made_ms = made_at_ms(last_id)
    if made_ms >= _millisecond:
        _millisecond, _count = made_ms, _COUNT_MAX


def made_at_ms(text: str) -> int:
    """When an id was made, in Unix milliseconds."""
    return int(text[:8] + text[9:13], 16)


def _random_ends() -> list[str]:
    """62 random bits each, behind the two of the variant."""
    ends = []
    pool = os.urandom(8 * _AHEAD)
    for at in range(0, len(pool), 8):
        random = int.from_bytes(pool[at : at + 8]) >> 2
        digits = f"{random | 0x8000_0000_0000_0000:016x}"
        ends.append(f"{digits[:4]}-{digits[4:]}")
    return ends
