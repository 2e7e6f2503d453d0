"""Bytes that long bodies, long responses and long output may take, in all and for each tenant.

What is short is not counted: there is one of it for each connection at most, and those are bounded.
"""

import asyncio
import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import msgspec

from quiltfn.model.errors import CapacityFull, RateLimited

MIB = 1024 * 1024
# Bodies and answers up to here are short.
SHORT_BYTES = 16 * 1024
# What other requests than calls have for their bodies beside those, so that a server that is full
# of calls can still be managed.
SPARE_BYTES = 16 * MIB
ANSWER_WAIT_S = 10.0
SHORTER_OR_LATER = "send it again once other requests are done, or a shorter body"


class BodyBudget:
    """Bytes of the bodies that are held for requests that are not answered yet, half of them at
    most for one tenant.
    """

    def __init__(self, most: int = 64 * MIB) -> None:
        self._most = most
        self.held = 0
        self._held_of: Counter[str] = Counter()

    def take(self, size: int, tenant_id: str, *, is_call: bool) -> None:
        """Room for `size` more bytes; give them back. Raises `RateLimited` where it would be more
        than the tenant's half, `CapacityFull` where it would be more than all.
        """
        most = self._most if is_call else self._most + SPARE_BYTES
        has = self._held_of[tenant_id]
        if has + size > most // 2:
            raise RateLimited(
                f"the server holds {has} bytes of the tenant's bodies and takes {most // 2}",
                hint=SHORTER_OR_LATER,
                retry_after=1,
            )
        if self.held + size > most:
            raise CapacityFull(
                f"the server holds {self.held} bytes of bodies and takes {most}",
                hint=SHORTER_OR_LATER,
                retry_after=1,
            )
        self.held += size
        _count(self._held_of, tenant_id, size)

    def give_back(self, size: int, tenant_id: str) -> None:
        self.held -= size
        _count(self._held_of, tenant_id, -size)


