"""Injects faults into a fleet under load, and checks its history afterwards (e2e/history.py,
e2e/work_history.py), as `scripts/soak storms` does with one server.

The fleet has three nodes, a PostgreSQL and a synchronous standby, each in its own network
namespace. Clients send requests to random nodes: invocations (some of them asynchronous),
schedules, cancellations, redrives, and changes of functions. Every few seconds there is a fault
(faults.py): processes are killed and stopped; nodes are separated from each other and from the
database; the database is restarted, made read-only, failed over, and loses its connections; clocks
jump. Instances are counted, and the handlers' notes are read, from outside of the fleet.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from e2e.history import Verdict, judge
from e2e.rebooting import FLEET_MISTAKES
from e2e.storms import HERE, Load, look
from e2e.work_history import WorkVerdict, judge_work
from e2e.work_load import WorkLoad, witness
from fleet import failover, matrix
from fleet.faults import Faults
from fleet.freshness import Freshness
from fleet.machines import FleetMachine, Machines, machines, with_a_clock
from fleet.replicated import replicated
from fleet.sampler import Bounds, homes_of, sampled, sandboxes
from timeouts import scaled

CALLERS, QUEUERS = 12, 10
INSTANCES, QUEUED_INSTANCES = 3, 1
CLIENT_TIMEOUT_S = 3.0
READY_WITHIN_S = 40.0
CALM_S = 8.0  # how many seconds the load continues after the last fault
# If a node was lost before it recorded an invocation, the forwarding node records it half a minute
# after the lost node is back.
SETTLE_S = 35.0


@dataclass
class Report:
    seconds: float
    fleet: Machines
    faults: Faults
    load: Load
    work: WorkLoad
    bounds: Bounds
    freshness: Freshness
    ready_after_s: float
    verdict: Verdict
    work_verdict: WorkVerdict

    @property
    def is_clean(self) -> bool:
        is_kept = self.verdict.is_clean and self.work_verdict.is_clean
        is_fresh = not self.freshness.stale_there and not self.freshness.late
        return is_kept and is_fresh and not self.bounds.exceeded

    @property
    def lives(self) -> list[str]:
        """For each node: when each of its servers was ready, and the server's id."""
        return [f"{one.name}: {' '.join(one.lives)}" for one in self.fleet.nodes]

    @property
    def examples(self) -> list[str]:
        found = [*self.verdict.examples, *self.work_verdict.examples]
        return [*found, *self.bounds.examples, *self.freshness.examples]

    def __str__(self) -> str:
        load, work, bounds, fresh = self.load, self.work, self.bounds, self.freshness
        faults = ", ".join(f"{what} {count}" for what, count in sorted(self.faults.counts.items()))
        codes = ", ".join(f"{what} {count}" for what, count in sorted(load.codes.items()))
        starts = ", ".join(f"{one.name} {one.starts}" for one in self.fleet.nodes)
        most = ", ".join(f"{bounds.seen[mib]} of {most}" for mib, most in bounds.most.items())
        return (
            f"fleet, {self.seconds:.0f} s: {load.history.acknowledged()} sync, "
            f"{work.accepted} accepted, {work.cancels} cancels, {work.redrives} redrives, "
            f"{work.ticks} ticks, {work.attempts} attempts\n"
            f"  {faults}\n  starts: {starts}; all were ready {self.ready_after_s:.1f} s after the "
            f"last fault\n  {codes}\n"
            f"  instances at a time, of the most: {most}; {bounds.samples} samples, exceeded "
            f"{bounds.exceeded}\n"
            f"  {fresh.changes} changes: stale where they were acknowledged {fresh.stale_there}, "
            f"elsewhere later than 1 s {fresh.late}, slowest {fresh.slowest_s * 1000:.0f} ms; "
            f"slow answers {fresh.slow}\n"
            f"  {self.verdict}\n  {self.work_verdict}"
        )


def node_options(crun: str, mistake: str, root: Path, name: str) -> dict[str, Any]:
    """The arguments of `FleetMachine`: either a clock that can be set or, in a negative control, a
    planted bug.
    """
    if mistake == "none":
        return {"crun": crun, **with_a_clock(root, name)}
    boot_id = root / f"boot-{name}"
    boot_id.write_text("boot\n")
    program = [sys.executable, str(HERE / "rebooting.py"), str(boot_id), mistake]
    return {"crun": crun, "program": program}


