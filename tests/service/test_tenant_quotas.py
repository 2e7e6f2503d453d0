"""Quotas of tenants and statistics, on a platform with fake sandboxes."""

import asyncio
import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from promises import promise
from quiltfn.functions.catalog import Entry
from quiltfn.model.end_cause import BY
from quiltfn.model.errors import RateLimited
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.schedule import Missed, Schedule
from quiltfn.model.stats import DAY_S, FINEST_S, floor_to
from quiltfn.model.tenant_quota import TenantQuota
from quiltfn.model.url import Auth, FunctionUrl
from quiltfn.model.work import AsyncPolicy, Destination
from quiltfn.ports.work import Input
from quiltfn.store.calls.spool import Spool
from service.platform_harness import TENANT, Harness, open_harness, until
from service.served import served
from timeouts import scaled

pytestmark = promise("A70")


async def used_today(harness: Harness) -> float:
    await harness.journal.synced()
    return await harness.services.quotas.gb_seconds_today(TENANT)


async def limit(harness: Harness, **quota: Any) -> None:
    """Sets the tenant's quota."""
    await harness.services.quotas.set(TENANT, TenantQuota(**quota))


async def gibibyte(harness: Harness) -> Entry:
    """A function whose invocations use one GB-second each second."""
    return await harness.active("sleep 0.05", memory_limit_mb=1024)


async def ended_call(harness: Harness, entry: Entry, seconds: float = 1) -> None:
    """Runs an invocation of this duration, without waiting until its record is committed."""
    call = await harness.running(entry)
    harness.clock.time += seconds
    await call


async def used_for(harness: Harness, entry: Entry, seconds: float = 1) -> None:
    """Runs an invocation of this duration, and waits until its use is counted."""
    await ended_call(harness, entry, seconds)
    await harness.journal.synced()


def admits(harness: Harness) -> bool:
    """Whether the tenant may invoke functions now."""
    with contextlib.suppress(RateLimited), harness.services.admission.call(TENANT):
        return True
    return False


async def refused(harness: Harness) -> None:
    """Waits until the tenant's invocations are refused, and checks that they stay refused."""
    await until(lambda: not admits(harness))
    assert not admits(harness)


async def test_a_limit_of_calls_in_flight_holds_for_its_tenant_alone(server: Harness) -> None:
    await server.services.quotas.set("acme", TenantQuota(calls_in_flight=1))
    admission = server.services.admission
    with admission.call("acme"):
        with pytest.raises(RateLimited, match="1 invocations in flight"):
            admission.call("acme")
        with admission.call("umbrella"), admission.call("umbrella"):
            pass
    await server.services.quotas.set("acme", TenantQuota())
    with admission.call("acme"), admission.call("acme"):
        pass


@promise("A41")
async def test_an_invocation_whose_caller_left_gives_way_at_the_limit(server: Harness) -> None:
    """At the limit, a new invocation replaces one whose caller has left and which waits for an
    instance. Others stay: running ones, those with a waiting caller, those that may be repeated by
    their key, and other tenants'. Below the limit, abandoned invocations continue.
    """
    await limit(server, calls_in_flight=5)
    entry, admission = (
        await server.active("sleep 60", max_instances=1),
        server.services.admission,
    )
    left, there = SimpleNamespace(is_abandoned=True), SimpleNamespace(is_abandoned=False)

    async def invoke(client: Any) -> Invocation:
        with admission.call(TENANT):
            return await server.invoke(entry, client=client)

    running, waited, again, first, second = calls = [
        asyncio.ensure_future(invoke(client)) for client in (left, there, None, left, left)
    ]
    await asyncio.sleep(scaled(0.05))
    assert not any(call.done() for call in calls), "nobody needed their places"
    assert not server.invoker.give_way("acme")
    with admission.call(TENANT), admission.call(TENANT):
        with pytest.raises(RateLimited, match="5 invocations in flight"):
            admission.call(TENANT)
        for call in (first, second):
            record = await call
            assert (record.status, record.error_message) == (Status.CANCELLED, BY["gave_way"])
        assert not any(call.done() for call in (running, waited, again))
    for call in (running, waited, again):
        call.cancel()
    await asyncio.wait((running, waited, again))


