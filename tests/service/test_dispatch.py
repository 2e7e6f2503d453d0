"""Asynchronous invocations on fake sandboxes with a manual clock: when, how often, and in which
order they run.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, patch

import pytest
import uvloop
from msgspec.structs import replace

from contract.stores import eventually
from manual_clock import ManualClock
from metric_values import sample_value
from promises import promise
from quiltfn.calls import claims
from quiltfn.calls.dispatch import DUE_SPARE
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import NotFound, OutcomeUnknown, StoreUnavailable
from quiltfn.model.invocation import ExitKind, Invocation, Status
from quiltfn.model.work import AsyncPolicy, Backoff
from quiltfn.ports.work import Input
from service.faults import away, held_up, silent
from service.platform_harness import Harness, end_one, open_harness, until
from timeouts import scaled

MIB = 1024 * 1024
EXACT = Backoff(first=10.0, factor=2.0, jitter=0.0)


async def accept(
    server: Harness, entry: Entry, count: int = 1, in_s: float | None = None, **more: Any
) -> list[str]:
    """Accepts `count` asynchronous invocations, due in `in_s` seconds; returns their ids."""
    due = None if in_s is None else round((server.clock.time + in_s) * 1000)
    given = Input(may_write=True, **more)
    records = [await server.work.accept(entry, given, due) for _ in range(count)]
    return [record.invocation_id for record in records]


async def set_policy(server: Harness, entry: Entry, **policy: Any) -> None:
    await server.work.policies.set_policy(entry.function.id, AsyncPolicy(**policy))


async def one_held(server: Harness, **policy: Any) -> tuple[Entry, str, str]:
    """A function with one instance, its running invocation, and a second invocation that is claimed
    and held.
    """
    entry = await server.active("sleep 60", max_instances=1)
    await set_policy(server, entry, **policy)
    running, held = await accept(server, entry, 2)
    await until(lambda: busy(server, entry) == 1)
    await until(lambda: held in server.dispatcher._backlogs[entry.function.id].held)
    return entry, running, held


async def succeed(server: Harness, entry: Entry, *invocation_ids: str) -> None:
    """Waits for the success of each of these invocations."""
    for invocation_id in invocation_ids:
        assert (await server.final(entry, invocation_id)).status is Status.SUCCESS


async def is_run(server: Harness, entry: Entry, invocation_id: str) -> None:
    """Ends the function's only running invocation, and checks that it is this one and succeeds."""
    await until(lambda: busy(server, entry) == 1)
    await end_one(server)
    await succeed(server, entry, invocation_id)


async def dead_letter(server: Harness, entry: Entry) -> tuple[str, str]:
    """The invocation and the reason of the function's only dead letter."""
    (letter,) = (await server.work.dead_letters(entry, 10, None)).items
    return letter.invocation_id, letter.reason


async def claimable(server: Harness, entry: Entry) -> list[str]:
    """Claims invocations as another server would; returns their ids."""
    now_ms = int(server.clock.time * 1000)
    claim = await server.work.store.claim(entry.function.id, 9, now_ms, is_begun=False)
    return [work.record.invocation_id for work in claim.work]


async def record_of(server: Harness, entry: Entry, invocation_id: str) -> Invocation:
    record = await server.journal.get(entry.function.id, invocation_id)
    assert record is not None
    return record


def busy(server: Harness, entry: Entry) -> int:
    return server.pools.counts(entry.function.id).busy


async def statuses(server: Harness, entry: Entry, invocation_id: str) -> list[Status]:
    """The statuses of the invocation's ended attempts."""
    return [one.status for one in await server.work.attempts(entry, invocation_id)]


async def quiet(server: Harness) -> None:
    """Waits until the dispatcher has no running task, and all outcomes are stored."""
    for _ in range(3):
        await until(lambda: not server.dispatcher._tasks)
        await server.journal.synced()
        await asyncio.sleep(0)


