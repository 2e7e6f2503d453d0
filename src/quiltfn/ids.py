"""Ids: UUID version 7 (RFC 9562), which sort by the time they were made."""

import os
import time
import uuid

_last = 0


def new_id() -> str:
    """A UUIDv7 that is greater than every one this process made before."""
    global _last
    # 48 bits of milliseconds and 12 bits that count on within the same one.
    stamp = (time.time_ns() // 1_000_000) << 12
    _last = max(stamp, _last + 1)
    bits = (_last >> 12) << 80 | 0x7 << 76 | (_last & 0xFFF) << 64 | 0b10 << 62
    bits |= int.from_bytes(os.urandom(8), "big") >> 2
    return str(uuid.UUID(int=bits))
