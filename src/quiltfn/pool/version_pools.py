"""VersionPools: the pools of one function, its own and one for each other version that is called.

All their instances are within the function's maximum (`model/places.py`). Idle ones are ended for a
call of another version that waits, first those of versions that are not the current one.

Each place that becomes free is offered to every version that waits for one. So as many wait at most
as that takes no noticeable time for, and a call of one more is refused.
"""

from msgspec.structs import replace

from quiltfn.model.errors import CapacityFull
from quiltfn.model.limits import PoolLimits
from quiltfn.model.places import Places
from quiltfn.pool.function_pool import FunctionPool

WAITING_MAX = 64


class VersionPools:
    """`own`: of the current version; `beside`: of others, by the version's id."""

    def __init__(self, own: FunctionPool) -> None:
        self.own = own
        self.places: Places = own.model.places
        self.beside: dict[str, FunctionPool] = {}
        self._frees_seen = 0
        self._is_serving = False
        own.siblings = self

    @property
    def all(self) -> list[FunctionPool]:
        return [self.own, *self.beside.values()]

    @property
    def limits(self) -> PoolLimits:
        """Of a pool beside."""
        return _beside(self.own.model.limits)

    def check_room(self) -> None:
        """Raises `CapacityFull` where no further version may be called now."""
        if len(self.places.waiting) >= WAITING_MAX:
            raise CapacityFull(
                f"calls of {WAITING_MAX} versions of the function wait for an instance",
                retry_after=1,
            )

    def add(self, version_id: str, pool: FunctionPool) -> None:
        self.beside[version_id] = pool
        pool.siblings = self

    def scaled(self, pool: FunctionPool, limits: PoolLimits) -> None:
        """A pool is about to have other limits: those beside the function's own follow it, and end
        what is above the maximum first.
        """
        if pool is self.own:
            for other in self.beside.values():
                other.set_scaling(_beside(limits))

    def make_places(self, wants: FunctionPool, count: int) -> None:
        """Ends so many idle instances of other versions than that of `wants`."""
        found: list[tuple[FunctionPool, int]] = []
        for pool in (*self.beside.values(), self.own):
            if len(found) < count and pool is not wants and pool.model.has_idle:
                found += [(pool, number) for number in pool.model.place_candidates()]
        for pool, number in found[:count]:
            pool.evict(number)

    def serve_waiting(self) -> None:
        """After a place became free: serves the pools that lack one, the longest waiting first."""
        places = self.places
        if not places.waiting or self._is_serving:
            return
        self._is_serving = True
        try:
            while places.waiting and places.frees != self._frees_seen:
                self._frees_seen = places.frees
                by_model = {pool.model: pool for pool in self.all}
                for model in sorted(by_model.keys() & places.waiting.keys(), key=self._since):
                    by_model[model].provide()
        finally:
            self._is_serving = False

    def _since(self, model: object) -> float:
        return self.places.waiting.get(model, 0.0)


def _beside(limits: PoolLimits) -> PoolLimits:
    """The same maximum and times, and nothing that is kept for the current version's sake."""
    return replace(limits, min_instances=0, grace_s=0)
