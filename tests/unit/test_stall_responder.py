"""The thread that answers instead of a blocked event loop: no caller keeps it from the others."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from promises import promise
from quiltfn.api.http import stall_responder
from quiltfn.api.http.stall_responder import ANSWER_WITHIN_S, StallResponder
from timeouts import scaled

pytestmark = promise("D25")

HEALTH = b"GET /health HTTP/1.1\r\n\r\n"


@dataclass
class Stalled:
    """A server whose event loop hangs until `seconds` is 0."""

    listener: socket.socket
    responder: StallResponder
    seconds: float = 5.0

    def connect(self, said: bytes = b"") -> socket.socket:
        caller = socket.create_connection(self.listener.getsockname(), timeout=scaled(10))
        caller.sendall(said)
        return caller

    def answer(self) -> bytes:
        with self.connect(HEALTH) as caller:
            return caller.recv(15)


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stalled]:
    monkeypatch.setattr(stall_responder, "LOOK_EVERY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        it = Stalled(listener, StallResponder(listener, None, lambda: it.seconds))
        it.responder.start()
        assert it.answer() == b"HTTP/1.1 200 OK"
        try:
            yield it
        finally:
            it.responder.stop()


@contextlib.contextmanager
def trickling(caller: socket.socket) -> Iterator[None]:
    """A caller that sends a byte now and then, until it is disconnected."""
    over = threading.Event()

    def trickle() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(ANSWER_WITHIN_S / 3):
                caller.sendall(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize(
    "said", [HEALTH, b"GET /health"], ids=["after its head", "within its head"]
)
def test_a_trickling_caller_is_cut_off_and_holds_up_nobody(stalled: Stalled, said: bytes) -> None:
    with stalled.connect(said) as slow, trickling(slow):
        began = time.monotonic()
        assert stalled.answer() == b"HTTP/1.1 200 OK"
        assert time.monotonic() - began < scaled(ANSWER_WITHIN_S)
        with contextlib.suppress(ConnectionResetError):
            while slow.recv(1024):
                pass
        assert time.monotonic() - began < scaled(3 * ANSWER_WITHIN_S)


def test_callers_who_say_nothing_keep_nobody_waiting(stalled: Stalled) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(8):
            silent.enter_context(stalled.connect())
        began = time.monotonic()
        assert stalled.answer() == b"HTTP/1.1 200 OK"
        assert time.monotonic() - began < scaled(ANSWER_WITHIN_S)


def test_a_stop_waits_for_no_caller(stalled: Stalled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_responder, "ANSWER_WITHIN_S", scaled(20))
    with stalled.connect(HEALTH[:5]) as slow:
        assert stalled.answer() == b"HTTP/1.1 200 OK"
        began = time.monotonic()
        stalled.responder.stop()
        assert time.monotonic() - began < scaled(2)
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(1) == b""


def test_an_endless_body_is_given_up(stalled: Stalled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall_responder, "ANSWER_WITHIN_S", scaled(20))
    body = b"x" * (4 * stall_responder.REST_MAX)
    with stalled.connect(HEALTH) as caller, pytest.raises(ConnectionError):
        caller.sendall(body)
