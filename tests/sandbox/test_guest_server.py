"""The real guest with a web server: it sends sockets and the log as descriptors,
and gets no calls.
"""

from __future__ import annotations

import os
import socket
import struct

import pytest

from promises import promise
from quiltfn.guest.wire import (
    ASK_SOCKET,
    SERVER,
    End,
    Event,
    ExitKind,
    Socket,
    Specialised,
    encode_call,
    encode_specialise,
)
from sandbox.bare_guest import BareGuest
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for the guest's namespaces"),
    promise("R34"),
]
GONE, BAD_FRAME = 0, 2
ECHO = """
import os, socket, sys
print(os.getuid(), sorted(map(int, os.listdir("/proc/self/fd")))[:-1], flush=True)
print("on the other one", file=sys.stderr, flush=True)
listener = socket.create_server(("127.0.0.1", 45871))
if os.fork() == 0:
    import time
    time.sleep(600)
while True:
    one, _ = listener.accept()
    data = one.recv(100)
    if data == b"end":
        os._exit(7)
    one.sendall(data)
"""


def next_with_descriptors(guest: BareGuest) -> tuple[Event, list[int]]:
    data, descriptors, _, _ = socket.recv_fds(guest.socket, 1 << 16, 4)
    (event,) = guest.decoder.feed(data)
    return event, descriptors


def serve(guest: BareGuest, source: str = ECHO) -> int:
    """Starts a web server in the guest; returns the descriptor of its log."""
    argv = ["/usr/bin/python3", "-I", "-c", source]
    frame = encode_specialise(argv=argv, cwd="/", environment={}, flags=SERVER)
    guest.socket.sendall(frame)
    event, (log,) = next_with_descriptors(guest)
    assert event == Specialised(0, "")
    return log


def ask_socket(guest: BareGuest) -> socket.socket:
    guest.socket.sendall(ASK_SOCKET)
    event, (descriptor,) = next_with_descriptors(guest)
    assert event == Socket(0)
    connection = socket.socket(fileno=descriptor)
    connection.settimeout(scaled(10))
    return connection


def connected(guest: BareGuest) -> socket.socket:
    """A connection to the web server in the sandbox, which may still be starting."""
    while True:
        connection = ask_socket(guest)
        try:
            connection.connect(("127.0.0.1", 45871))
            return connection
        except ConnectionRefusedError:
            connection.close()


def test_sockets_reach_the_server_and_nobody_else(empty: BareGuest) -> None:
    log = serve(empty)
    for text in (b"one", b"two"):
        with connected(empty) as connection:
            connection.sendall(text)
            assert connection.recv(100) == text
    # Negative control: a socket of the host does not reach this web server.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 45871), scaled(5)).close()
    # The web server has only three descriptors and runs as the handler's user; both outputs are in
    # one log.
    assert os.read(log, 1000) == b"1000 [0, 1, 2]\non the other one\n"
    os.close(log)


def test_several_requests_in_one_packet_are_answered(empty: BareGuest) -> None:
    log = serve(empty)
    connected(empty).close()
    empty.socket.sendall(5 * ASK_SOCKET)
    for _ in range(5):
        data, descriptors, _, _ = socket.recv_fds(empty.socket, 12, 4)
        assert (data, len(descriptors)) == (struct.pack("<III", ord("D"), 4, 0), 1)
        os.close(descriptors[0])
    os.close(log)


def test_its_end_is_told_once_everything_that_it_began_is_gone(empty: BareGuest) -> None:
    log = serve(empty)
    with connected(empty) as connection:
        connection.sendall(b"end")
        assert empty.next() == End(0, ExitKind.EXITED, 7, 0, 0, "")
    while os.read(log, 1000):  # the log ends, since no process has its other end any more
        pass
    os.close(log)
    assert empty.wait() == GONE
    assert empty.processes() == []


def test_a_program_that_is_not_there_is_told(empty: BareGuest) -> None:
    failure = empty.specialise(["/no/such"], flags=SERVER)
    assert failure.errno == 2
    assert failure.text.startswith("the sandbox could not execute /no/such: No such file")
    assert empty.wait() == GONE


@pytest.mark.parametrize(
    "frame",
    [
        encode_call(nonce=1, timeout_ms=1000, environment={}),
        ASK_SOCKET[:4] + b"\1\0\0\0" + b"x",
        b"?" + ASK_SOCKET[1:],
    ],
    ids=["call", "payload", "unknown"],
)
def test_a_server_that_is_sent_nonsense_ends_its_sandbox(empty: BareGuest, frame: bytes) -> None:
    os.close(serve(empty))
    empty.socket.sendall(frame)
    assert empty.wait() == BAD_FRAME
    assert empty.processes() == []
