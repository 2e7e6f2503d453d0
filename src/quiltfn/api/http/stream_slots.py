"""Limits the number of open streams, and ends endless streams at shutdown."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from quiltfn.model.errors import CapacityFull, RateLimited


class Endless(Protocol):
    """A stream that does not end by itself."""

    def end(self) -> None:
        """End the stream after the event that is being sent."""
        ...


class StreamSlots:
    """Limits the open streams of each tenant and in total. `noun`: describes them in errors."""

    def __init__(
        self, of_tenant: int = 100, of_all: int = 1000, noun: str = "streams open"
    ) -> None:
        self.of_tenant, self.of_all, self._what = of_tenant, of_all, noun
        self._open: Counter[str] = Counter()
        self._endless: set[Endless] = set()

    @property
    def open(self) -> int:
        """The number of open streams."""
        return self._open.total()

    def take(self, tenant_id: str) -> None:
        """Take a slot. Raises `RateLimited` at the tenant's limit, `CapacityFull` at the total."""
        if self._open[tenant_id] >= self.of_tenant:
            raise RateLimited(
                f"the tenant has {self.of_tenant} {self._what}, its limit",
                hint="end one that is not needed",
                retry_after=5,
            )
        if self.open >= self.of_all:
            raise CapacityFull(f"the server has {self.of_all} {self._what}", retry_after=5)
        self._open[tenant_id] += 1

    @contextlib.contextmanager
    def taken(self, tenant_id: str) -> Iterator[None]:
        """Hold a slot until the end of the block. Raises as `take` does."""
        self.take(tenant_id)
        try:
            yield
        finally:
            self.release(tenant_id)

    def release(self, tenant_id: str) -> None:
        self._open[tenant_id] -= 1
        if not self._open[tenant_id]:
            del self._open[tenant_id]

    def note(self, stream: Endless, *, is_open: bool) -> None:
        """Remember a stream that only its client or `end` can end; forget it once it is closed."""
        if is_open:
            self._endless.add(stream)
        else:
            self._endless.discard(stream)

    def end(self) -> None:
        """End the streams that would not end by themselves, because the server is stopping."""
        for stream in list(self._endless):
            stream.end()
