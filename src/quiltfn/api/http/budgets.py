"""Limits on the memory of long bodies, responses and output, in total and for each tenant.

Short ones need no budget: a connection has at most one, and connections are limited.
"""

import asyncio
import contextlib
from bisect import insort_right
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec

from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.model.errors import CapacityFull, RateLimited

MIB = 1024 * 1024
# Bodies and responses up to this size are short.
SHORT_BYTES = 16 * 1024
# The extra budget of requests other than invocations, so that a server full of invocations can
# still be managed.
MANAGEMENT_BYTES = 16 * MIB
RESPONSE_WAIT_S = 10.0
WAITING = "requests that wait for the end of a call"
SHORTER_OR_LATER = "send it again once other requests are done, or a shorter body"


class BodyBudget:
    """The bytes of all long bodies of unanswered requests. One tenant may use half of the budget.

    Strangers, who invoke public URLs without a credential, may use half of a tenant's share, and
    all of them together half of the whole budget. The other half is always left to callers with a
    key.
    """

    def __init__(self, most: int = 64 * MIB) -> None:
        self._most = most
        self.held = 0
        self._held_of: Counter[str] = Counter()
        self._strangers: Counter[str] = Counter()  # the strangers' part of `_held_of`

    def reserve(
        self, size: int, tenant_id: str, *, is_call: bool, is_stranger: bool = False
    ) -> None:
        """Reserves `size` more bytes, until `release`. Raises `RateLimited` if the tenant, or its
        strangers, would exceed their share, and `CapacityFull` if too few are left.
        """
        most = self._most if is_call else self._most + MANAGEMENT_BYTES
        has = self._held_of[tenant_id]
        if is_stranger:
            self._check_strangers(size, tenant_id)
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
        if is_stranger:
            _count(self._strangers, tenant_id, size)

    def release(self, size: int, tenant_id: str, *, is_stranger: bool = False) -> None:
        self.held -= size
        _count(self._held_of, tenant_id, -size)
        if is_stranger:
            _count(self._strangers, tenant_id, -size)

    def _check_strangers(self, size: int, tenant_id: str) -> None:
        of_tenant, of_all = self._strangers.get(tenant_id, 0), self._strangers.total()
        if of_tenant + size > self._most // 4 or of_all + size > self._most // 2:
            raise RateLimited(
                "the server holds as many bytes of bodies without a credential as it takes",
                hint=SHORTER_OR_LATER,
                retry_after=1,
            )


class _Waiting(msgspec.Struct, eq=False):
    """A request that waits for its turn and memory. `rank`: how many requests of its tenant waited
    before it.
    """

    size: int
    rank: int
    turn: asyncio.Future[None]


class ResponseBudget:
    """The bytes of all long responses that are being built, being stored for an Idempotency-Key, or
    not yet read by their clients.

    A long response begins only once there is memory for it, unless it is the only one. Tenants take
    turns: the first waiting request of a tenant precedes the second of every other tenant.
    """

    def __init__(self, most: int = 48 * MIB) -> None:
        self._most = most
        self._making = 0
        self._unsent = 0
        self._queue: list[_Waiting] = []  # in the order of their turns
        self._waiting: Counter[str] = Counter()
        self.served = 0  # requests that waited and were served

    @property
    def held(self) -> int:
        """Bytes reserved now."""
        return self._making + self._unsent

    @property
    def missing(self) -> int:
        """Bytes that the next request waits for: all reserved ones if it needs the whole budget."""
        if not self._queue:
            return 0
        return max(1, min(self.held, self.held + self._queue[0].size - self._most))

    def add_unsent(self, more: int) -> None:
        """Counts `more` bytes (negative: fewer) that wait for the store or their clients."""
        self._unsent += more
        if more < 0:
            self._call_next()

    @contextlib.asynccontextmanager
    async def reserve(self, size: int, tenant_id: str) -> AsyncIterator[None]:
        """Reserves memory for a response of up to `size` bytes, until its connection has it. Raises
        `CapacityFull` if there is none within ten seconds.
        """
        if self._queue or not self._fits(size):
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
        """Waits for this request's turn and memory."""
        loop, rank = asyncio.get_running_loop(), self._waiting[tenant_id]
        waiting = _Waiting(size, rank, loop.create_future())
        insort_right(self._queue, waiting, key=lambda other: other.rank)
        _count(self._waiting, tenant_id, 1)
        try:
            async with asyncio.timeout(RESPONSE_WAIT_S):
                while self._queue[0] is not waiting or not self._fits(size):
                    await waiting.turn
                    waiting.turn = loop.create_future()
            self.served += 1
        except TimeoutError:
            raise CapacityFull(
                f"there was no memory for the response within {RESPONSE_WAIT_S:g} seconds: others "
                "are slow to be made or read",
                hint="send it again later; long lists need less with limit and output=none",
                retry_after=1,
            ) from None
        finally:
            self._queue.remove(waiting)
            _count(self._waiting, tenant_id, -1)
            self._call_next()

    def _call_next(self) -> None:
        if self._queue and not self._queue[0].turn.done():
            self._queue[0].turn.set_result(None)