class ResponseBudget:
    """Bytes of long answers: those that are being made, those that are not kept for their key yet,
    and those that their readers have not taken yet. A long answer is not begun before there is room
    for it; the first is begun in any case. Tenants wait side by side: however many of one are in
    the line, the first of another is next.
    """

    def __init__(self, most: int = 48 * MIB) -> None:
        self._most = most
        self._making = 0
        self._unsent = 0
        # In the order of their turns; beside each, how many of its tenant it found there.
        self._line: list[asyncio.Future[None]] = []
        self._ranks: list[int] = []
        self._waiting: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Bytes that are counted now."""
        return self._making + self._unsent

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for room."""
        return bool(self._line)

    def add_unsent(self, more: int) -> None:
        """So many bytes more wait for the store or for their readers; fewer, if negative."""
        self._unsent += more
        if more < 0:
            self._call_next()

    @contextlib.asynccontextmanager
    async def reserve(self, size: int, tenant_id: str) -> AsyncIterator[None]:
        """Room for an answer of up to `size` bytes until it is handed to its connection. Raises
        `CapacityFull` if there is none within ten seconds.
        """
        if self._line or not self._fits(size):
            await self._wait(size, tenant_id)
        self._making += size
        try:
            self._call_next()
            yield
        finally:
            self._making -= size
            self._call_next()

    def _fits(self, size: int) -> bool:
        return self.held == 0 or self.held + size <= self._most

    async def _wait(self, size: int, tenant_id: str) -> None:
        """Until it is our turn and there is room."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        rank = self._waiting[tenant_id]
        at = bisect_right(self._ranks, rank)
        self._ranks.insert(at, rank)
        self._line.insert(at, turn)
        _count(self._waiting, tenant_id, 1)
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
            at = self._line.index(turn)
            del self._line[at], self._ranks[at]
            _count(self._waiting, tenant_id, -1)

    def _again(self, turn: "asyncio.Future[None]") -> "asyncio.Future[None]":
        """Another future at the same place in the line."""
        again: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[self._line.index(turn)] = again
        return again

    def _call_next(self) -> None:
        if self._line and not self._line[0].done():
            self._line[0].set_result(None)


class OutputBudget:
    """Memory for the long output of calls, from where it begins to the answer.

    A call has what it has written, in steps of 1 MiB, as long as there are any. If none is left it
    waits for a place that is large enough for whatever it may still write. Who has a place never
    waits again, so that calls that wait for each other's steps end one after the other. A tenant
    has half of everything, and one that keeps its half keeps nobody else from going on.
    """

    def __init__(self, steps: int = 14, places: int = 2) -> None:
        self._free_steps, self._steps_of_one = steps, steps // 2
        self._free_places, self._places_of_one = places, places // 2
        self._steps_of: Counter[str] = Counter()
        self._places_of: Counter[str] = Counter()
        self._line: list[CallOutputBudget] = []

    @property
    def is_unused(self) -> bool:
        """Whether all of it has come back."""
        return not (self._line or self._steps_of or self._places_of)

    def enter(self, one: "CallOutputBudget") -> bool:
        """Whether it has what it wants; if not, it is told once it has."""
        if one not in self._line:
            if self._give(one):
                return True
            self._line.append(one)
        return False

    def leave(self, one: "CallOutputBudget") -> None:
        if one in self._line:
            self._line.remove(one)
        self._take_back(one)
        if one.has_place:
            one.has_place = False
            self._free_places += 1
            _count(self._places_of, one.tenant_id, -1)
        self._serve()

    def _serve(self) -> None:
        """Whoever has most goes first: so it ends soon, and gives most back."""
        waits = sorted(self._line, key=lambda it: -it.steps)
        while served := next((one for one in waits if self._give(one)), None):
            waits.remove(served)
            self._line.remove(served)
            served.go_on()

    def _give(self, one: "CallOutputBudget") -> bool:
        more = one.wanted - one.steps
        if one.has_place or more <= 0:
            return True
        has = self._steps_of[one.tenant_id]
        if more <= min(self._free_steps, self._steps_of_one - has):
            one.steps += more
            self._free_steps -= more
            _count(self._steps_of, one.tenant_id, more)
            return True
        if self._free_places and self._places_of[one.tenant_id] < self._places_of_one:
            one.has_place = True
            self._free_places -= 1
            _count(self._places_of, one.tenant_id, 1)
            self._take_back(one)
            return True
        return False

    def _take_back(self, one: "CallOutputBudget") -> None:
        self._free_steps += one.steps
        _count(self._steps_of, one.tenant_id, -one.steps)
        one.steps = 0


class CallOutputBudget(msgspec.Struct, eq=False):
    """`ports.LongOutput`. `wanted` and `steps`: MiB that it needs and has, without a place."""

    budget: OutputBudget
    tenant_id: str
    wanted: int = 0
    steps: int = 0
    has_place: bool = False
    _ready: Callable[[], None] | None = None

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        self._ready = ready
        self.wanted = -(-size // MIB)
        return self.budget.enter(self)

    def go_on(self) -> None:
        if self._ready is not None:
            self._ready()

    def __enter__(self) -> "CallOutputBudget":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ready is not None:  # it was asked for
            self._ready = None
            self.budget.leave(self)


def _count(held: Counter[str], tenant_id: str, more: int) -> None:
    """Who holds nothing is not kept."""
    held[tenant_id] += more
    if not held[tenant_id]:
        del held[tenant_id]


class UploadSlots:
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
class Budgets:
    """Those of one server."""

    bodies: BodyBudget = field(default_factory=BodyBudget)
    responses: ResponseBudget = field(default_factory=ResponseBudget)
    outputs: OutputBudget = field(default_factory=OutputBudget)
    uploads: UploadSlots = field(default_factory=UploadSlots)
    _parsing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _loading: ResponseBudget = field(default_factory=lambda: ResponseBudget(0))  # so for one alone

    @contextlib.asynccontextmanager
    async def stored_response(self, tenant_id: str) -> AsyncIterator[None]:
        """Room for the answer that is kept for a key, however long it is: one is loaded at a time,
        and none while those before it are not read. Raises `CapacityFull`.
        """
        async with self._loading.reserve(1, tenant_id), self.responses.reserve(0, tenant_id):
            yield

    async def turn(self) -> None:
        """Before a long body is parsed: of many that are there at once one is taken at a time, and
        others are answered in between.
        """
        async with self._parsing:
            await asyncio.sleep(0)
