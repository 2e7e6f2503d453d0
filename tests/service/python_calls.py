"""How many Python functions a request calls: what it costs, whatever else the machine does."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType


async def fewest_python_calls(
    files: Sequence[str], request: Callable[[], Awaitable[object]], times: int
) -> int:
    """Of a request that is made so many times, once it was made as often before. `files`: parts of
    the paths whose functions count. The fewest: a coroutine that is resumed counts again, and a
    machine that is busy resumes some once more.
    """
    for _ in range(times):
        await request()
    count, counts = 0, []

    def seen(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        if event == "call" and any(part in frame.f_code.co_filename for part in files):
            count += 1

    for _ in range(times):
        count = 0
        sys.setprofile(seen)
        try:
            await request()
        finally:
            sys.setprofile(None)
        counts.append(count)
    return min(counts)
