"""Counts the Python functions that a request calls: its cost, independent of the machine's load."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from types import FrameType


async def fewest_python_calls(
    files: Sequence[str], request: Callable[[], Awaitable[object]], times: int
) -> int:
    """The fewest calls for one request, after as many requests for warming up.

    `files`: only functions in files whose paths contain one of these parts count. This takes the
    minimum, since each resumption of a coroutine counts as a call, and a busy machine has more
    resumptions.
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
