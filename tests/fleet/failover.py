"""Failovers of PostgreSQL: the primary is lost, the test promotes its standby, and the nodes go on
there by a URL that names both.

Clients call 200 times a second behind a balancer, queue work, have schedules fire, and change
functions. Afterwards what they were told is compared with what the new primary has, as by storm.py.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import httpx

from e2e.history import judge
from e2e.storms import Load, look
from e2e.work_history import judge_work
from e2e.work_load import Witness, WorkLoad, witness
from fleet.balancer import Balancer, Calls
from fleet.machines import FleetMachine, Machines, machines
from fleet.matrix import DEFAULT_TIMES, RATE, Figure, Matrix
from fleet.replicated import replicated

CALLERS, QUEUERS = 3, 3
CLIENT_TIMEOUT_S = 20.0
BEFORE_S, NOTICED_S, AFTER_S, SETTLE_S = 5.0, 1.0, 15.0, 5.0
BACK_WITHIN_S = 60.0


@dataclass
class Changes:
    """Changes a function at a node all the time. `ends`: when each answer came, and its status."""

    it: Matrix
    node: FleetMachine
    path: str
    ends: list[tuple[float, int]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        turn = 0
        while not self._stop.wait(0.05):
            turn += 1
            try:
                body = {"description": f"{self.node.name} {turn}"}
                status = self.it.ask(self.node, "PUT", self.path, body).status_code
            except httpx.HTTPError:
                status = 0
            self.ends.append((time.monotonic(), status))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def back_s(self, since: float) -> float:
        """How long after that time the first one was taken of those that go on to be taken."""
        refused = [at for at, status in self.ends if status != 200 and at > since]
        behind = max(refused, default=since)
        return min((at for at, status in self.ends if at > behind and status == 200)) - since


@dataclass
class Drill:
    """Clients of a fleet before, during and after a failover."""

    it: Matrix
    seen: Witness

    def play(self, failure: str, happens: Callable[[], float]) -> None:
        """`happens`: the failover; returns when the standby was promoted."""
        fleet = self.it.fleet
        load = Load(fleet, CALLERS, 3, CLIENT_TIMEOUT_S, may_come_late=True)
        work = WorkLoad(fleet, load.ask, instances=1, settle_s=SETTLE_S)
        functions = [fleet.deploy("true", max_instances=1) for _ in fleet.nodes]
        called = fleet.deploy("true", max_instances=6)
        load.start(int(time.time()))
        work.start(int(time.time()), load.called, QUEUERS)
        changes = [
            Changes(self.it, *one)
            for one in zip(fleet.nodes, (one.path for one in functions), strict=True)
        ]
        try:
            with (
                Balancer(fleet.nodes) as balancer,
                Calls(balancer, f"{called.path}/invoke", RATE) as calls,
            ):
                time.sleep(BEFORE_S)
                began = time.monotonic()
                promoted = happens()
                time.sleep(AFTER_S)
        finally:
            for changing in changes:
                changing.stop()
            load.stop()
            work.stop()
        ready_s = self.it.are_ready()
        found = work.look(self.seen)
        work_verdict = judge_work(work.history, self.seen.runs(), found)
        verdict = judge(load.history, look(load))
        back_s = max(one.back_s(promoted) for one in changes)
        seen = (
            f"management works at every node {back_s:.1f} s after the promotion "
            f"({promoted - began:.1f} s after the loss), all ready {ready_s:.1f} s after the load; "
            f"{sum(calls.ends.values())} calls at {calls.rate:.0f} a second, failed "
            f"{len(calls.failed)}, slowest {calls.slowest_s * 1000:.0f} ms; "
            f"{load.history.acknowledged()} other calls, {work.accepted} accepted, {work.ticks} "
            f"ticks; {verdict}; {work_verdict}"
        )
        is_kept = verdict.is_clean and work_verdict.is_clean and not calls.failed
        self.it.tell(failure, seen, "nothing lost, nothing twice, 20 s", is_kept and back_s < 20)
        failed = {one.split(" ")[0] + " " + one.split(" ")[1] for one in calls.failed}
        print(f"       {dict(load.codes)}")
        for example in (*sorted(failed)[:5], *verdict.examples, *work_verdict.examples):
            print(f"       {example}")


def killed(fleet: Machines) -> float:
    fleet.pair.primary.kill()
    return promoted(fleet)


def cut_off(fleet: Machines) -> float:
    """Nobody reaches the primary any more, which goes on."""
    fleet.unplug(fleet.pair.primary.machine)
    return promoted(fleet)


def promoted(fleet: Machines) -> float:
    time.sleep(NOTICED_S)
    fleet.pair.promote()
    return time.monotonic()


ROWS = {
    "failover": ("PostgreSQL's primary killed, its standby promoted", killed),
    "failover-silent": ("PostgreSQL's primary cut off, its standby promoted", cut_off),
}


def play(names: Collection[str]) -> list[Figure]:
    """The rows of these names; every row where there are none."""
    wanted = {name: row for name, row in ROWS.items() if not names or name in names}
    return [one for failure, how in wanted.values() for one in played(failure, how)]


def played(failure: str, how: Callable[[Machines], float]) -> list[Figure]:
    """One row, with a fleet of its own."""
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(witness())
        make = {"crun": str(seen.crun)}
        fleet = stack.enter_context(
            machines(DEFAULT_TIMES, make=lambda _root, _name: make, store=replicated)
        )
        it = Matrix(fleet)
        Drill(it, seen).play(failure, lambda: how(fleet))
        it.threads.shutdown()
    return it.figures