@promise("A41")
@pytest.mark.parametrize("path", ["/api/functions/{id}/invoke", "/fn/f"])
async def test_an_invocation_gives_way_once_its_client_left(tmp_path: Path, path: str) -> None:
    async with open_harness(tmp_path) as harness, served(harness) as port:
        await limit(harness, calls_in_flight=2)
        entry = await harness.active("sleep 60", max_instances=1)
        function_id = entry.function.id
        await harness.services.urls.set(entry, FunctionUrl(auth=Auth.NONE))
        head = f"POST {path.format(id=function_id)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        with contextlib.ExitStack() as clients:
            for count in (1, 2):  # The second invocation waits for the instance.
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                clients.callback(writer.close)
                writer.write(f"{head}Content-Length: 0\r\n\r\n".encode())
                await until(lambda: harness.invoker.running == count)  # noqa: B023 — it is awaited
            assert not admits(harness)

        def has_room() -> bool:
            harness.clock.time += 1  # The server does not search the same tenant again at once.
            return admits(harness)

        await until(has_room)
        await until(lambda: harness.invoker.running == 1)
        (running,) = harness.invoker.running_calls(function_id)
        await harness.invoker.cancel(function_id, running.record.invocation_id)
        said = [record.error_message for record in await harness.records(entry)]
        assert sorted(map(str, said)) == sorted([BY["gave_way"], BY["request"]])


async def test_calls_a_second(server: Harness) -> None:
    await server.services.quotas.set("acme", TenantQuota(calls_per_second=2))
    admission = server.services.admission
    for _ in range(2):
        with admission.call("acme"):
            pass
    with pytest.raises(RateLimited, match="2 invocations per second"):
        admission.call("acme")
    server.clock.time += 0.5
    with admission.call("acme"):
        pass


