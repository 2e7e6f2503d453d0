"""The failure matrix: the effects of each kind of failure on callers and operators, in figures.

`scripts/soak fleet --matrix` runs it on nodes in network namespaces, and prints the table that is
in docs/how-to/fleet.md.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from e2e.history import FINAL
from e2e.server import Function, short_dir, until
from fleet import rolling
from fleet.balancer import Balancer, Calls
from fleet.machines import TIMES, FleetMachine, Machines, machines
from fleet.newer import newer, of_checkout
from fleet.sampler import Bounds, homes_of, sampled, sandboxes
from fleet_network import DATABASE

# The default times of a fleet.
DEFAULT_TIMES = {"beat": 2.0, "fence": 10.0, "end": 60.0, "reap": 100.0}
AWAY_S = 55.0
RATE = 200.0
SLEEPS = "sleep ${QUILT_PAYLOAD:-0}; echo done"


@dataclass
class Figure:
    """A measurement. `is_kept`: whether it keeps the promise."""

    failure: str
    seen: str
    bound: str
    is_kept: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.is_kept else 'FAIL'} {self.failure}: {self.seen} ({self.bound})"


@dataclass
class Matrix:
    """Runs the rows of the matrix, and collects their results."""

    fleet: Machines
    figures: list[Figure] = field(default_factory=list)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64))

    def tell(self, failure: str, seen: str, bound: str, is_kept: bool) -> None:
        self.figures.append(Figure(failure, seen, bound, is_kept))
        print(f"  {self.figures[-1]}", flush=True)

    def ask(self, node: FleetMachine, method: str, path: str, body: Any = None) -> httpx.Response:
        return httpx.request(
            method,
            node.url + path,
            json=body,
            headers=self.fleet.headers,
            timeout=120,
            trust_env=False,
        )

    def invoke(self, node: FleetMachine, function: Function, payload: str = "0") -> httpx.Response:
        return self.ask(node, "POST", f"{function.path}/invoke", {"payload": payload})

    def later(self, *arguments: Any) -> Future[tuple[httpx.Response, float]]:
        """Invokes in a thread; the result is the response and the time at which it arrived."""
        return self.threads.submit(lambda: (self.invoke(*arguments), time.monotonic()))

    def on(self, node: FleetMachine, count: int = 1, max_instances: int = 1) -> list[Function]:
        """Deploys functions, each with one ready instance at this node, of which the other nodes
        know.
        """
        fields = {"at": node, "max_instances": max_instances, "timeout_seconds": 120}
        made = [self.fleet.deploy(SLEEPS, **fields) for _ in range(count)]
        for function in made:
            assert ran(self.invoke(node, function)) == node.name
        # Before the other nodes know of the instance, an invocation at one of them would move the
        # instance there.
        time.sleep(3 * self.fleet.times["beat"])
        for caller, function in itertools.product(self.fleet.nodes, made):
            assert ran(self.invoke(caller, function)) == node.name
        return made

    def running(self, asked: FleetMachine, function: Function) -> list[str]:
        found = self.ask(asked, "GET", f"{function.path}/invocations?status=running").json()
        return [one["invocation_id"] for one in found["invocations"]]

    def record(self, asked: FleetMachine, function: Function, call: str) -> dict[str, Any]:
        answer = self.ask(asked, "GET", f"{function.path}/invocations/{call}")
        return dict(answer.json())

    def are_ready(self) -> float:
        """Waits until every node is ready again; returns how long that took."""
        began = time.monotonic()
        until(self.fleet.are_ready, 60)
        return time.monotonic() - began

    def presence(self, asked: FleetMachine, name: str) -> str:
        found = self.ask(asked, "GET", "/api/nodes").json()["nodes"]
        return str(next(one["presence"] for one in found if one["name"] == name))


# Lost nodes ---------------------------------------------------------------------------------------


def lose_calls(
    it: Matrix,
    failure: str,
    happens: Callable[[FleetMachine], None],
    within_s: float,
    undo: Callable[[str], None] | None = None,
) -> None:
    """A node is lost while it runs invocations for clients of another node; a third node must be
    unaffected.
    """
    first, second, third = it.fleet.nodes
    functions, [other] = it.on(second, 3), it.on(third)
    calls = [it.later(first, function, "30") for function in functions]
    ids = {function.id: until(partial(it.running, third, function))[0] for function in functions}
    failed_elsewhere = 0
    began = time.monotonic()
    happens(second)
    while not all(call.done() for call in calls):
        failed_elsewhere += it.invoke(third, other).status_code != 200
    answers = [call.result()[0] for call in calls]
    took_s = max(call.result()[1] for call in calls) - began
    answered = {answer.headers.get("x-invocation-id") for answer in answers}
    is_told = {answer.status_code for answer in answers} == {503} and answered == set(ids.values())
    if undo is not None:
        undo(second.name)
    statuses = {
        until(partial(final_status, it, third, function, ids[function.id]), 40)
        for function in functions
    }
    seen = f"503 and the id of each after {took_s * 1000:.0f} ms, {', '.join(sorted(statuses))}"
    is_kept = is_told and took_s < within_s and not failed_elsewhere
    is_kept = is_kept and statuses == {"interrupted"}
    it.tell(failure, f"{seen}; failed at other nodes: {failed_elsewhere}", f"{within_s} s", is_kept)
    it.are_ready()


def final_status(it: Matrix, asked: FleetMachine, function: Function, call: str) -> str | None:
    status = it.record(asked, function, call).get("status")
    return status if status in FINAL else None


def kill_a_sandbox(it: Matrix) -> None:
    first, second, third = it.fleet.nodes
    [function] = it.on(second)
    call = it.later(first, function, "30")
    until(lambda: it.running(third, function))
    began = time.monotonic()
    for pids in second.sandbox_pids().values():
        for pid in pids:
            second._signal(pid, signal.SIGKILL)
    answer, answered_at = call.result()
    took_s = answered_at - began
    again = it.invoke(third, function)
    seen = f"{answer.status_code} after {took_s * 1000:.0f} ms; the next call {again.status_code}"
    it.tell("kill -9 of a sandbox", seen, "0.5 s", took_s < 0.5 and again.status_code == 200)


# Stopped processes --------------------------------------------------------------------------------


def stop(it: Matrix, whom: str) -> None:
    """Stops a node's server, or both server and launcher, until other nodes have taken the node
    over, and then resumes the processes. Nothing of the old epoch may be left.
    """
    first, second, third = it.fleet.nodes
    [function] = it.on(second)
    call = it.later(second, function, "300")
    ids = until(lambda: it.running(third, function))
    homes, starts = homes_of(second.server_dirs()), second.starts
    second.send(whom, signal.SIGSTOP)
    stopped_at = time.monotonic()
    elsewhere = until(lambda: ran(it.invoke(first, function)), 60)
    taken_over_s = time.monotonic() - stopped_at
    left = len(sandboxes(homes))
    second.send(whom, signal.SIGCONT)
    went_on_at = time.monotonic()
    until(lambda: not sandboxes(homes), 20)
    gone_s = time.monotonic() - went_on_at
    with contextlib.suppress(httpx.HTTPError):
        call.result()
    until(lambda: second.starts > starts, 60)
    it.are_ready()
    status = it.record(third, function, ids[0])["status"]
    seen = (
        f"taken over after {taken_over_s:.1f} s, with {left} of its instances left; gone "
        f"{gone_s * 1000:.0f} ms after it went on; its call is {status}"
    )
    is_kept = status == "interrupted" and elsewhere != second.name and gone_s < 1
    it.tell(
        f"SIGSTOP of {whom}, and CONT", seen, "at CONT", is_kept and (whom == "both" or not left)
    )


def ran(answer: httpx.Response) -> str | None:
    return answer.json()["execution_node_id"] if answer.status_code == 200 else None


def stop_launcher(it: Matrix) -> None:
    first, second, third = it.fleet.nodes
    [function] = it.on(second)
    second.send("launcher", signal.SIGSTOP)
    ends = []
    until_s = time.monotonic() + TIMES["reap"] + 3
    while time.monotonic() < until_s:
        ends += [it.invoke(node, function).status_code for node in (first, second, third)]
        time.sleep(0.1)
    presence = it.presence(first, second.name)
    second.send("launcher", signal.SIGCONT)
    it.are_ready()
    failed = len(ends) - ends.count(200)
    seen = f"{len(ends)} calls to its instances, failed {failed}; the node is {presence}"
    it.tell("SIGSTOP of launcher, and CONT", seen, "0", not failed and presence == "present")


# Separated nodes ----------------------------------------------------------------------------------


def part_nodes(it: Matrix, is_both: bool) -> None:
    """Two nodes cannot reach each other, so invocations must run at the next candidate."""
    first, second, _ = it.fleet.nodes
    [function] = it.on(second, max_instances=2)
    bounds = Bounds()
    bounds.most = dict(it.fleet.instances)
    look = partial(look_at, it.fleet)
    with sampled(bounds.count, look):
        it.fleet.cut(first.name, second.name)
        if is_both:
            it.fleet.cut(second.name, first.name)
        took, codes = [], []
        for _ in range(10):
            began = time.monotonic()
            codes.append(it.invoke(first, function).status_code)
            took.append(time.monotonic() - began)
        it.fleet.heal(first.name, second.name)
    seen = (
        f"of 10 calls at one of them {codes.count(200)} ran, the first after {took[0]:.1f} s, the "
        f"others after {max(took[1:]) * 1000:.0f} ms at most; instances exceeded {bounds.exceeded}"
    )
    # The first invocation may have been sent before the nodes noticed the fault.
    is_kept = set(codes[1:]) == {200} and max(took[1:]) < 1 and took[0] < 4
    way = "both ways" if is_both else "one way"
    it.tell(f"two nodes parted {way}", seen, "3 s, 0", is_kept and not bounds.exceeded)


def look_at(fleet: Machines) -> Any:
    return sandboxes(homes_of(one for node in fleet.nodes for one in node.server_dirs()))


# Failures of the database -------------------------------------------------------------------------


@dataclass
class Sync:
    """Invokes at every node; each node has a ready instance for these invocations."""

    it: Matrix
    functions: dict[str, Function]
    answers: list[tuple[str, int, str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Sync:
        self._threads = [
            threading.Thread(target=self._call, args=(one,)) for one in self.it.fleet.nodes
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, node: FleetMachine) -> None:
        function = self.functions[node.name]
        while not self._stop.wait(0.1):
            answer = self.it.invoke(node, function)
            call = answer.headers.get("x-invocation-id") or answer.json().get("invocation_id", "")
            self.answers.append((node.name, answer.status_code, call))

    @property
    def failed(self) -> int:
        return sum(status != 200 for _, status, _ in self.answers)

    def lost(self) -> int:
        """The number of acknowledged invocations without a record."""
        records = {
            name: {one["invocation_id"] for one in all_records(self.it, function)}
            for name, function in self.functions.items()
        }
        return sum(
            status == 200 and call not in records[name] for name, status, call in self.answers
        )


def all_records(it: Matrix, function: Function) -> Iterator[dict[str, Any]]:
    cursor = ""
    while True:
        path = f"{function.path}/invocations?limit=1000{cursor}"
        page = it.ask(it.fleet.nodes[0], "GET", path).json()
        yield from page["invocations"]
        if page["next_cursor"] is None:
            return
        cursor = f"&cursor={page['next_cursor']}"


def lose_database(
    it: Matrix, failure: str, goes: Callable[[], object], comes: Callable[[], object], away_s: float
) -> None:
    """The database is lost for a while. Running invocations must continue, new ones must be
    accepted, and management must be refused; afterwards, everything must work again soon.
    """
    caller = it.fleet.nodes[0]
    functions = {node.name: it.on(node)[0] for node in it.fleet.nodes}
    [long] = it.on(caller)
    running = it.later(caller, long, f"{away_s + 2:.0f}")
    until(lambda: it.running(caller, long))
    with Sync(it, functions) as sync:
        time.sleep(1)
        goes()
        began, refused = time.monotonic(), []
        while time.monotonic() - began < away_s:
            refused.append(it.ask(caller, "PUT", long.path, {"description": "away"}).status_code)
            time.sleep(0.5)
        comes()
        back_at = time.monotonic()
        until(
            lambda: it.ask(caller, "PUT", long.path, {"description": "back"}).status_code == 200, 30
        )
        changed_s = time.monotonic() - back_at
        ready_s = changed_s + it.are_ready()
        time.sleep(1)
    ended, _ = running.result()
    status = ended.json().get("status", ended.status_code)
    time.sleep(1)
    lost = sync.lost()
    codes = ", ".join(sorted({str(code) for code in refused})) or "none"
    seen = (
        f"the running call: {status}; {len(sync.answers)} calls, failed {sync.failed}, "
        f"lost {lost}; changes meanwhile: {codes}; taken again after {changed_s:.1f} s, "
        f"all ready after {ready_s:.1f} s"
    )
    is_kept = status == "success" and not sync.failed and not lost and ready_s < 5
    it.tell(failure, seen, "0 failed, 0 lost, 5 s", is_kept and set(refused) <= {200, 503})


def cut_off_from_database(it: Matrix) -> None:
    """One node cannot reach PostgreSQL for longer than the fence time."""
    first, second, _ = it.fleet.nodes
    [here], [there] = it.on(first), it.on(second)
    running = it.later(second, there, "14")
    until(lambda: it.running(first, there))
    it.fleet.cut_both(second.name, DATABASE)
    time.sleep(12)
    health = it.ask(second, "GET", "/api/functions/health").json()["ready"]
    calls = [it.invoke(first, here).status_code for _ in range(20)]
    status = running.result()[0].json().get("status")
    kept = it.invoke(second, there)
    it.fleet.heal(second.name, DATABASE)
    ready_s = it.are_ready()
    seen = (
        f"its running call: {status}; after 12 s a call to its ready instance: "
        f"{kept.status_code}, health ready: {health}; failed at others: {20 - calls.count(200)}; "
        f"ready again after {ready_s:.1f} s"
    )
    is_kept = status == "success" and kept.status_code == 200 and not health
    is_kept = is_kept and set(calls) == {200}
    it.tell("a node cut off from PostgreSQL", seen, "0 failed", is_kept)


# Restarts and upgrades ----------------------------------------------------------------------------


@contextlib.contextmanager
def under_load(it: Matrix, label: str, max_instances: int = 6) -> Iterator[Function]:
    """Invokes a function at a fixed rate through a balancer during the block; no invocation may
    fail.
    """
    function = it.fleet.deploy("true", max_instances=max_instances)
    with Balancer(it.fleet.nodes) as balancer:
        with Calls(balancer, f"{function.path}/invoke", RATE) as calls:
            time.sleep(2)
            yield function
            time.sleep(1)
    seen = (
        f"{sum(calls.ends.values())} calls, {calls.rate:.0f} a second, failed {len(calls.failed)}, "
        f"slowest {calls.slowest_s * 1000:.0f} ms"
    )
    for example in sorted(set(calls.failed))[:5]:
        print(f"       {example}")
    it.tell(label, seen, "0", not calls.failed)


def lower(it: Matrix) -> None:
    caller = it.fleet.nodes[0]
    with under_load(it, "max_instances lowered from 6 to 1 and raised, twice") as function:
        for most in (1, 6, 1, 6):
            answer = it.ask(caller, "PUT", function.path, {"max_instances": most})
            assert answer.status_code == 200, answer.text
            time.sleep(1.5)


def drain(it: Matrix) -> None:
    first, second, _ = it.fleet.nodes
    with under_load(it, "each node drained and uncordoned"):
        for node in it.fleet.nodes:
            asked = second if node is first else first
            assert it.ask(asked, "POST", f"/api/nodes/{node.name}/drain").status_code == 200
            time.sleep(3)
            assert it.ask(asked, "POST", f"/api/nodes/{node.name}/uncordon").status_code == 200
            time.sleep(1)


def restart_each(it: Matrix, is_drained: bool) -> None:
    """Stops each node with SIGTERM and starts it again, one after the other."""
    label = "drained, and restarted" if is_drained else "restarted by SIGTERM alone"
    with under_load(it, f"each node {label}, one after the other"):
        for node in it.fleet.nodes:
            if is_drained:
                restart_drained(it, node)
            else:
                restart(node)
                it.are_ready()
            time.sleep(1)


def upgrade(it: Matrix) -> None:
    """Upgrades each node to a newer version with a newer schema. One node is downgraded in
    between.
    """
    first, second, third = it.fleet.nodes
    job = it.fleet.deploy("sleep 0.2; echo done", max_instances=6)
    old, accepted, steps_s = of_checkout(), [], []
    is_on = {node.name: old.number for node in it.fleet.nodes}
    with short_dir() as directory:
        new = newer(directory / "newer")
        way = (first, new), (second, new), (second, old), (second, new), (third, new)
        with under_load(it, "each node upgraded to a newer schema, one of them back and forth"):
            for node, version in way:
                began = time.monotonic()
                accepted += rolling.accept(node, job, 20, 2)
                node.runs(version.program)
                restart_drained(it, node)
                is_on[node.name] = version.number
                for asked in it.fleet.nodes:
                    until(lambda: rolling.versions(asked) == is_on)  # noqa: B023
                steps_s.append(time.monotonic() - began)
                rolling.manage(it.fleet.nodes)
        until(lambda: rolling.is_done(first, job, accepted), 60)
        is_once = rolling.are_once(second, job, accepted)
        for node in it.fleet.nodes:  # the next row needs nodes of this version
            node.runs(old.program)
            restart_drained(it, node)
    mistakes = sum(node.log.read_text().count("Traceback") for node in it.fleet.nodes)
    seen = (
        f"{len(accepted)} pieces of accepted work done, each once: {is_once}; changes at each node "
        f"after each step; a step took {max(steps_s):.1f} s at most; mistakes in logs: {mistakes}"
    )
    it.tell("work and management meanwhile", seen, "0", is_once and not mistakes)


def restart_drained(it: Matrix, node: FleetMachine) -> None:
    asked = next(one for one in it.fleet.nodes if one is not node)
    rolling.drain(asked, node.name)
    restart(node)
    rolling.uncordon(asked, node.name)
    it.are_ready()


def restart(node: FleetMachine) -> None:
    starts = node.starts
    node.send("launcher", signal.SIGTERM)
    until(lambda: node.starts > starts, 60)


# All rows -----------------------------------------------------------------------------------------


def killed(whom: str) -> Callable[[Matrix], None]:
    def send(node: FleetMachine) -> None:
        node.send(whom, signal.SIGKILL)

    return lambda it: lose_calls(it, f"kill -9 of a {whom}", send, 0.5)


def unplugged(it: Matrix) -> None:
    fleet = it.fleet
    lose_calls(
        it, "silent loss of a node's link", lambda node: fleet.unplug(node.name), 3.5, fleet.plug
    )


def disconnected(it: Matrix) -> None:
    lose_database(it, "connections to PostgreSQL killed", it.fleet.disconnect, lambda: None, 0.0)


def read_only(it: Matrix) -> None:
    goes, comes = partial(it.fleet.read_only, True), partial(it.fleet.read_only, False)
    lose_database(it, "PostgreSQL read-only for 5 s", goes, comes, 5.0)


def restarted(how: signal.Signals, name: str) -> Callable[[Matrix], None]:
    def row(it: Matrix) -> None:
        postgres = it.fleet.postgres
        goes = partial(postgres.stop, how)
        lose_database(it, f"PostgreSQL restarted ({name})", goes, postgres.start, 0.0)

    return row


def away(it: Matrix) -> None:
    postgres = it.fleet.postgres
    lose_database(it, "PostgreSQL away for 55 s", postgres.stop, postgres.start, AWAY_S)


# These rows need a fleet with short times, the rows in `DEFAULT` one with the default times.
SHORT: dict[str, Callable[[Matrix], None]] = {
    "sandbox": kill_a_sandbox,
    "server": killed("server"),
    "launcher": killed("launcher"),
    "node": lambda it: lose_calls(it, "kill -9 of all of a node", FleetMachine.kill_all, 0.5),
    "link": unplugged,
    "stop-launcher": stop_launcher,
    "stop-server": lambda it: stop(it, "server"),
    "stop-both": lambda it: stop(it, "both"),
    "part": lambda it: part_nodes(it, True),
    "part-one-way": lambda it: part_nodes(it, False),
    "lower": lower,
    "drain": drain,
    "restart-drained": lambda it: restart_each(it, True),
    "terminate": lambda it: restart_each(it, False),
    "rolling-upgrade": upgrade,
}
DEFAULT: dict[str, Callable[[Matrix], None]] = {
    "cut-off": cut_off_from_database,
    "disconnect": disconnected,
    "read-only": read_only,
    "restart": restarted(signal.SIGINT, "fast"),
    "crash": restarted(signal.SIGQUIT, "immediate"),
    "away": away,
}


def play(names: Collection[str]) -> list[Figure]:
    """Runs the rows with these names; without names, all rows."""
    figures = []
    for times, rows in ((TIMES, SHORT), (DEFAULT_TIMES, DEFAULT)):
        wanted = {name: row for name, row in rows.items() if not names or name in names}
        if wanted:
            with machines(times) as fleet:
                it = Matrix(fleet)
                for name, row in wanted.items():
                    try:
                        row(it)
                    except Exception as error:  # continue with the other rows
                        it.tell(name, f"{type(error).__name__}: {error}", "-", False)
                        traceback.print_exc()
                figures += it.figures
                it.threads.shutdown()
    return figures