class OutputBudget:
    """The memory of the long output of all invocations, from the first long piece to the response.

    An invocation reserves memory for its output in steps of 1 MiB. When no step is left, it waits
    for a *place*, which is large enough for all its further output, so it never waits again.
    Invocations that wait for each other's steps thus finish one after the other; with steps alone
    they could deadlock. One tenant may use half of the steps and of the places.
    """

    def __init__(self, steps: int = 14, places: int = 2) -> None:
        self._free_steps, self._steps_of_one = steps, steps // 2
        self._free_places, self._places_of_one = places, places // 2
        self._steps_of: Counter[str] = Counter()
        self._places_of: Counter[str] = Counter()
        self._queue: list[CallOutputBudget] = []

    @property
    def is_unused(self) -> bool:
        """Whether nothing is reserved and no invocation waits."""
        return not (self._queue or self._steps_of or self._places_of)

    def extend(self, output: "CallOutputBudget") -> bool:
        """Whether the invocation has the memory that it wants. If not, its `go_on` is called once
        it has.
        """
        if output not in self._queue:
            if self._give(output):
                return True
            self._queue.append(output)
        return False

    def release(self, output: "CallOutputBudget") -> None:
        """Frees the memory of an invocation that has ended."""
        if output in self._queue:
            self._queue.remove(output)
        self._take_back(output)
        if output.has_place:
            output.has_place = False
            self._free_places += 1
            _count(self._places_of, output.tenant_id, -1)
        self._serve()

    def _serve(self) -> None:
        """Serves the invocations with the most memory first: they end soonest and release most."""
        waits = sorted(self._queue, key=lambda it: -it.steps)
        while served := next((one for one in waits if self._give(one)), None):
            waits.remove(served)
            self._queue.remove(served)
            served.go_on()

    def _give(self, output: "CallOutputBudget") -> bool:
        more = output.wanted - output.steps
        if output.has_place or more <= 0:
            return True
        has = self._steps_of[output.tenant_id]
        if more <= min(self._free_steps, self._steps_of_one - has):
            output.steps += more
            self._free_steps -= more
            _count(self._steps_of, output.tenant_id, more)
            return True
        if self._free_places and self._places_of[output.tenant_id] < self._places_of_one:
            output.has_place = True
            self._free_places -= 1
            _count(self._places_of, output.tenant_id, 1)
            self._take_back(output)
            return True
        return False

    def _take_back(self, output: "CallOutputBudget") -> None:
        self._free_steps += output.steps
        _count(self._steps_of, output.tenant_id, -output.steps)
        output.steps = 0


class CallOutputBudget(msgspec.Struct, eq=False):
    """`ports.LongOutput` of one invocation. `wanted` and `steps`: MiB needed, and MiB reserved."""

    budget: OutputBudget
    tenant_id: str
    wanted: int = 0
    steps: int = 0
    has_place: bool = False
    _ready: Callable[[], None] | None = None

    def take(self, size: int, ready: Callable[[], None]) -> bool:
        self._ready = ready
        self.wanted = -(-size // MIB)
        return self.budget.extend(self)

    def go_on(self) -> None:
        if self._ready is not None:
            self._ready()

    def __enter__(self) -> "CallOutputBudget":
        return self

    def __exit__(self, *_: object) -> None:
        if self._ready is not None:  # the invocation has asked for memory
            self._ready = None
            self.budget.release(self)


def _count(held: Counter[str], tenant_id: str, more: int) -> None:
    """Adds to a tenant's count, and removes counts of 0."""
    held[tenant_id] += more
    if not held[tenant_id]:
        del held[tenant_id]


class UploadSlots:
    """Limits the concurrent uploads of archives by all tenants together."""

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


class Budgets(msgspec.Struct, frozen=True):
    """The budgets of one server."""

    bodies: BodyBudget = msgspec.field(default_factory=BodyBudget)
    responses: ResponseBudget = msgspec.field(default_factory=ResponseBudget)
    outputs: OutputBudget = msgspec.field(default_factory=OutputBudget)
    uploads: UploadSlots = msgspec.field(default_factory=UploadSlots)
    streams: StreamSlots = msgspec.field(default_factory=StreamSlots)
    waits: StreamSlots = msgspec.field(default_factory=lambda: StreamSlots(500, 1000, WAITING))
    _parsing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)
    _loading: ResponseBudget = msgspec.field(
        default_factory=lambda: ResponseBudget(0)
    )  # one at a time

    @contextlib.asynccontextmanager
    async def stored_response(self, tenant_id: str) -> AsyncIterator[None]:
        """Waits until a stored response of any length may be loaded: one at a time, and none while
        the budget of responses is used up. Raises `CapacityFull`.
        """
        async with self._loading.reserve(1, tenant_id), self.responses.reserve(0, tenant_id):
            yield

    async def turn(self) -> None:
        """Await this before parsing a long body, so that other requests are answered before the
        next long body is parsed.
        """
        async with self._parsing:
            await asyncio.sleep(0)