async def test_a_day_s_gb_seconds_end_with_it_and_survive_a_restart(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await gibibyte(harness)
        await limit(harness, gb_seconds_per_day=2)
        admission = harness.services.admission
        for _ in range(2):
            with admission.call(TENANT):
                await used_for(harness, entry, 1)
        assert await used_today(harness) == pytest.approx(2, rel=0.1)
        with pytest.raises(RateLimited, match=r"2\.\d GB-seconds today") as refused:
            admission.call(TENANT)
        left = DAY_S - int(harness.clock.time) % DAY_S
        assert refused.value.retry_after == left
        with admission.call("umbrella"):
            pass
        clock = harness.clock
    async with open_harness(tmp_path, clock) as harness:
        assert not admits(harness)
        assert await used_today(harness) == pytest.approx(2, rel=0.1)
        clock.time += left
        assert admits(harness)
        assert await used_today(harness) == 0


async def test_a_clock_set_and_set_back_gives_no_day_s_use_again(tmp_path: Path) -> None:
    """The wrong clock must not reset the use of the day, with or without a restart while the clock
    is wrong.
    """
    async with open_harness(tmp_path) as harness:
        entry = await gibibyte(harness)
        await limit(harness, gb_seconds_per_day=2)
        await used_for(harness, entry, 3)
        await refused(harness)
        for days in (1, -9):
            harness.clock.time += days * DAY_S
            with harness.services.admission.call(TENANT):
                await used_for(harness, entry, 1)
            harness.clock.time -= days * DAY_S
            await refused(harness)
            assert await used_today(harness) == pytest.approx(3, rel=0.1)
        clock = harness.clock
        clock.time += DAY_S
    async with open_harness(tmp_path, clock) as harness:
        assert await used_today(harness) == pytest.approx(1, rel=0.1)
        assert admits(harness)
        clock.time -= DAY_S
        await refused(harness)


async def test_what_ends_behind_midnight_counts_for_the_new_day(server: Harness) -> None:
    entry = await gibibyte(server)
    await limit(server, gb_seconds_per_day=2)
    server.clock.time += DAY_S - server.clock.time % DAY_S - 1
    await used_for(server, entry, 4)
    await refused(server)
    assert await used_today(server) == pytest.approx(4, rel=0.1)


async def test_the_setting_limits_every_tenant_also_after_a_restart(tmp_path: Path) -> None:
    settings = {"tenant_gb_seconds_per_day": 1.0}
    async with open_harness(tmp_path, settings=settings) as harness:
        entry = await gibibyte(harness)
        await used_for(harness, entry, 2)
        await refused(harness)
        # The tenant's own quota replaces the default one.
        await limit(harness, gb_seconds_per_day=0)
        assert admits(harness)
        await limit(harness)
        clock = harness.clock
    async with open_harness(tmp_path, clock, settings=settings) as harness:
        assert not admits(harness)


async def test_what_instances_used_is_in_the_statistics_once(tmp_path: Path) -> None:
    """The statistics count an instance once, whether they are read while it runs or after its
    end.
    """
    async with open_harness(tmp_path) as harness:
        entry = await harness.active(min_instances=1)
        await harness.invoke(entry)
        (sandbox,) = harness.sandboxes.alive.values()
        sandbox.cpu_us, sandbox.blocked = 700, 2
        await harness.pools.meter()
        await harness.pools.meter()
        assert used(harness) == (700, 2)
        sandbox.cpu_us, sandbox.blocked = 1000, 3
        await harness.lifecycle.delete(entry)
        await until(lambda: not harness.sandboxes.alive)
        harness.clock.time += 10
        for _ in range(50):
            await asyncio.sleep(0)
        total = used(harness)
    assert total == (300, 1)


def used(harness: Harness) -> tuple[int, int]:
    found = harness.pools.take_use().values()
    return sum(one.cpu_us for one in found), sum(one.egress_refused for one in found)


async def test_what_was_used_is_stored_at_the_end_of_the_server(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await harness.active(min_instances=1)
        await harness.invoke(entry)
        (sandbox,) = harness.sandboxes.alive.values()
        sandbox.cpu_us = 1234
        clock = harness.clock
    async with open_harness(tmp_path, clock) as harness:
        start = floor_to(FINEST_S, int(clock.time)) - DAY_S
        sums = await harness.services.stats.usage(TENANT, (start, start + 2 * DAY_S), DAY_S)
        assert sum(one.cpu_us for one in sums.values()) == 1234
        assert sum(one.count for one in sums.values()) == 1


class Reads:
    """Wraps the store's reads. `before`, `after`: called before and after the first read."""

    def __init__(self, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self.harness, self.done = harness, 0
        self._read = harness.store.database.read
        monkeypatch.setattr(harness.store.database, "read", self.read)

    async def before(self) -> None:
        pass

    async def after(self) -> None:
        pass

    async def read(self, work: Any) -> Any:
        if self.done == 0:
            await self.before()
        found = await self._read(work)
        self.done += 1
        await self.after()
        return found


async def counted_and_stored(harness: Harness) -> tuple[float, float]:
    """Today's GB-seconds: as counted for the limit, and as in the statistics."""
    counted = await used_today(harness)
    day = floor_to(DAY_S, int(harness.clock.time))
    found = await harness.services.stats.usage(TENANT, (day, day + DAY_S), DAY_S)
    return counted, sum(one.gb_seconds for one in found.values())


@pytest.mark.parametrize("late_s", [0, 300])
async def test_a_commit_while_a_new_limit_s_use_is_read_is_counted(
    server: Harness, monkeypatch: pytest.MonkeyPatch, late_s: int
) -> None:
    """`late_s`: how long the record has waited for its commit, as if the store was unavailable."""
    entry = await gibibyte(server)
    await used_for(server, entry)
    if late_s:
        await ended_call(server, entry)
        server.clock.time += late_s
    reads = Reads(server, monkeypatch)

    async def after() -> None:
        if reads.done == 4:  # one read for each step of time
            if not late_s:
                await ended_call(server, entry)
            await server.journal.synced()

    monkeypatch.setattr(reads, "after", after)
    await limit(server, gb_seconds_per_day=100)
    counted, stored = await counted_and_stored(server)
    assert reads.done >= 4
    assert counted == stored == pytest.approx(2, rel=0.1)


async def test_a_commit_that_was_read_and_is_told_of_later_is_counted_once(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = await gibibyte(server)
    committed, may_tell = threading.Event(), threading.Event()
    clear = Spool.clear

    def late(spool: Spool) -> None:
        """Runs in the writer's thread, between a commit and its report to the event loop."""
        committed.set()
        may_tell.wait(scaled(10))
        clear(spool)

    await server.journal.synced()
    reads = Reads(server, monkeypatch)

    async def before() -> None:
        await ended_call(server, entry)
        monkeypatch.setattr(Spool, "clear", late)
        server.tasks.append(asyncio.ensure_future(server.journal.synced()))
        await until(committed.is_set, 10_000)

    async def after() -> None:
        if reads.done == 4:
            may_tell.set()

    monkeypatch.setattr(reads, "before", before)
    monkeypatch.setattr(reads, "after", after)
    await limit(server, gb_seconds_per_day=100)
    counted, stored = await counted_and_stored(server)
    assert counted == stored == pytest.approx(1, rel=0.1)


async def use_up(harness: Harness, entry: Entry) -> None:
    """Makes the tenant use up its quota of the day."""
    await used_for(harness, entry)
    await limit(harness, gb_seconds_per_day=0.5)
    assert harness.services.admission.day_refusal(TENANT) is not None


async def queued_call(harness: Harness, entry: Entry) -> str:
    return (await harness.work.accept(entry, Input(may_write=True))).invocation_id


async def looked(harness: Harness) -> None:
    """Waits until the dispatcher has checked the waiting invocations twice."""
    for _ in range(2):
        harness.dispatcher._look_again()
        await until(lambda: not harness.dispatcher._is_pumping)
        await until(lambda: not harness.dispatcher._tasks)


@pytest.mark.parametrize("end", ["day", "quota"])
async def test_queued_work_waits_while_the_day_is_used_up(server: Harness, end: str) -> None:
    entry = await gibibyte(server)
    policy = AsyncPolicy(max_age_seconds=2 * DAY_S)
    await server.work.policies.set_policy(entry.function.id, policy)
    await use_up(server, entry)
    calls = server.sandboxes.calls
    waits = await queued_call(server, entry)
    await looked(server)
    assert (await server.work.record(entry, waits)).status is Status.QUEUED
    assert server.sandboxes.calls == calls
    if end == "quota":
        await limit(server, gb_seconds_per_day=10)
    else:
        server.pass_time(DAY_S - int(server.clock.time) % DAY_S)
    assert (await server.final(entry, waits)).status is Status.SUCCESS


async def test_work_queued_too_long_for_the_next_day_is_a_dead_letter(server: Harness) -> None:
    entry = await gibibyte(server)
    policy = AsyncPolicy(max_age_seconds=60)
    await server.work.policies.set_policy(entry.function.id, policy)
    await use_up(server, entry)
    calls = server.sandboxes.calls
    waits = await queued_call(server, entry)
    server.pass_time(DAY_S)
    assert (await server.final(entry, waits)).status is Status.ERROR
    (dead,) = (await server.work.dead_letters(entry, 10, None)).items
    assert (dead.invocation_id, dead.reason) == (waits, "age")
    assert server.sandboxes.calls == calls


async def test_a_tick_is_skipped_with_the_reason_while_the_day_is_used_up(server: Harness) -> None:
    entry = await gibibyte(server)
    schedules = server.services.schedules
    named: dict[str, Any] = {"id": "", "tenant_id": "", "function_id": "", "name": "n"}
    hourly = Schedule(**named, every_seconds=3600, missed=Missed.RUN_ONCE)
    await schedules.create(TENANT, "f", hourly)
    await use_up(server, entry)
    server.clock.time += 3600
    await schedules.fire_due()
    (run,) = (await schedules.runs(TENANT, "n", None, 10)).items
    assert (run.outcome, run.missed, run.invocation_id) == ("skipped", 0, None)
    assert "GB-seconds today" in (run.reason or "")
    assert (await schedules.get(TENANT, "n")).schedule.skipped_count == 1
    # Missed runs are not made up for; the next runs are started once the quota has room again.
    await limit(server)
    await schedules.fire_due()
    server.clock.time += 3600
    await schedules.fire_due()
    runs = (await schedules.runs(TENANT, "n", None, 10)).items
    assert [one.outcome for one in runs] == ["accepted", "skipped"]


async def test_work_for_a_destination_waits_while_the_day_is_used_up(server: Harness) -> None:
    entry = await gibibyte(server)
    target = await server.active(name="told")
    policy = AsyncPolicy(on_success=Destination(function="told"))
    await server.work.policies.set_policy(entry.function.id, policy)
    await limit(server, gb_seconds_per_day=1e-9)
    first = await queued_call(server, entry)
    server.sandboxes.may_end.clear()
    await until(lambda: server.pools.counts(entry.function.id).busy)
    server.clock.time += 1
    server.sandboxes.may_end.set()
    assert (await server.final(entry, first)).status is Status.SUCCESS

    await until(lambda: target.function.id in server.dispatcher._backlogs)
    await looked(server)
    waits = await server.records(target)
    assert [one.status for one in waits] == [Status.QUEUED]
    await limit(server)
    assert (await server.final(target, waits[0].invocation_id)).status is Status.SUCCESS
