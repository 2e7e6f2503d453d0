"""Stories of functions over the API, on fake sandboxes and a real store."""

import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from msgspec.structs import replace

from promises import promise
from quiltfn.model.actions import Closed
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.work import AsyncPolicy
from quiltfn.ports import Page
from quiltfn.ports.work import AcceptedWork
from service.platform_harness import Harness
from service.story_fake import FakeDriver
from service.story_machine import ON_FAKES, StoryMachine

pytestmark = promise("P15")


class FakeStories(StoryMachine):
    tell = FakeDriver


def test_every_story_keeps_the_promises() -> None:
    run_state_machine_as_test(FakeStories, settings=ON_FAKES)


# Negative controls: the stories above must find each of these bugs, or they prove nothing.


def uses_numbers_again(harness: Harness) -> None:
    """A bug: after a rollback, the numbers of newer versions are used again."""

    async def newest_number(function_id: str) -> int:
        current = harness.catalog.by_id("default", function_id).function.current_version
        newer = "DELETE FROM version WHERE function_id = ? AND number > ?"
        await harness.store.database.write(
            lambda connection: connection.exec_driver_sql(newer, (function_id, current))
        )
        return current

    harness.store.newest_number = newest_number  # type: ignore[method-assign]


def keeps_its_pool_on_pause(harness: Harness) -> None:
    close = harness.pools.close

    def but_not_paused(function_id: str, why: Closed) -> None:
        if why is not Closed.PAUSED:
            close(function_id, why)

    harness.pools.close = but_not_paused  # type: ignore[method-assign]


def forgets_what_ended_by_itself(harness: Harness) -> None:
    closed, amended = harness.journal.closed, harness.journal.amended

    def but_not_those(keep: Callable[[Invocation], None], record: Invocation) -> None:
        if record.status not in (Status.SUCCESS, Status.FAILED):
            keep(record)

    harness.journal.closed = partial(but_not_those, closed)  # type: ignore[method-assign]
    harness.journal.amended = partial(but_not_those, amended)  # type: ignore[method-assign]


def answers_before_the_pool_has_promoted(harness: Harness) -> None:
    prepared = harness.pools.prepared

    @asynccontextmanager
    async def never(function_id: str, *rest: Any) -> AsyncIterator[Any]:
        async with prepared(function_id, *rest) as preparation:
            # true while the function is being deployed
            if harness.pools._pools[function_id].model.current is None:
                yield preparation
            else:
                yield SimpleNamespace(promote=lambda *_: True)

    harness.pools.prepared = never  # type: ignore[method-assign,assignment]


def never_ends_what_was_deleted(harness: Harness) -> None:
    async def nothing(*_: Any) -> None:
        pass

    harness.lifecycle._end_deleted = nothing  # type: ignore[method-assign,assignment]


def tries_once_more_than_it_may(harness: Harness) -> None:
    policy_of = harness.work.policies.policy_of

    def more(function_id: str) -> AsyncPolicy:
        policy = policy_of(function_id)
        return replace(policy, max_attempts=policy.max_attempts + 1)

    harness.dispatcher.policies = SimpleNamespace(policy_of=more)  # type: ignore[assignment]


def forgets_the_delay(harness: Harness) -> None:
    accept = harness.work.store.accept

    def at_once(accepted: AcceptedWork) -> Any:
        return accept(replace(accepted, due_at_ms=int(harness.clock.unix() * 1000)))

    harness.work.store.accept = at_once  # type: ignore[method-assign]


def runs_what_was_cancelled(harness: Harness) -> None:
    cancel = harness.work.store.cancel

    async def in_the_record_alone(function_id: str, invocation_id: str, now: int) -> Any:
        again = "UPDATE invocation SET status = 'queued' WHERE invocation_id = ?"
        record = await cancel(function_id, invocation_id, now)
        await harness.store.database.write(
            lambda connection: connection.exec_driver_sql(again, (invocation_id,))
        )
        return record

    harness.work.store.cancel = in_the_record_alone  # type: ignore[method-assign]


def forgets_dead_letters(harness: Harness) -> None:
    async def nothing(*_: Any) -> Page[Any]:
        return Page(items=[], next_cursor=None)

    harness.work.store.dead_letters = nothing  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (uses_numbers_again, "and not the new number"),
        (keeps_its_pool_on_pause, "an empty pool"),
        (forgets_what_ended_by_itself, "but these are its records"),
        (answers_before_the_pool_has_promoted, "is none of"),
        (never_ends_what_was_deleted, "the call of what was deleted"),
        (tries_once_more_than_it_may, "more attempts than its policies allow"),
        (forgets_the_delay, "before its time"),
        (runs_what_was_cancelled, "was cancelled"),
        (forgets_dead_letters, "are no dead letters"),
    ],
)
def test_mistaken_servers_are_found_out(mistake: Callable[[Harness], None], words: str) -> None:
    class Broken(StoryMachine):
        tell = partial(FakeDriver, change=mistake)

    # As many stories as necessary: the first one that finds the bug ends the search.
    many = settings(
        ON_FAKES,
        max_examples=2000,
        stateful_step_count=30,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        print_blob=False,
    )
    with pytest.raises((AssertionError, BaseExceptionGroup)) as found:
        run_state_machine_as_test(Broken, settings=many)
    text = "".join(traceback.format_exception(found.value))
    assert words in text, text