def play(seconds: float, seed: int, mistake: str = "none") -> Report:
    """Runs one storm; returns the result of checking its history. `mistake`: one of
    `FLEET_MISTAKES`, a bug with which the nodes run.
    """
    with ExitStack() as stack:
        seen = stack.enter_context(witness())
        make = partial(node_options, str(seen.crun), mistake)
        fleet = stack.enter_context(machines(make=make, store=replicated))
        load = Load(fleet, CALLERS, INSTANCES, CLIENT_TIMEOUT_S, may_come_late=True)
        work = WorkLoad(fleet, load.ask, instances=QUEUED_INSTANCES, settle_s=SETTLE_S)
        if mistake != "none":  # a short wait is enough to find the bug
            work.over_s, work.settle_s = 20.0, 1.0
        faults = Faults(fleet, random.Random(seed))
        bounds, freshness = Bounds(), Freshness(fleet, faults.was_calm)
        bounds.most = fleet.instances
        load.start(seed)
        try:
            work.start(seed, load.called, QUEUERS)
            freshness.start()
            began = time.monotonic()
            with sampled(bounds.count, counted(fleet, faults)):
                try:
                    faults.play(began + seconds)
                finally:
                    faults.end_all()
                seconds, healed_at = time.monotonic() - began, time.monotonic()
                ready_after_s = wait_until_ready(fleet, healed_at)
                time.sleep(CALM_S)
                stop_all(freshness, load, work)
        finally:
            stop_all(freshness, load, work)
        found = work.look(seen)
        work_verdict = judge_work(work.history, seen.runs(), found)
        verdict = judge(load.history, look(load))
    within = seconds, fleet, faults, load, work, bounds, freshness
    return Report(*within, ready_after_s, verdict, work_verdict)


def stop_all(*clients: Freshness | Load | WorkLoad) -> None:
    for client in clients:
        client.stop()


def counted(fleet: Machines, faults: Faults) -> Any:
    """Returns a function that finds the sandboxes to count: those of each server that a node has
    had, except at nodes whose instances may live too long.
    """
    lives: dict[str, set[str]] = {one.name: set() for one in fleet.nodes}

    def find() -> set[Path]:
        for node in fleet.nodes:
            lives[node.name] |= node.server_dirs()
        able = [one.name for one in fleet.nodes if not faults.may_have_too_many(one)]
        return sandboxes(homes_of(one for name in able for one in lives[name]))

    return find


def wait_until_ready(fleet: Machines, since: float) -> float:
    """Waits until every node is ready; returns the time since `since`. Raises `AssertionError` if
    it takes too long.
    """
    while not fleet.are_ready():
        took_s = time.monotonic() - since
        assert took_s < scaled(READY_WITHIN_S), "\n".join(map(state_of, fleet.nodes))
        time.sleep(0.1)
    return time.monotonic() - since


def state_of(node: FleetMachine) -> str:
    said = node.log.read_text()[-1500:]
    return f"{node.name}: started {node.starts} times, ended with {node.codes[-5:]}\n{said}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/soak fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--mistake",
        choices=sorted(FLEET_MISTAKES),
        default="none",
        help="a control: it must be found",
    )
    parser.add_argument("--matrix", action="store_true", help="each failure once, in figures")
    rows = [*matrix.SHORT, *matrix.DEFAULT, *failover.ROWS]
    parser.add_argument("--row", choices=rows, action="append", help="of the matrix: only this one")
    given = parser.parse_args()
    # SIGTERM ends the program normally, so that it removes the directories that it created.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.matrix or given.row:
        names = given.row or ()
        figures = [*matrix.play(names), *failover.play(names)]
        return 0 if all(one.is_kept for one in figures) else 1
    print(f"seed {given.seed}", flush=True)
    report = play(given.seconds, given.seed, given.mistake)
    print(report, flush=True)
    for example in report.examples:
        print(f"  {example}")
    if not report.is_clean:
        print(
            "  what happened:",
            *report.faults.log,
            *report.lives,
            *report.freshness.slow_examples,
            sep="\n    ",
        )
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
