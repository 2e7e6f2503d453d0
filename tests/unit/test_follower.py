"""How far a node lags behind the changes of other nodes."""

from types import SimpleNamespace
from typing import cast

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.fleet import follower as module
from quiltfn.fleet.follower import Follower
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Change, ChangeKind, ChangePage
from quiltfn.store.functions.functions import SqlStore

pytestmark = promise("N61")

A_MOMENT_S = 2.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    made = ManualClock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: made.time))
    return made


class Changes:
    """The list of changes in a store that may be unreachable."""

    def __init__(self) -> None:
        self.items: list[Change] = []
        self.is_away = False

    async def newest_change(self) -> int:
        return 0

    async def changes(self, after: int) -> ChangePage:
        if self.is_away:
            raise StoreUnavailable("the database does not answer")
        found = [one for one in self.items if one.number > after]
        return ChangePage(items=found, is_complete=True)


async def test_the_lag_grows_until_everything_was_taken_over(clock: ManualClock) -> None:
    store = Changes()
    follower = Follower(cast("SqlStore", store))
    await follower.start()
    store.is_away = True
    clock.time += A_MOMENT_S
    with pytest.raises(StoreUnavailable):
        await follower.refresh()
    assert follower.lag_s() == pytest.approx(A_MOMENT_S)
    store.is_away = False
    await follower.refresh()
    assert follower.lag_s() == 0


CHANGE = Change(number=1, kind=ChangeKind.FUNCTION, tenant_id="t", object_id="f")


async def following(store: Changes, *errors: Exception) -> tuple[Follower, list[object]]:
    """A follower whose first updates fail with these errors, and the list of the changes that it
    has applied.
    """
    applied, left = list[object](), list(errors)

    async def take_over(changes: object) -> None:
        if left:
            raise left.pop(0)
        applied.append(changes)

    follower = Follower(cast("SqlStore", store))
    follower.connect({ChangeKind.FUNCTION: take_over})
    await follower.start()
    store.items.append(CHANGE)
    return follower, applied


async def test_what_could_not_be_taken_over_is_a_lag(clock: ManualClock) -> None:
    follower, _ = await following(Changes(), RuntimeError("a mistake of ours"))
    clock.time += A_MOMENT_S
    await follower.refresh()
    assert follower.lag_s() == pytest.approx(A_MOMENT_S)
    await follower.refresh()
    assert follower.lag_s() == 0


async def test_a_change_that_was_not_taken_over_is_not_forgotten_while_the_store_is_away() -> None:
    errors = RuntimeError("a mistake of ours"), StoreUnavailable("it is away")
    follower, applied = await following(Changes(), *errors)
    await follower.refresh()
    with pytest.raises(StoreUnavailable):
        await follower.refresh()
    await follower.refresh()
    assert applied == [None]  # None: everything was compared
