"""Failovers of PostgreSQL: the primary is lost, the test promotes the standby, and the nodes
continue with the standby, since their URL names both.

Clients invoke 200 times a second behind a balancer, queue invocations, run schedules, and change
functions. Afterwards, their responses are compared with the data of the new primary, as in
storm.py.
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
from fleet.replicated import replicated, statement

CALLERS, QUEUERS = 6, 4
CLIENT_TIMEOUT_S = 20.0
BEFORE_S, NOTICED_S, AFTER_S, SETTLE_S = 5.0, 1.0, 30.0, 5.0
CONNECTED = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = %s::inet"


@dataclass
class Changes:
    """Changes a function at one node continuously. `ends`: the time and the status of each
    response.
    """

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
        """The time from `since` until no further change is refused."""
        refused = [at for at, status in self.ends if status != 200 and at > since]
        behind = max(refused, default=since)
        return min((at for at, status in self.ends if at > behind and status == 200)) - since


@dataclass
class Drill:
    """Clients of a fleet before, during and after a failover."""

    it: Matrix
    seen: Witness

    def play(self, failure: str, happens: Callable[[], float], within_s: float) -> None:
        """`happens`: makes the failover, and returns the time at which the standby was promoted.
        `within_s`: the time after the promotion in which management must work again.
        """
        fleet = self.it.fleet
        load = Load(fleet, CALLERS, 3, CLIENT_TIMEOUT_S, may_come_late=True)
        work = WorkLoad(fleet, load.ask, instances=1, settle_s=SETTLE_S)
        functions = [fleet.deploy("true", max_instances=1) for _ in fleet.nodes]
        called = fleet.deploy("true", max_instances=6)
        changes: list[Changes] = []
        try:
            load.start(int(time.time()))
            work.start(int(time.time()), load.called, QUEUERS)
            for node, function in zip(fleet.nodes, functions, strict=True):
                changes.append(Changes(self.it, node, function.path))
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
        bound = f"nothing lost, nothing twice, {within_s:g} s"
        self.it.tell(failure, seen, bound, is_kept and back_s < within_s)
        failed = {one.split(" ")[0] + " " + one.split(" ")[1] for one in calls.failed}
        print(f"       {dict(load.codes)}")
        for example in (*sorted(failed)[:5], *verdict.examples, *work_verdict.examples):
            print(f"       {example}")


def killed(fleet: Machines) -> float:
    fleet.pair.primary.kill()
    return promoted(fleet)


def cut_off(fleet: Machines) -> float:
    """Cuts all nodes off from the primary, which continues to run."""
    fleet.unplug(fleet.pair.primary.machine)
    return promoted(fleet)


def split(fleet: Machines) -> float:
    """Cuts all nodes but one off from the primary, which still accepts connections of that node."""
    pair, name = fleet.pair, fleet.nodes[0].name
    for other in (pair.replica.machine, *(node.name for node in fleet.nodes[1:])):
        fleet.cut_both(pair.primary.machine, other)
    at = promoted(fleet)
    assert statement(pair.replica, CONNECTED, fleet.network.address(name))[0][0], "it has gone on"
    return at


def promoted(fleet: Machines) -> float:
    time.sleep(NOTICED_S)
    fleet.pair.promote()
    return time.monotonic()


ROWS = {
    "failover": ("PostgreSQL's primary killed, its standby promoted", killed, 10.0),
    "failover-split": ("PostgreSQL's primary cut off from all nodes but one", split, 30.0),
    "failover-silent": ("PostgreSQL's primary cut off, its standby promoted", cut_off, 20.0),
}


def play(names: Collection[str]) -> list[Figure]:
    """Runs the rows with these names; without names, all rows."""
    wanted = {name: row for name, row in ROWS.items() if not names or name in names}
    return [one for row in wanted.values() for one in played(*row)]


def played(failure: str, how: Callable[[Machines], float], within_s: float) -> list[Figure]:
    """Runs one row with its own fleet."""
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(witness())
        make = {"crun": str(seen.crun)}
        fleet = stack.enter_context(
            machines(DEFAULT_TIMES, make=lambda _root, _name: make, store=replicated)
        )
        it = Matrix(fleet)
        Drill(it, seen).play(failure, lambda: how(fleet), within_s)
        it.threads.shutdown()
    return it.figures
