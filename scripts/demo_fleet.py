#!/usr/bin/env python3
"""A fleet on one machine: PostgreSQL and three nodes, each in a network namespace of its own.

Each request that creates, invokes or changes functions goes to the next node. Then a node is killed
under load, with everything that it runs, and the outcomes of the invocations are counted.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from fleet_network import (
    API_PORT,
    DATABASE,
    PEER_PORT,
    STOP_S,
    Network,
    NotAsPromised,
    Postgres,
    database,
    network,
    run,
)

ROOT = Path(__file__).resolve().parent.parent
QUILTFN = ROOT / ".venv" / "bin" / "quiltfn"
LISTENING = re.compile(r"listening on (http://\S+)")
NAMES = ("one", "two", "three")
START_S = 30.0
CALLERS, LOAD_S, KILL_AFTER_S = 8, 8.0, 3.0
ACCEPTED = 40
# Much shorter than the defaults, so that the take-over happens during the demo.
TIMES = {
    "QUILTFN_FLEET_BEAT_S": "1",
    "QUILTFN_FLEET_FENCE_S": "4",
    "QUILTFN_FLEET_END_S": "6",
    "QUILTFN_FLEET_REAP_S": "12",
}


class Node:
    """`quiltfn serve --fleet FILE` in its namespace, in a process group of its own."""

    def __init__(self, name: str, reached: Network, directory: Path) -> None:
        self.name, self._network, self.file = name, reached, directory / f"{name}.toml"
        self.address = reached.address(name)
        self._own = directory / name
        self._own.mkdir(mode=0o755)
        self.url = f"http://{self.address}:{API_PORT}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns once the server listens."""
        where = ("--host", self.address, "--port", str(API_PORT))
        own = ("--data-dir", self._own / "data", "--run-dir", self._own / "run")
        command = [*self._network.inside(self.name), QUILTFN, "serve"]
        log = (self._own / "log").open("a")
        self.process = subprocess.Popen(
            [str(one) for one in (*command, "--fleet", self.file, *where, *own)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=os.environ | TIMES,
        )
        assert self.process.stdout is not None
        timer = threading.Timer(START_S, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        if not LISTENING.search(line):
            self.process.wait(STOP_S)
            raise NotAsPromised(f"node {self.name} did not start:\n{self.said()}")

    def said(self) -> str:
        return (self._own / "log").read_text()[-4000:]

    def kill(self) -> None:
        """Kill all processes of the node at once, as if its machine lost power."""
        assert self.process is not None
        for pid in self._network.processes(self.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(STOP_S)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()


# --- the story ---------------------------------------------------------------------------------


class Story:
    """Sends each request to the next node, and shows the node."""

    def __init__(self, nodes: list[Node], key: str, console: Console) -> None:
        self.nodes, self.console = nodes, console
        self.http = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60)
        self.turn = itertools.cycle(nodes)

    def leave_out(self, node: Node) -> None:
        """Send no more requests to this node."""
        self.nodes.remove(node)
        self.turn = itertools.cycle(self.nodes)

    def title(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/bold]")

    def ask(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """Send one request to the next node. Returns the response."""
        node = next(self.turn)
        response = self.http.request(method, node.url + path, json=body)
        self.console.print(f"  [cyan]{method} {path}[/cyan] → {node.name}: {response.status_code}")
        if response.status_code != status:
            raise NotAsPromised(f"{method} {path} should answer {status}: {response.text}")
        return response.json() if response.content else None

    def tour(self) -> str:
        """Create, deploy, invoke, change and roll back a function. Returns its path."""
        self.title("1. Any node takes any request")
        made = self.ask("POST", "/api/functions", {"name": "greet", "handler": GREETS}, 201)
        path = f"/api/functions/{made['function_id']}"
        self.ask("POST", f"{path}/deploy")
        for number in range(4):
            said = self.ask("POST", f"{path}/invoke", {"payload": f"call {number}"})
            self.console.print(f"    it ran on {said['execution_node_id']}: {said['stdout']!r}")
        self.ask("PUT", path, {"handler": GREETS.replace("hello", "good morning")})
        self.ask("POST", f"{path}/deploy")
        self.seen_everywhere(path, "good morning, you\n")
        self.ask("POST", f"{path}/rollback", {"version": 1})
        self.seen_everywhere(path, "hello, you\n")
        return path

    def seen_everywhere(self, path: str, wanted: str) -> None:
        """Checks that the other nodes see a change within a second."""
        began = time.monotonic()
        for node in self.nodes:
            while self.said(node, path) != wanted:
                if time.monotonic() - began > 1:
                    raise NotAsPromised(f"after a second {node.name} has not seen the change")
        took_ms = (time.monotonic() - began) * 1000
        self.console.print(f"    every node says {wanted!r} after {took_ms:.0f} ms")

    def said(self, node: Node, path: str) -> str:
        answer = self.http.post(f"{node.url}{path}/invoke", json={"payload": "you"})
        said: str = answer.json()["stdout"]
        return said

    def expect(self, found: Any, wanted: Any) -> None:
        if found != wanted:
            raise NotAsPromised(f"expected {wanted!r}, and there was {found!r}")

    def presence_of(self, node: Node) -> str:
        """The state of a node, according to the fleet."""
        found = self.http.get(f"{self.nodes[0].url}/api/nodes").json()["nodes"]
        presence: str = next(one["presence"] for one in found if one["name"] == node.name)
        return presence

    def show_nodes(self) -> None:
        table = Table(box=None)
        for head in ("node", "state", "presence", "address"):
            table.add_column(head)
        for node in self.ask("GET", "/api/nodes")["nodes"]:
            table.add_row(node["name"], node["state"], node["presence"], node["address"])
        self.console.print(table)


class Load:
    """Callers that use the next node if one does not respond, as a load balancer does."""

    def __init__(self, nodes: list[Node], path: str, key: str) -> None:
        self._nodes, self._path, self._key = nodes, path, key
        self.ends: Counter[str] = Counter()
        self.lost: list[str] = []  # ids of invocations whose node was lost
        self._until = time.monotonic() + LOAD_S
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with httpx.Client(headers=headers, timeout=20) as http:
            for turn in itertools.count(number):
                if time.monotonic() > self._until:
                    return
                node = self._nodes[turn % len(self._nodes)]
                try:
                    response = http.post(f"{node.url}{self._path}/invoke", json={"payload": "x"})
                except httpx.TransportError:
                    self.ends["times the lost node did not answer, so the next one was asked"] += 1
                    continue
                if response.status_code == 200 and response.json()["status"] == "success":
                    self.ends["answered"] += 1
                else:
                    self.ends[f"{response.status_code} {response.json().get('error_code')}"] += 1
                    self.lost += [response.headers.get("x-invocation-id", "")]


GREETS = 'echo "hello, $QUILT_PAYLOAD"'
WORKS = "sleep 1; echo done"


def accept(story: Story, path: str) -> list[str]:
    """Queue invocations on all nodes in turns; a lost node's are retried. Returns their ids."""
    policy = {"max_attempts": 3, "backoff_seconds": {"first": 0.1, "jitter": 0}}
    story.ask("PUT", f"{path}/async-policy", policy)
    asked = itertools.islice(itertools.cycle(story.nodes), ACCEPTED)
    given = [story.http.post(f"{one.url}{path}/invoke?mode=async", json={}) for one in asked]
    if any(one.status_code != 202 for one in given):
        raise NotAsPromised("a call was not accepted")
    return [one.json()["invocation_id"] for one in given]


def ends_of(story: Story, path: str, ids: list[str]) -> Counter[str]:
    """The outcomes of the invocations."""
    found: Counter[str] = Counter()
    for call_id in ids:
        node = next(story.turn)
        url = f"{node.url}{path}/invocations/{call_id}?wait_seconds=30"
        found[story.http.get(url).json()["status"]] += 1
    return found


def attempts_of(story: Story, path: str, call_id: str) -> int:
    node = next(story.turn)
    found = story.http.get(f"{node.url}{path}/invocations/{call_id}/attempts").json()
    return len(found["attempts"])


def tell(story: Story, key: str) -> None:
    """Run the whole demo. Raises `NotAsPromised`."""
    console = story.console
    path = story.tour()
    story.title(f"2. Node two is killed while {CALLERS} callers ask all nodes")
    made = story.ask("POST", "/api/functions", {"name": "work", "handler": WORKS}, 201)
    work = f"/api/functions/{made['function_id']}"
    story.ask("POST", f"{work}/deploy")
    accepted = accept(story, work)
    console.print(f"  {len(accepted)} calls of {WORKS!r} were accepted")
    load = Load(story.nodes, path, key)
    load.start()
    time.sleep(KILL_AFTER_S)
    victim = story.nodes[1]
    victim.kill()
    console.print("  [red]kill -9[/red] of its launcher, its server and its sandboxes")
    load.join()
    for outcome, count in load.ends.most_common():
        console.print(f"  {count:6} {outcome}")
    story.leave_out(victim)

    story.title("3. The others take it over")
    deadline = time.monotonic() + 30
    while story.presence_of(victim) != "gone":
        if time.monotonic() > deadline:
            raise NotAsPromised("the lost node was not taken over")
        time.sleep(0.5)
    story.show_nodes()

    story.title("4. What became of the calls")
    ends = ends_of(story, work, accepted)
    console.print(f"  accepted: {dict(ends)}")
    story.expect(ends, Counter(success=len(accepted)))
    again = sum(attempts_of(story, work, one) > 1 for one in accepted)
    console.print(f"  {again} of them ran on node two when it was killed, and were tried again")

    story.title("5. Node two starts again")
    victim.start()
    story.nodes.append(victim)
    story.show_nodes()
    ends = ends_of(story, path, [one for one in load.lost if one])
    console.print(
        f"  calls that it had when it was killed, by the ids their callers got: {dict(ends)}"
    )
    if ends.keys() - {"interrupted", "success"}:
        raise NotAsPromised(f"a call that was lost ended as {dict(ends)}")


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/demo-fleet", description=__doc__.splitlines()[0])
    it.parse_args()
    if os.geteuid() != 0:
        print("error: it makes networks and serves: run it as root", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="quiltfn-demo-fleet-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        reached = stack.enter_context(network("quiltfn-demo", (DATABASE, *NAMES)))
        store = stack.enter_context(database(directory, reached))
        try:
            nodes = [Node(name, reached, directory) for name in NAMES]
            for node in nodes:
                stack.callback(node.stop)
            key = started(nodes, directory, store)
            took = time.monotonic() - began
            console.print(f"PostgreSQL and {len(nodes)} nodes were ready after {took:.1f} s")
            tell(Story(nodes, key, console), key)
        except NotAsPromised as error:
            console.print(f"\n[red]not as promised:[/red] {error}", soft_wrap=True)
            return 1
    console.print(f"\n[green]all as promised[/green], in {time.monotonic() - began:.0f} s")
    return 0


def started(nodes: list[Node], directory: Path, store: Postgres) -> str:
    """Creates the fleet and starts its nodes; returns an operator's key."""
    fleet = directory / "fleet.toml"
    secret = ("--store", store.url, "--store-password-file", store.password)
    run(QUILTFN, "fleet", "init", "--fleet", fleet, *secret)
    key = run(QUILTFN, "keys", "create", "--tenant", "default", *secret, "--output", "json")
    for node in nodes:
        where = ("--address", f"{node.address}:{PEER_PORT}", "--output", node.file)
        run(QUILTFN, "fleet", "add-node", node.name, *where, "--fleet", fleet)
        node.start()
    found: str = json.loads(key)["key"]
    return found


if __name__ == "__main__":
    sys.exit(main())
