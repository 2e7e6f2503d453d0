"""Smuggled requests through a proxy that keeps its connection to the server.

nginx adds an id to each request that it sends. If the server sees a request without such an id,
this request was hidden in another one. If a response has the id of another request, it went to the
wrong caller.
"""

import json
import os
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from e2e.server import Server, until
from promises import promise
from spec.api_client import Api, Wire, new_name, raw, request, statuses
from spec.proxy import MANNERS, NGINX, Proxy, nginx
from spec.smuggling import FUNCTIONS, ONE_REQUEST, PHANTOM, REFUSED, create, post
from timeouts import full_wait

pytestmark = [
    pytest.mark.one_server("it looks at one server behind a proxy"),
    pytest.mark.sandbox,
    pytest.mark.skipif(not os.access(NGINX, os.X_OK), reason=f"needs {NGINX}: apt install nginx"),
]
NEIGHBOURS = 3  # the number of requests after an attack, on the same connection to the server


@pytest.fixture(scope="module", params=MANNERS)
def proxy(open_server: Server, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with nginx(open_server.url, request.param) as proxy:
        yield proxy


class Seen:
    """Finds the requests in the server's log since this object was created."""

    def __init__(self, server: Server) -> None:
        self._log = server.log
        self._from = len(self._log.read_bytes())

    def ids(self) -> list[str]:
        lines = self._log.read_bytes()[self._from :].decode().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [one["request_id"] for one in found if one["event"] == "request"]


def phantoms(seen: list[str], proxy: Proxy) -> list[str]:
    """The ids of requests that nginx has not sent, or that the server saw twice."""
    sent = {one["id"] for one in proxy.sent()}
    return [one for number, one in enumerate(seen) if one not in sent or one in seen[:number]]


def ask(proxy: Proxy) -> tuple[str, str]:
    """Sends a harmless request; returns its id, and the id in the response."""
    path = f"{FUNCTIONS}/{new_name()}"
    answer = raw(proxy.url, request("GET", path, {"Connection": "close"})).decode()
    sent = re.search(r"^X-Sent: (\w+)\r$", answer, re.M)
    match = re.search(r'"request_id":"([^"]+)"', answer)
    assert sent, answer
    assert match, answer
    return sent[1], match[1]


def attack(proxy: Proxy, vector: bytes) -> bytes:
    """Sends an attack, and checks that the requests after it get their own responses; returns the
    response to the attack.
    """
    wire = Wire(proxy.url)
    answer = wire.send(vector).receive(full_wait(3))
    wire.close()
    for _ in range(NEIGHBOURS):
        sent, logged = ask(proxy)
        assert sent == logged, answer
    return answer


@promise("A14")
@pytest.mark.parametrize("vector", REFUSED.values(), ids=REFUSED.keys())
def test_nothing_ambiguous_becomes_a_second_request(
    open_server: Server, anybody: Api, proxy: Proxy, vector: bytes
) -> None:
    """If nginx finds two requests in the attack, it sends both with ids; the server must see no
    others.
    """
    seen, before = Seen(open_server), len(proxy.sent())
    answer = attack(proxy, vector)
    assert len(seen.ids()) >= NEIGHBOURS
    assert phantoms(seen.ids(), proxy) == [], answer[:300]
    sent = proxy.sent()[before:-NEIGHBOURS]
    print("nginx took it for", [(one["status"], one["to"] != "") for one in sent])
    assert anybody.count() == len([one for one in sent if one["status"] == 201])
    assert len(statuses(answer)) <= max(1, len(sent))


@promise("A14")
@pytest.mark.parametrize("vector", ONE_REQUEST.values(), ids=ONE_REQUEST.keys())
def test_a_body_is_not_the_next_request(
    open_server: Server, anybody: Api, proxy: Proxy, vector: bytes
) -> None:
    seen, before = Seen(open_server), len(proxy.sent())
    answer = attack(proxy, vector)
    # Nginx logs a request after the request has ended.
    until(lambda: len(proxy.sent()) >= before + 1 + NEIGHBOURS)
    sent = proxy.sent()[before:]
    assert len(sent) == 1 + NEIGHBOURS, sent
    # A request that nginx itself refuses would prove nothing about the server.
    assert all(one["to"] for one in sent)
    assert phantoms(seen.ids(), proxy) == [], answer[:300]
    assert anybody.count() == 0


# Negative controls -----------------------------------------------------------------------------


def test_a_request_past_the_proxy_is_seen(open_server: Server, anybody: Api, proxy: Proxy) -> None:
    """Negative control: `phantoms` reports the hidden request if it is sent without nginx, and not
    if it is sent through it.
    """
    seen = Seen(open_server)
    assert statuses(raw(open_server.url, PHANTOM)) == [201]
    assert len(phantoms(seen.ids(), proxy)) == 1
    seen = Seen(open_server)
    pipeline = post("Content-Length: 0", body=create(new_name()))
    assert statuses(raw(proxy.url, pipeline)) == [415, 201] or anybody.count() == 2
    assert phantoms(seen.ids(), proxy) == []
    assert anybody.count() == 2


class Careless(socketserver.BaseRequestHandler):
    """A server that reads heads but no bodies, so that it takes a body for the next request."""

    def handle(self) -> None:
        pending = b""
        with suppress(ConnectionError):
            while data := self.request.recv(65536):
                *heads, pending = (pending + data).split(b"\r\n\r\n")
                for head in heads:
                    self._answer(head)

    def _answer(self, head: bytes) -> None:
        match = re.search(rb"X-Request-Id: (\w+)", head)
        name = match[1] if match else b"none"
        self.server.seen.append(name.decode())  # type: ignore[attr-defined]
        body = b'{"request_id":"%s"}' % name
        start = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.request.sendall(start + body)


@contextmanager
def careless() -> Iterator[tuple[str, list[str]]]:
    """Yields the URL of the careless server, and the ids of all requests that it read."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Careless) as server:
        server.daemon_threads = True
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", server.seen  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("manner", MANNERS)
def test_a_server_that_reads_no_bodies_is_found_out(manner: str) -> None:
    """Negative control: `phantoms` finds out a server that reads no bodies."""
    with careless() as (url, seen), nginx(url, manner) as proxy:
        assert ask(proxy) == (seen[0], seen[0])
        attack(proxy, ONE_REQUEST["GET"])
        until(lambda: phantoms(seen, proxy))
