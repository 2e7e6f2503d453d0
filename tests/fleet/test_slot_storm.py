"""No more instances than the maximum, counted from outside, whatever happens to nodes."""

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import postgresql
from contract.stores import a_stored_function, on_postgresql, url_of
from fleet.slot_storm import REAP_S, TIMES, Storm, name
from promises import promise
from quiltfn.model.function import Function
from timeouts import scaled

pytestmark = promise("N10")

MOST, FUNCTIONS = 3, 2
STORM_S = 25.0


@pytest.fixture(autouse=True)
def _no_databases_left() -> Iterator[None]:
    yield
    postgresql.drop_databases()


@pytest.fixture
def functions(tmp_path: Path) -> list[Function]:
    async def made() -> list[Function]:
        async with on_postgresql(tmp_path) as store:
            return [await a_stored_function(store, max_instances=MOST) for _ in range(FUNCTIONS)]

    return asyncio.run(made())


def until(true: Callable[[], bool], within_s: float) -> None:
    end = time.monotonic() + scaled(within_s)
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_a_fault_storm_never_exceeds_the_maximum(functions: list[Function], tmp_path: Path) -> None:
    """Random kills and stops of nodes, and ended connections, for half a minute."""
    dice = random.Random()
    storm = Storm(tmp_path, url_of(tmp_path), functions, MOST)
    wake: dict[int, float] = {}
    with storm.running(), psycopg.connect(postgresql.running().admin_url(), autocommit=True) as db:
        until(lambda: storm.calls > 0, 20)
        end = time.monotonic() + STORM_S
        while time.monotonic() < end:
            node, fault = dice.randrange(storm.nodes), dice.random()
            if fault < 0.2 and node not in wake:
                storm.kill(node)
            elif fault < 0.5 and node not in wake and len(wake) < 2:
                storm.signal(node, signal.SIGSTOP)
                wake[node] = time.monotonic() + dice.choice((0.3, 1.0, 2.5, REAP_S + 2))
            elif fault < 0.7:
                db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname LIKE 'of_%%' AND random() < 0.5"
                )
            for stopped, at in list(wake.items()):
                if time.monotonic() >= at:
                    del wake[stopped]
                    storm.signal(stopped, signal.SIGCONT)
            storm.restart_ended()
            time.sleep(dice.random() * 0.5)
        for stopped in wake:
            storm.signal(stopped, signal.SIGCONT)
        before = storm.calls
        until(lambda: storm.calls > before + 20, 20)  # it has survived all of that
        until(lambda: len(storm.worked) == storm.nodes, 20)
    assert storm.exceeded == 0, (
        f"{storm.exceeded} of {storm.samples} samples, up to {storm.most_seen}"
    )
    assert storm.most_seen == MOST, "it was never at its maximum"
    assert storm.taken_over > 0
    print(f"{storm.samples} samples, {storm.calls} calls, {storm.taken_over} take-overs")


@pytest.mark.parametrize("holds_deadline", [True, False])
def test_a_stopped_node_s_instances_end_before_others_have_its_slots(
    functions: list[Function], tmp_path: Path, holds_deadline: bool
) -> None:
    """Negative control: without the deadline they would exist beside those of other nodes."""
    storm = Storm(tmp_path, url_of(tmp_path), functions, MOST, holds_deadline=holds_deadline)
    with storm.running():
        until(lambda: storm.calls > 20, 20)
        holder = "SELECT 1 FROM slot WHERE held #>> ARRAY[%s, 'count'] > '0'"
        with psycopg.connect(storm.url, autocommit=True) as db:
            stopped: int | None = None

            def has_stopped_a_holder() -> bool:
                nonlocal stopped
                for node in range(storm.nodes):
                    if db.execute(holder.encode(), (name(node),)).fetchone():
                        storm.signal(node, signal.SIGSTOP)
                        if db.execute(holder.encode(), (name(node),)).fetchone():
                            stopped = node
                            return True
                        storm.signal(node, signal.SIGCONT)  # it gave them up just before
                return False

            until(has_stopped_a_holder, 20)
        assert stopped is not None
        time.sleep(TIMES.end_s)
        until(lambda: storm.taken_over > 0, REAP_S + 5)
        if holds_deadline:
            time.sleep(3)
        else:
            until(lambda: storm.exceeded > 0, 10)
        storm.signal(stopped, signal.SIGCONT)
        time.sleep(1)
    assert (storm.exceeded == 0) is holds_deadline, storm.most_seen
