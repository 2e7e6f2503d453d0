"""Clients behind a load balancer. It checks whether each node accepts invocations. If a node has
certainly not started an invocation, the client retries it at the next node.
"""

from __future__ import annotations

import http.client
import itertools
import json
import select
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from e2e.server import AnyServer

HEALTH_EVERY_S = 0.25
TIMEOUT_S = 30.0


class Unanswered(Exception):
    """The connection ended after the request was sent, so the invocation may have run."""


@dataclass
class Balancer:
    """A load balancer. `able`: whether each node accepts invocations, by the node's URL."""

    nodes: Sequence[AnyServer]
    able: dict[str, bool] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Balancer:
        self._threads = [threading.Thread(target=self._watch, args=(one,)) for one in self.nodes]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _watch(self, node: AnyServer) -> None:
        client = Client(self)
        while not self._stop.is_set():
            try:
                status, _, _ = client.ask(node, "GET", "/health/ready", None)
            except (OSError, http.client.HTTPException, Unanswered):
                status = 0
            self.able[node.url] = status == 200
            self._stop.wait(HEALTH_EVERY_S)
        client.close()

    def order(self, turn: int) -> list[AnyServer]:
        """The nodes in the order in which to try them: healthy ones first, each kind beginning at
        this turn's node.
        """
        count = len(self.nodes)
        found = [self.nodes[(turn + number) % count] for number in range(count)]
        return sorted(found, key=lambda node: not self.able.get(node.url, True))


@dataclass
class Client:
    """A client behind the balancer, with one connection to each node."""

    balancer: Balancer
    _connections: dict[str, http.client.HTTPConnection] = field(default_factory=dict)

    def call(self, turn: int, path: str, body: Any) -> tuple[int, dict[str, str], Any]:
        """Like `ask`, but goes on to the next node if a node is unreachable, or refuses before it
        has started the invocation.
        """
        found: tuple[int, dict[str, str], Any] = 0, {}, None
        for node in self.balancer.order(turn):
            try:
                found = self.ask(node, "POST", path, body)
            except OSError:  # the node is unreachable
                continue
            if found[0] != 503 or "x-invocation-id" in found[1]:
                return found
        return found

    def ask(
        self, node: AnyServer, method: str, path: str, body: Any
    ) -> tuple[int, dict[str, str], Any]:
        """Returns status, headers and body. Raises `Unanswered`; raises OSError if nothing was
        sent.
        """
        connection = self._connections.pop(node.url, None)
        if connection is not None and has_ended(connection):
            connection.close()
            connection = None
        if connection is None:
            address = node.url.removeprefix("http://")
            connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
            connection.connect()
        data = None if body is None else json.dumps(body)
        try:
            connection.request(
                method, path, data, node.headers | {"content-type": "application/json"}
            )
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unanswered(f"{node.url}: {error!r}") from error
        if not answer.will_close:
            self._connections[node.url] = connection
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, headers, json.loads(text) if text else None

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def has_ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the other side has closed an idle connection."""
    is_open = connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]
    return not is_open


@dataclass
class Calls:
    """Invokes at a fixed rate through a balancer during the block."""

    balancer: Balancer
    path: str
    per_second: float
    callers: int = 16
    payload: str = "x"
    ends: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Calls:
        self._began = time.monotonic()
        self._turns = itertools.count()
        self._threads = [threading.Thread(target=self._live) for _ in range(self.callers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._began

    @property
    def rate(self) -> float:
        return self.ends["success"] / self.seconds

    def _live(self) -> None:
        client = Client(self.balancer)
        while True:
            turn = next(self._turns)
            at = self._began + turn / self.per_second
            if self._stop.wait(max(0.0, at - time.monotonic())):
                client.close()
                return
            began = time.monotonic()
            end = self._call(client, turn)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.ends[end] += 1
            if end != "success":
                self.failed.append(end)

    def _call(self, client: Client, turn: int) -> str:
        try:
            status, headers, body = client.call(turn, self.path, {"payload": self.payload})
        except (OSError, http.client.HTTPException, Unanswered) as error:
            return f"no answer: {error}"
        if status == 200:
            return str(body["status"])
        return f"{status} {body and body.get('error_code')} {headers.get('x-invocation-id', '')}"
