"""Room for what is long: bodies that came in, and answers that go out, each in bytes in all.

What is short is not counted: there is one of it for each connection at most, and those are bounded.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from quiltfn.model.errors import CapacityFull

MIB = 1024 * 1024
# Bodies and answers up to here are short.
SHORT_BYTES = 16 * 1024
# What other requests than calls have for their bodies beside those, so that a server that is full
# of calls can still be managed.
SPARE_BYTES = 16 * MIB
ANSWER_WAIT_S = 10.0


class BodyRoom:
    """Bytes of the bodies that are held for requests that are not answered yet."""

    def __init__(self, most: int = 64 * MIB) -> None:
        self._most = most
        self.held = 0

    def take(self, size: int, *, is_call: bool) -> None:
        """Room for `size` more bytes; give them back. Raises `CapacityFull`."""
        most = self._most if is_call else self._most + SPARE_BYTES
        if self.held + size > most:
            raise CapacityFull(
                f"the server holds {self.held} bytes of bodies and takes {most}",
                hint="send it again once other requests are done, or a shorter body",
                retry_after=1,
            )
        self.held += size

    def give_back(self, size: int) -> None:
        self.held -= size


class AnswerRoom:
    """Bytes of long answers: those that are being made, and those that their readers have not taken
    yet. A long answer is not begun before there is room for it; the first is begun in any case.
    """

    def __init__(self, most: int = 48 * MIB) -> None:
        self._most = most
        self._making = 0
        self._unsent = 0
        self._line: deque[asyncio.Future[None]] = deque()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._line)

    def sent(self, more: int) -> None:
        """So many bytes more wait for their readers; fewer, if negative."""
        self._unsent += more
        if more < 0:
            self._call_next()

    @contextlib.asynccontextmanager
    async def making(self, size: int) -> AsyncIterator[None]:
        """Room for an answer of up to `size` bytes until it is handed to its connection. Raises
        `CapacityFull` if there is none within ten seconds.
        """
        if self._line or not self._fits(size):
            await self._wait(size)
        self._making += size
        try:
            self._call_next()
            yield
        finally:
            self._making -= size
            self._call_next()

    def _fits(self, size: int) -> bool:
        held = self._making + self._unsent
        return held == 0 or held + size <= self._most

    async def _wait(self, size: int) -> None:
        """Until it is our turn and there is room."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                while self._line[0] is not turn or not self._fits(size):
                    await turn
                    turn = self._again(turn)
        except TimeoutError:
            raise CapacityFull(
                "long answers that nobody reads fill the server",
                hint="ask for fewer records, or without their output: limit, output=none",
                retry_after=1,
            ) from None
        finally:
            self._line.remove(turn)

    def _again(self, turn: "asyncio.Future[None]") -> "asyncio.Future[None]":
        """Another future at the same place in the line."""
        again: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[self._line.index(turn)] = again
        return again

    def _call_next(self) -> None:
        if self._line and not self._line[0].done():
            self._line[0].set_result(None)


class OutputRoom:
    """How many calls may have long output at a time, from where it begins to its answer."""

    def __init__(self, most: int = 4) -> None:
        self._free = most
        self._line: deque[OutputOfCall] = deque()

    def call(self) -> "OutputOfCall":
        """Of one call; use it in a `with`."""
        return OutputOfCall(self)

    def enter(self, one: "OutputOfCall") -> bool:
        if self._free:
            self._free -= 1
            return True
        self._line.append(one)
        return False

    def leave(self, one: "OutputOfCall") -> None:
        if one in self._line:
            self._line.remove(one)
        elif self._line:
            self._line.popleft().go_on()
        else:
            self._free += 1


class OutputOfCall:
    """`ports.LongOutput`."""

    __slots__ = ("_ready", "_room")

    def __init__(self, room: OutputRoom) -> None:
        self._room = room
        self._ready: Callable[[], None] | None = None

    def take(self, ready: Callable[[], None]) -> bool:
        self._ready = ready
        return self._room.enter(self)

    def go_on(self) -> None:
        if self._ready is not None:
            self._ready()

    def __enter__(self) -> "OutputOfCall":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ready is not None:  # it was asked for
            self._ready = None
            self._room.leave(self)


class UploadRoom:
    """How many archives may arrive at a time, of all tenants together."""

    def __init__(self, most: int = 8) -> None:
        self._free = most

    def __enter__(self) -> None:
        if not self._free:
            raise CapacityFull(
                "other images are being uploaded: send it again later", retry_after=5
            )
        self._free -= 1

    def __exit__(self, *_: object) -> None:
        self._free += 1


@dataclass(frozen=True, slots=True)
class Rooms:
    """Those of one server."""

    bodies: BodyRoom = field(default_factory=BodyRoom)
    answers: AnswerRoom = field(default_factory=AnswerRoom)
    outputs: OutputRoom = field(default_factory=OutputRoom)
    uploads: UploadRoom = field(default_factory=UploadRoom)
    _parsing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @contextlib.asynccontextmanager
    async def kept_answer(self) -> AsyncIterator[None]:
        """Room for the answer that is kept for a key, however long it is: one is loaded at a time,
        and none while those before it are not read. Raises `CapacityFull`.
        """
        async with self._loading, self.answers.making(0):
            yield

    async def turn(self) -> None:
        """Before a long body is parsed: of many that are there at once one is taken at a time, and
        others are answered in between.
        """
        async with self._parsing:
            await asyncio.sleep(0)
