"""Ids: UUID version 7 (RFC 9562), which sort by the time they were made."""

import os
import time

# Random bytes are asked of the kernel for some hundred ids at once: nobody may guess an id, but an
# id is no secret once it is made.
_POOL_BYTES = 4096
_last = 0
_pool, _at = b"", 0


def new_id() -> str:
    """A UUIDv7 that is greater than every one this process made before."""
    global _last, _pool, _at
    # 48 bits of milliseconds and 12 bits that count on within the same one.
    stamp = (time.time_ns() // 1_000_000) << 12
    _last = max(stamp, _last + 1)
    if _at == len(_pool):
        _pool, _at = os.urandom(_POOL_BYTES), 0
    random = int.from_bytes(_pool[_at : _at + 8], "big") >> 2
    _at += 8
    digits = f"{_last >> 12:012x}7{_last & 0xFFF:03x}{random | 0x8000_0000_0000_0000:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