async def test_however_much_is_due_later_one_time_is_remembered(server: Harness) -> None:
    entry = await server.active()
    for seconds in (60, 90, 30, 120):
        await accept(server, entry, 20, in_s=seconds)
    # two entries: the first time, and the earlier time that replaced it
    assert len(server.dispatcher._due) == 2
    server.pass_time(31.0)
    await until(lambda: server.sandboxes.calls == 20)
    await quiet(server)
    assert len(server.dispatcher._due) <= 2
    server.pass_time(100.0)
    await until(lambda: server.sandboxes.calls == 80)
    await quiet(server)
    assert server.dispatcher._backlogs == {}


async def test_what_came_due_ever_earlier_and_was_cancelled_is_gone(server: Harness) -> None:
    """The dispatcher must forget such times: a caller could repeat this all day, with invocations
    that are due in a year.
    """
    entry = await server.active()
    for number in range(2 * DUE_SPARE):
        (call_id,) = await accept(server, entry, in_s=30_000_000 - number)
        await server.work.cancel(entry, call_id)
        assert len(server.dispatcher._due) <= DUE_SPARE + 2
    (call_id,) = await accept(server, entry, in_s=60)
    server.pass_time(61.0)
    await succeed(server, entry, call_id)


def test_work_arrives_while_other_work_is_due_on_the_server_s_loop(tmp_path: Path) -> None:
    async def check() -> None:
        async with open_harness(tmp_path) as server:
            now_ms = round(server.clock.time * 1000)
            server.dispatcher.arrived("first", "tenant", now_ms + 60_000)
            server.clock.time += 70
            for function_id in ("second", "third"):
                server.dispatcher.arrived(function_id, "tenant", now_ms + 90_000)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(check())


