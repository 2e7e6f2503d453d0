"""Checks which version of a changing function the nodes run: the node that acknowledged a change
must run the new version at once, the other nodes within a second.

The checks are invocations: all other requests wait until their node has applied the changes of
other nodes.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleet.machines import FleetMachine, Machines

MOST_S = 1.0
SLOW_S = 1.5
GIVE_UP_S, EVERY_S, LOOK_EVERY_S = 4.0, 0.6, 0.02


@dataclass
class Freshness:
    """Runs the checks from `start` until `stop`. `was_calm`: returns whether a node could learn of
    changes since a given time.
    """

    fleet: Machines
    was_calm: Callable[[str, float], bool]
    changes: int = 0
    stale_there: int = 0  # how often the node that acknowledged a change ran an older version
    late: int = 0
    slowest_s: float = 0.0
    slow: int = 0  # slow responses of nodes that had no fault
    slow_examples: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Creates the function; called before any fault."""
        self._path = self.fleet.deploy("echo 0", name="changes", max_instances=3).path
        self._old: set[str] = set()  # acknowledged versions that are no longer the newest
        self._thread.start()

    def _run(self) -> None:
        dice, newest = random.Random(), "0"
        for number in itertools.count(1):
            if self._stop.wait(EVERY_S):
                return
            node, wanted = dice.choice(self.fleet.nodes), str(number)
            answer = self._ask(node, "PUT", self._path, {"handler": f"echo {wanted}"})
            # If no instance of the new version could start, the response says so, and the previous
            # version stays current.
            if answer is None or answer["error_message"] is not None:
                continue
            acknowledged_at = time.monotonic()
            self._old.add(newest)
            newest = wanted
            self.changes += 1
            self._look(node, wanted, acknowledged_at)

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _look(self, acknowledged: FleetMachine, wanted: str, since: float) -> None:
        if self._says(acknowledged) in self._old:
            self.stale_there += 1
            self._note(f"{acknowledged.name} has acknowledged {wanted} and runs older")
        left = [one for one in self.fleet.nodes if one is not acknowledged]
        # the last time at which each node was seen to run an older version
        was_old: dict[str, float] = {}
        while left and time.monotonic() - since < GIVE_UP_S and not self._stop.is_set():
            for node in list(left):
                asked_at = time.monotonic()
                said = self._says(node)
                if said in self._old:
                    was_old[node.name] = asked_at - since
                elif said is not None:
                    left.remove(node)
            time.sleep(LOOK_EVERY_S)
        for name, old_s in was_old.items():
            if self.was_calm(name, since):
                self._was_old(name, wanted, old_s)

    def _was_old(self, name: str, wanted: str, old_s: float) -> None:
        self.slowest_s = max(self.slowest_s, old_s)
        if old_s > MOST_S:
            self.late += 1
            self._note(f"{name} had not heard of {wanted} for {old_s:.2f} s")

    def _note(self, example: str) -> None:
        if len(self.examples) < 10:
            self.examples.append(f"{time.strftime('%H:%M:%S')} stale: {example}")

    def _says(self, node: FleetMachine) -> str | None:
        """The function's output at a node; None if there is none."""
        began = time.monotonic()
        found = self._ask(node, "POST", f"{self._path}/invoke", {})
        took_s = time.monotonic() - began
        if took_s > SLOW_S and self.was_calm(node.name, began):
            self._slow(node, took_s)
        return None if found is None else found["stdout"].strip() or None

    def _slow(self, node: FleetMachine, took_s: float) -> None:
        self.slow += 1
        if self.slow <= 10:
            self.slow_examples.append(
                f"{time.strftime('%H:%M:%S')} slow: {node.name} needed {took_s:.2f} s to answer"
            )

    def _ask(self, node: FleetMachine, method: str, path: str, body: Any) -> Any:
        """The JSON of a response with status 200; None for any other response."""
        address = node.url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=3)
        headers = node.headers | {"content-type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return json.loads(text) if answer.status == 200 else None
