"""The faults of a storm: one every few seconds, at most two at a time."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from fleet.machines import TIMES, FleetMachine, Machines
from fleet_network import DATABASE

AT_A_TIME = 2
BETWEEN_S = 0.5, 3.0
# Durations of faults, by the consequence: none; the node starts no more instances; its instances
# end; other nodes take it over.
LASTS_S = (0.3, TIMES["fence"] + 0.5, TIMES["end"] + 1.5, TIMES["reap"] + 3.0)
DATABASE_AWAY_S = 1.0, 6.0
# How many seconds it takes until a standby is promoted, and until the former primary becomes a
# standby. Nodes may wait ten seconds for a promotion.
NOTICED_S, FAILED_OVER_S = (0.2, 2.0), (5.0, 9.0)
# It takes some time after a fault until a node follows the others again.
CALM_AFTER_S = 5.0
# A resumed launcher ends overdue instances within a second; the rest is a margin.
WAKES_WITHIN_S = 2.0
DAY_S = 86_400
WEIGHTS = {
    "kill": 4,
    "sandbox": 2,
    "stop": 5,
    "partition": 4,
    "cut off": 4,
    "unplug": 2,
    "restart": 1,
    "crash": 1,
    "disconnect": 2,
    "read only": 1,
    "failover": 2,
    "clock": 2,
}


@dataclass
class Active:
    """A fault that lasts. `touches`: the nodes that it separates from the database."""

    kind: str
    ends_at: float
    end: Callable[[], None]
    nodes: Collection[str]
    touches: Collection[str]


@dataclass
class Faults:
    """Injects faults: `play` for some time, then `end_all`. `counts`: how often each kind of fault
    occurred.
    """

    fleet: Machines
    dice: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)  # the faults with their times
    active: list[Active] = field(default_factory=list)
    # when the last fault of each node ended
    _touched: dict[str, float] = field(default_factory=dict)
    # When the launcher and the server of a node were both stopped, and when they were resumed, by
    # the node's name.
    _frozen: dict[str, float] = field(default_factory=dict)
    _thawed: dict[str, float] = field(default_factory=dict)

    def play(self, until: float) -> None:
        """Injects random faults until the monotonic clock reaches `until`."""
        next_at = time.monotonic()
        while time.monotonic() < until:
            self._end_due()
            if time.monotonic() >= next_at and len(self.active) < AT_A_TIME:
                kinds = list(WEIGHTS)
                self._begin(self.dice.choices(kinds, list(WEIGHTS.values()))[0])
                next_at = time.monotonic() + self.dice.uniform(*BETWEEN_S)
            time.sleep(0.02)

    def end_all(self) -> None:
        for fault in list(self.active):
            self._end(fault)
        for node in self.fleet.nodes:
            if node.jump is not None:
                node.jump.set(0)

    def was_calm(self, name: str, since: float) -> bool:
        """Whether the node has run and reached the database all the time, from shortly before
        `since` until now.
        """
        up_since = self.fleet.named(name).up_since
        if up_since is None or any(name in one.touches for one in list(self.active)):
            return False
        return max(up_since, self._touched.get(name, 0.0)) + CALM_AFTER_S <= since

    def may_have_too_many(self, node: FleetMachine) -> bool:
        """Whether instances of the node may live too long, since none of its processes that could
        end them runs: see decision 53.
        """
        frozen, thawed = self._frozen.get(node.name), self._thawed.get(node.name, 0.0)
        if frozen is not None:
            return time.monotonic() - frozen > TIMES["end"] - TIMES["beat"]
        return time.monotonic() - thawed < WAKES_WITHIN_S

    # Starts and ends of faults ---------------------------------------------------------------

    def _begin(self, kind: str) -> None:
        busy = {name for one in self.active for name in one.nodes}
        free = [one for one in self.fleet.nodes if one.name not in busy]
        node = self.dice.choice(free) if free else None
        if kind in ("restart", "crash", "disconnect", "read only", "failover"):
            if DATABASE not in busy:
                self._befall_database(kind)
        elif kind == "partition":
            self._part()
        elif node is None:
            return
        elif kind == "kill":
            self._kill(node)
        elif kind == "sandbox":
            if node.kill_a_sandbox(self.dice):
                self._happened("kill -9 of a sandbox", node.name)
        elif kind == "stop":
            self._stop(node)
        elif kind == "cut off":
            self._cut_off(node)
        elif kind == "unplug":
            self.fleet.unplug(node.name)
            self._lasts("its link lost silently", node.name, lambda: self.fleet.plug(node.name))
        elif node.jump is not None:
            by_s = round(self.dice.choice((-1, 1)) * 10 ** self.dice.uniform(0, 6))
            node.jump.set(by_s)
            self._happened("jump of a clock", node.name)

    def _kill(self, node: FleetMachine) -> None:
        whom = self.dice.choice(("server", "launcher", "both"))
        self._happened(f"kill -9 of {whom}", node.name)
        if whom == "both" and self.dice.random() < 0.5:
            node.kill_all()
        else:
            node.send(whom, signal.SIGKILL)

    def _stop(self, node: FleetMachine) -> None:
        whom, name = self.dice.choice(("server", "launcher", "both")), node.name
        node.send(whom, signal.SIGSTOP)
        if whom == "both":
            self._frozen[name] = time.monotonic()

        def go_on() -> None:
            node.send(whom, signal.SIGCONT)
            if self._frozen.pop(name, None) is not None:
                self._thawed[name] = time.monotonic()

        self._lasts(f"stop of {whom}", name, go_on)

    def _cut_off(self, node: FleetMachine) -> None:
        """Separates a node and PostgreSQL, in both directions or in one."""
        name, fleet = node.name, self.fleet
        way = self.dice.choice(("both ways", "to it", "from it"))
        if way != "from it":
            for database in fleet.databases:
                fleet.cut(name, database)
        if way != "to it":
            for database in fleet.databases:
                fleet.cut(database, name)

        def heal() -> None:
            for database in fleet.databases:
                fleet.heal(name, database)

        self._lasts(f"PostgreSQL cut off {way}", name, heal)

    def _part(self) -> None:
        """Separates two nodes, in both directions or in one."""
        first, other = (node.name for node in self.dice.sample(self.fleet.nodes, 2))
        is_both = self.dice.random() < 0.5
        self.fleet.cut(first, other)
        if is_both:
            self.fleet.cut(other, first)
        kind = f"two nodes parted {'both ways' if is_both else 'one way'}"
        self._lasts(kind, None, lambda: self.fleet.heal(first, other))

    def _befall_database(self, kind: str) -> None:
        fleet, postgres = self.fleet, self.fleet.postgres
        if kind == "disconnect":
            fleet.disconnect()
            self._happened("connections to PostgreSQL killed")
            for node in fleet.nodes:
                self._touched[node.name] = time.monotonic()
        elif kind == "failover":
            self._fail_over()
        elif kind == "read only":
            fleet.read_only(True)
            self._lasts("PostgreSQL read-only", DATABASE, lambda: fleet.read_only(False))
        else:
            how = "fast" if kind == "restart" else "immediate"
            postgres.stop(signal.SIGINT if kind == "restart" else signal.SIGQUIT)
            self._lasts(f"PostgreSQL restarted ({how})", DATABASE, postgres.start)

    def _fail_over(self) -> None:
        """Kills or cuts off the primary, promotes its standby, and later makes the former primary
        the standby.
        """
        fleet, pair = self.fleet, self.fleet.pair
        is_killed = self.dice.random() < 0.5
        if is_killed:
            pair.primary.kill()
        else:
            fleet.unplug(pair.primary.machine)
        time.sleep(self.dice.uniform(*NOTICED_S))
        pair.promote()

        def replicate() -> None:
            pair.replica.kill()
            fleet.plug(pair.replica.machine)
            pair.replicate()

        how = "killed" if is_killed else "cut off"
        self._lasts(f"PostgreSQL failed over ({how})", DATABASE, replicate, FAILED_OVER_S)

    def _lasts(
        self,
        kind: str,
        name: str | None,
        end: Callable[[], None],
        away_s: tuple[float, float] = DATABASE_AWAY_S,
    ) -> None:
        """Registers a fault that lasts. `name`: the node that loses the database; `DATABASE`: all
        nodes lose it, for a time from `away_s`; None: no node loses it.
        """
        self._happened(kind, name or "")
        everybody = [one.name for one in self.fleet.nodes]
        touches = everybody if name == DATABASE else [] if name is None else [name]
        lasts_s = self.dice.choice(LASTS_S)
        if name == DATABASE:
            lasts_s = self.dice.uniform(*away_s)
        names = [] if name is None else [name]
        self.active.append(Active(kind, time.monotonic() + lasts_s, end, names, touches))

    def _end_due(self) -> None:
        for fault in list(self.active):
            if time.monotonic() >= fault.ends_at:
                self._end(fault)

    def _happened(self, kind: str, where: str = "") -> None:
        self.counts[kind] += 1
        self._log(f"{kind} {where}")

    def _log(self, text: str) -> None:
        self.log.append(f"{time.strftime('%H:%M:%S')} {text}")

    def _end(self, fault: Active) -> None:
        fault.end()
        self._log(f"over: {fault.kind} {' '.join(fault.nodes)}")
        for name in fault.touches:
            self._touched[name] = time.monotonic()
        self.active.remove(fault)