async def test_long_inputs_of_many_functions_are_not_in_memory_all_at_once(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All invocations are due in the same second, each function runs one at a time, and all
    succeed. The limits are an eighth of the real ones.
    """
    monkeypatch.setattr(claims, "HELD_MAX_BYTES", 8 * MIB)
    monkeypatch.setattr(claims, "CLAIM_MAX_BYTES", 2 * MIB)
    monkeypatch.setattr("quiltfn.store.calls.work.AT_ONCE_MAX_BYTES", 2 * MIB)
    most, of_dispatcher = 0, server.dispatcher._claims
    entries = [await server.active("sleep 0.05", f"f{n}", max_instances=1) for n in range(16)]
    long = {"payload": b"x" * (MIB // 2), "in_s": 60}
    calls = [await accept(server, entry, 4, **long) for entry in entries]  # type: ignore[arg-type]
    claim = of_dispatcher.claim

    async def watched(*given: Any) -> Any:
        nonlocal most
        ended = await claim(*given)
        most = max(most, of_dispatcher._held_bytes)
        return ended

    monkeypatch.setattr(of_dispatcher, "claim", watched)
    server.pass_time(61.0)
    for entry, ids in zip(entries, calls, strict=True):
        await succeed(server, entry, *ids)
    assert MIB < most <= 8 * MIB
    await quiet(server)
    assert of_dispatcher.under_way == of_dispatcher._held_bytes == 0


async def test_a_failed_attempt_is_repeated_after_the_wait_and_given_up(server: Harness) -> None:
    entry = await server.active("exit 3")
    await set_policy(server, entry, max_attempts=3, backoff=EXACT)
    (call_id,) = await accept(server, entry)
    for made, wait_s in ((1, 10.0), (2, 20.0)):
        await until(lambda n=made: server.sandboxes.calls == n)  # type: ignore[misc]
        await quiet(server)
        record = await record_of(server, entry, call_id)
        assert (record.status, record.attempt) == (Status.QUEUED, made + 1)
        server.pass_time(wait_s - 0.5)
        await quiet(server)
        assert server.sandboxes.calls == made
        server.pass_time(1.0)
    record = await server.final(entry, call_id)
    assert (record.status, record.attempt) == (Status.FAILED, 3)
    await quiet(server)
    assert await statuses(server, entry, call_id) == [Status.FAILED] * 3
    assert await dead_letter(server, entry) == (call_id, "attempts")
    assert entry.counters.invocation_count == 1


async def test_claimed_work_that_became_too_old_is_not_begun(server: Harness) -> None:
    entry, _, held = await one_held(server, max_age_seconds=5)
    server.clock.time += 6
    await end_one(server)
    record = await server.final(entry, held)
    assert (record.status, record.started_at) == (Status.ERROR, None)
    assert await dead_letter(server, entry) == (held, "age")
    assert server.sandboxes.calls == 1


@promise("W12")
@pytest.mark.parametrize(("bound", "instances", "run"), [(2, 5, 2), (None, 3, 3)])
async def test_as_many_run_at_a_time_as_the_policy_or_the_pool_allows(
    server: Harness, bound: int | None, instances: int, run: int
) -> None:
    entry = await server.active("sleep 60", max_instances=instances)
    await set_policy(server, entry, max_concurrency=bound)
    await accept(server, entry, 6)
    await until(lambda: busy(server, entry) == run)
    # longer than BLOCKED_LOOK_S, after which due invocations are tried again
    await asyncio.sleep(0.15)
    assert (busy(server, entry), server.pools.waiting()) == (run, 0)


@promise("W11")
async def test_a_caller_who_waits_is_served_before_accepted_work(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    await accept(server, entry, 3)
    await until(lambda: busy(server, entry) == 1)
    caller = await server.running(entry)
    for _ in range(2):
        await end_one(server)
    # The first instance that became free went to an asynchronous invocation, the second to the
    # caller, although two more asynchronous ones were due.
    assert caller.done()
    assert (await caller).status is Status.SUCCESS


@promise("W11")
async def test_callers_who_fill_a_function_leave_turns_to_its_work(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    callers = [await server.running(entry) for _ in range(2)]
    (first, second) = await accept(server, entry, 2)
    await asyncio.sleep(0.15)
    # only the second caller waits; no asynchronous invocation waits yet
    assert server.pools.waiting() == 1
    server.clock.time += 2.5
    server.dispatcher._look_again()
    await until(lambda: server.pools.waiting() == 2)  # now an asynchronous invocation waits, too
    later = await server.running(entry)
    for _ in range(3):
        await end_one(server)
    assert all(caller.done() for caller in callers)
    assert (await record_of(server, entry, first)).status is Status.SUCCESS
    assert not later.done()
    assert (await record_of(server, entry, second)).status is Status.QUEUED


async def test_tenants_and_functions_take_turns(server: Harness) -> None:
    # An invocation takes longer than claiming those of the other function.
    long, short = [await server.active("sleep 0.02", name=name) for name in ("l", "s")]
    for entry, count in ((long, 30), (short, 3)):
        await set_policy(server, entry, max_concurrency=1)
        await accept(server, entry, count, in_s=60)
    ended: list[str] = []
    server.invoker.on_closed.hearers += (lambda record: ended.append(record.function_name),)
    server.pass_time(61.0)
    await until(lambda: len(ended) == 33)
    assert "s" not in ended[12:]


async def two_that_need_an_instance(server: Harness) -> list[Entry]:
    """Two functions whose instances are busy, each with a claimed invocation that may start now."""
    found, policies = [], server.work.policies
    for name in ("one", "two"):
        entry = await server.active("sleep 60", name, max_instances=2, memory_limit_mb=256)
        await policies.set_policy(entry.function.id, AsyncPolicy(max_concurrency=1))
        await accept(server, entry, 2)
        await until(lambda: busy(server, entry) == 1)  # noqa: B023
        await until(lambda: server.dispatcher._backlogs[entry.function.id].held)  # noqa: B023
        found.append(entry)
    policies._rows.clear()  # without limits, both functions are considered at once
    server.dispatcher._look_again()
    return found


async def test_each_function_that_needs_a_new_instance_gets_its_turn(server: Harness) -> None:
    first, second = await two_that_need_an_instance(server)
    await until(lambda: (busy(server, first), busy(server, second)) == (2, 2))


async def test_work_does_not_wait_for_memory_given_to_other_work(tmp_path: Path) -> None:
    """The memory suffices for one more instance. Either function could get it, but only one
    does.
    """
    async with open_harness(tmp_path, memory_mib=900) as server:
        first, second = await two_that_need_an_instance(server)
        await until(lambda: busy(server, first) + busy(server, second) == 3)
        # longer than BLOCKED_LOOK_S, after which due invocations are tried again
        await asyncio.sleep(0.15)
        assert (busy(server, first) + busy(server, second), server.pools.waiting()) == (3, 0)


async def test_a_retry_is_looked_at_once_its_end_is_committed(server: Harness) -> None:
    """The next attempt can only be claimed after the commit, which must not wait for its usual
    time.
    """
    entry = await server.active("exit 3")
    await set_policy(server, entry, max_attempts=2, backoff=replace(EXACT, first=0.0))
    server.journal._commit_after_s = 1.0
    (call_id,) = await accept(server, entry)
    record = await server.final(entry, call_id)
    assert (record.status, record.attempt) == (Status.FAILED, 2)


async def test_a_dispatcher_that_was_stopped_begins_again_what_waits(server: Harness) -> None:
    entry, first, held = await one_held(server)
    await server.dispatcher.stop()
    await end_one(server)
    (later,) = await accept(server, entry, 1)
    await succeed(server, entry, first)
    # longer than BLOCKED_LOOK_S, after which due invocations are tried again
    await asyncio.sleep(0.15)
    assert server.sandboxes.calls == 1  # control: a stopped dispatcher starts nothing
    await server.dispatcher.resume()
    await server.dispatcher.resume()  # a second call has no effect
    for call in (held, later):
        await is_run(server, entry, call)


async def test_a_store_that_is_away_as_it_stops_or_begins_again_loses_nothing(
    server: Harness,
) -> None:
    entry, first, held = await one_held(server)
    with away(server.dispatcher.store, "release"):
        await server.dispatcher.stop()
    await end_one(server)
    await succeed(server, entry, first)
    with away(server.dispatcher.store, "load"), pytest.raises(StoreUnavailable):
        await server.dispatcher.resume()
    assert server.sandboxes.calls == 1
    await server.dispatcher.resume()
    await is_run(server, entry, held)


async def test_what_a_stopped_dispatcher_heard_stops_nothing_later(server: Harness) -> None:
    """An invocation arrives while the dispatcher is stopped. Another node claims it, and releases
    it for the next attempt.
    """
    entry = await server.active(max_instances=1)
    await server.dispatcher.stop()
    (call,) = await accept(server, entry, 1)
    assert await claimable(server, entry) == [call]
    await server.dispatcher.resume()
    await asyncio.sleep(0.05)
    await server.dispatcher.store.release([call], int(server.clock.time * 1000) + 1000)
    server.pass_time(2)
    await server.dispatcher.follow_waiting()
    await succeed(server, entry, call)


@promise("W2")
@pytest.mark.parametrize("why", ["pause", "memory"])
async def test_what_is_put_back_is_run_though_the_last_attempt_ends_meanwhile(
    server: Harness, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """A pause, or a lack of memory for claimed inputs, releases claims. The store is slow, so the
    function's last running attempt ends before the release is stored.
    """
    entry, _, held = await one_held(server)
    backlog = server.dispatcher._backlogs[entry.function.id]
    with held_up(server.work.store, "release") as release:
        if why == "pause":
            await server.lifecycle.pause(entry)
        else:
            monkeypatch.setattr(claims, "HELD_MAX_BYTES", 0)
            server.dispatcher._consider(backlog)
        await until(lambda: not backlog.held)
        await end_one(server)
        monkeypatch.undo()
        release.may_go_on.set()
        if why == "pause":
            await quiet(server)
            await server.lifecycle.resume(server.now(entry))
        await is_run(server, entry, held)


@pytest.mark.parametrize("is_made", [True, False])
async def test_work_is_run_once_though_nobody_knows_whether_it_was_claimed(
    server: Harness, is_made: bool
) -> None:
    entry = await server.active("cat")
    with silent(server.work.store, "claim", is_made=is_made) as claim:
        first, second = await accept(server, entry, 2)
        await until(lambda: claim.called)
        backlog = server.dispatcher._backlogs[entry.function.id]
        await until(lambda: not (backlog.claim or backlog.is_uncertain))
        server.pass_time(2.0)
        await succeed(server, entry, first, second)
    await quiet(server)
    assert server.sandboxes.calls == 2
    assert await statuses(server, entry, first) == [Status.SUCCESS]


@pytest.mark.parametrize("is_made", [True, False])
async def test_work_that_may_have_been_put_back_is_left_to_whoever_claims_it(
    server: Harness, is_made: bool
) -> None:
    """Another server may claim the invocation before this server knows whether the release was
    stored.
    """
    entry, _, held = await one_held(server)
    backlog, store = server.dispatcher._backlogs[entry.function.id], server.work.store
    with held_up(store, "release_others") as sure, silent(store, "release", is_made=is_made):
        with pytest.raises(OutcomeUnknown):
            await server.dispatcher.withdraw(held)
        await end_one(server)  # an instance is free now, but nothing may be started
        await until(lambda: server.dispatcher._in_doubt != set())
        assert (held in backlog.held, busy(server, entry)) == (False, 0)
        assert await claimable(server, entry) == ([held] if is_made else [])
        if is_made:
            await store.release([held])
        sure.may_go_on.set()
        await until(lambda: not backlog.is_uncertain)
        server.pass_time(2.0)
        await is_run(server, entry, held)
    await quiet(server)
    assert server.sandboxes.calls == 2


@promise("N90")
@pytest.mark.parametrize("error", [StoreUnavailable, OutcomeUnknown])
async def test_what_cannot_be_put_back_as_a_server_stops_is_put_back_later(
    server: Harness, error: type[Exception]
) -> None:
    """The server is being drained, which can take any time."""
    entry, running, held = await one_held(server)
    with patch.object(server.work.store, "release", side_effect=error):
        await server.dispatcher.stop()
    assert await claimable(server, entry) == []
    await server.dispatcher.follow_waiting()
    assert await claimable(server, entry) == [held]
    await server.work.store.release([held])
    await server.dispatcher.resume()
    for call in (running, held):
        await is_run(server, entry, call)
    await quiet(server)
    assert server.sandboxes.calls == 2


async def test_a_deleted_functions_work_is_never_run(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    await accept(server, entry, 3)
    await until(lambda: busy(server, entry) == 1)
    await server.lifecycle.delete(entry)
    await server.pools.end_running(entry.function.id, ExitKind.CANCELLED, "deleted")
    await until(lambda: server.dispatcher._backlogs == {})
    await quiet(server)
    assert server.sandboxes.calls == 1


async def test_waiting_work_is_cancelled_also_where_it_was_claimed(server: Harness) -> None:
    entry = await server.active("sleep 60", max_instances=1)
    await set_policy(server, entry, max_attempts=5)
    running, held, waits = await accept(server, entry, 3)
    await until(lambda: busy(server, entry) == 1)
    for call_id in (held, waits, running):
        async with asyncio.timeout(scaled(5)):
            record = await server.work.cancel(entry, call_id)
        assert record.status is Status.CANCELLED
    await quiet(server)
    server.pass_time(2.0)
    await quiet(server)
    assert server.sandboxes.calls == 1
    counts = await server.work.counts(entry)
    assert (counts.queued, counts.running, counts.dead_letters) == (0, 0, 0)


async def test_a_version_other_than_the_current_one_is_run(server: Harness) -> None:
    entry = await server.active("echo one")
    entry = await server.lifecycle.update(entry, {"handler": "echo two"})
    (old,) = await accept(server, entry, version=1)
    with pytest.raises(NotFound, match="the function has no version 7"):
        await accept(server, entry, version=7)
    record = await server.final(entry, old)
    assert (record.stdout, record.version) == (b"one\n", 1)


async def test_what_no_longer_fits_the_function_is_an_error_that_says_why(server: Harness) -> None:
    entry = await server.active(timeout_seconds=30)
    (call_id,) = await accept(server, entry, timeout_seconds=20, in_s=60)
    await server.lifecycle.update(entry, {"timeout_seconds": 10})
    server.pass_time(61.0)
    record = await server.final(entry, call_id)
    assert record.status is Status.ERROR
    assert "timeout_seconds" in (record.error_message or "")


async def test_a_store_that_does_not_answer_for_a_while_loses_and_doubles_nothing(
    server: Harness,
) -> None:
    entry = await server.active()

    async def over() -> bool:
        await asyncio.sleep(0.02)
        server.pass_time(1.1)
        server.dispatcher._look_again()
        records = [await server.work.record(entry, call) for call in ids]
        return all(record.is_final for record in records)

    store, every_other = server.work.store, itertools.cycle([StoreUnavailable(), DEFAULT])
    with patch.object(store, "claim", wraps=store.claim, side_effect=every_other):
        ids = await accept(server, entry, 5)
        await eventually(over)
    await succeed(server, entry, *ids)
    assert server.sandboxes.calls == 5


@promise("W13")
async def test_a_stop_puts_back_what_is_claimed_and_the_next_start_runs_it(tmp_path: Path) -> None:
    clock = ManualClock()
    async with open_harness(tmp_path, clock) as server:
        entry = await server.active("sleep 60", max_instances=1)
        await set_policy(server, entry, max_attempts=2, backoff=EXACT)
        ids = await accept(server, entry, 4)
        await until(lambda: busy(server, entry) == 1)
        await server.dispatcher.stop()
        counts = await server.work.counts(entry)
        assert (counts.queued, counts.running) == (3, 1)
    # The running invocation was interrupted when the server ended, and is due again after the delay
    # before a retry.
    clock.time += 11
    async with open_harness(tmp_path, clock) as server:
        entry = server.catalog.get(entry.function.id)
        for _ in ids:
            await end_one(server)
        await succeed(server, entry, *ids)
        await server.journal.synced()
        attempts = [await statuses(server, entry, call) for call in ids]
        interrupted = [Status.INTERRUPTED, Status.SUCCESS]
        assert sorted(attempts) == sorted([interrupted, *[[Status.SUCCESS]] * 3])


@pytest.mark.parametrize("durability", ["relaxed", "strict"])
async def test_a_thousand_pieces_are_each_run_once(tmp_path: Path, durability: str) -> None:
    async with open_harness(tmp_path, settings={"durability": durability}) as server:
        entry = await server.active("echo hello", max_instances=4)
        many = 1000 if durability == "relaxed" else 100
        accepted = await asyncio.gather(*(accept(server, entry) for _ in range(many)))
        for (call_id,) in accepted:
            await succeed(server, entry, call_id)
        assert server.sandboxes.calls == many
        await quiet(server)
        assert server.dispatcher._backlogs == {}
        assert server.dispatcher._claims._held_bytes == 0
        with contextlib.suppress(StoreUnavailable):
            counts = await server.work.counts(entry)
            assert (counts.queued, counts.running) == (0, 0)


async def test_metrics_count_attempts_dead_letters_and_what_waits(server: Harness) -> None:
    entry = await server.active("exit 3")
    before = figures()
    (call_id,) = await accept(server, entry)
    await server.final(entry, call_id)
    await accept(server, entry, 3, in_s=60)
    await quiet(server)
    await server.work.show_queues()
    assert figures() == (before[0] + 1, before[1] + 1, 3, 0)
    await server.lifecycle.pause(entry)
    server.clock.time += 70
    await server.work.show_queues()
    assert figures()[3] == pytest.approx(10, abs=0.1)


def figures() -> tuple[float, ...]:
    return (
        sample_value("quiltfn_work_attempts_total", {"status": "failed"}),
        sample_value("quiltfn_dead_letters_total", {"reason": "attempts"}),
        sample_value("quiltfn_queued_calls"),
        sample_value("quiltfn_queue_oldest_due_seconds"),
    )
