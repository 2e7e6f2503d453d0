"""The Python runner in the oldest supported interpreter, and in the newest one on this machine."""

from __future__ import annotations

import ast
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from timeouts import scaled

RUNNER = Path(__file__).parents[2] / "src/quiltfn/guest/runners/python.py"
OLDEST = "3.9"
VERSIONS = [OLDEST, f"3.{sys.version_info.minor}"]

MODULE = """
import asyncio, sys
def text(event, context): return f"{event['a']} {context.invocation_id}"
def raw(): return bytearray(b"raw")
def parts(event):
    yield "one"
    yield {"two": 2}
    yield memoryview(b"three")
async def later(event):
    await asyncio.sleep(0)
    print("printed")
    return [event, sys.version_info[1], any(one.endswith("/runners") for one in sys.path)]
def wrong(event): raise ValueError("no")
"""


# Descriptor 3 must be the socket; other descriptors are closed.
AS_THE_GUEST = """
import os, sys
control = int(sys.argv[1])
if control != 3:
    os.dup2(control, 3)
    os.close(control)
os.set_inheritable(3, True)
os.execv(sys.argv[2], sys.argv[2:])
"""


def interpreter(version: str) -> str:
    """The path of this Python; if it is missing, the test is skipped with a reason."""
    if version == VERSIONS[-1]:
        return sys.executable
    places = [shutil.which(f"python{version}")]
    places += sorted(map(str, (Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python")))
    for place in filter(None, places):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([place, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return place
    pytest.skip(f"no Python {version} here: that the runner works in it is not shown")


class Runner:
    """A runner that was started as the guest does it, and the guest's end of its socket."""

    def __init__(self, control: socket.socket, result: int, log: int) -> None:
        self.control, self.result, self.log = control, result, log
        self.control.settimeout(scaled(20))
        self.rest = b""

    def line(self) -> str:
        while b"\n" not in self.rest:
            data = self.control.recv(4096)
            assert data, "it ended"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()

    def call(self, number: int, payload: bytes) -> tuple[str, bytes]:
        variables = b"QUILT_INVOCATION_ID=i%d\0" % number
        head = f"call {number} 1000 add {len(variables)} {len(payload)}".ljust(63) + "\n"
        read, write = os.pipe()
        streams = [0, write, self.log]
        socket.send_fds(self.control, [head.encode() + variables + payload], streams)
        os.close(write)
        word, same, end, *rest = self.line().split(" ")
        assert (word, same) == ("done", str(number))
        size = int(rest[1]) if len(rest) > 1 else 0
        while len(self.rest) < size:
            self.rest += self.control.recv(4096)
        behind, self.rest = self.rest[:size], self.rest[size:]
        with open(read, "rb") as forks, now_in(self.result) as own:
            return f"{end} {rest[0]}", forks.read() + own + behind


@contextmanager
def now_in(descriptor: int) -> Iterator[bytes]:
    """Yields the bytes that are in a pipe now."""
    os.set_blocking(descriptor, False)
    try:
        yield os.read(descriptor, 1 << 16)
    except BlockingIOError:
        yield b""


@contextmanager
def started(python: str, directory: Path, handler: str, *, keep: bool) -> Iterator[Runner]:
    (directory / "mod.py").write_text(MODULE)
    ours, its = socket.socketpair()
    read, write = os.pipe()
    log = (directory / "log").open("wb")
    environment = {"PYTHONPATH": str(directory), "QUILT_HANDLER": f"mod:{handler}"}
    environment |= {"QUILT_KEEP": str(int(keep)), "PATH": os.defpath}
    process = subprocess.Popen(
        [sys.executable, "-c", AS_THE_GUEST, str(its.fileno()), python, "-s", str(RUNNER)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=log,
        pass_fds=[its.fileno()],
    )
    its.close()
    os.close(write)
    try:
        yield Runner(ours, read, log.fileno())
    finally:
        ours.close()
        assert process.wait(scaled(20)) == 0, (directory / "log").read_text()
        os.close(read)
        log.close()


class Case(NamedTuple):
    handler: str
    payload: bytes
    end: str
    result: str


CASES = [
    Case("text", b'{"a": 1}', "exited 0", "1 i{number}"),
    Case("raw", b"", "exited 0", "raw"),
    Case("parts", b"", "exited 0", 'one{{"two": 2}}\nthree'),
    Case("later", b"[]", "exited 0", "[[], {minor}, false]"),
    Case("wrong", b"", "exited 1", ""),
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keep", [True, False], ids=["keeps", "forks"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.handler)
def test_it_runs_in_what_it_says(tmp_path: Path, version: str, keep: bool, case: Case) -> None:
    python, minor = interpreter(version), version.partition(".")[2]
    with started(python, tmp_path, case.handler, keep=keep) as runner:
        if not keep:
            assert runner.line() == "forks ahead"
        assert runner.line() == "result stdout"
        assert runner.line() == ("ready keep" if keep else "ready fork")
        for number in (1, 2):
            if number == 2 and not keep:
                runner.control.sendall(b"ahead".ljust(63) + b"\n")
            wanted = case.result.format(number=number, minor=minor).encode()
            assert runner.call(number, case.payload) == (case.end, wanted)
    log = (tmp_path / "log").read_text()
    assert ("printed" in log) is (case.handler == "later")
    assert ("ValueError: no" in log) is (case.handler == "wrong")


def test_it_is_written_in_the_language_of_the_oldest() -> None:
    minor = int(OLDEST.partition(".")[2])
    tree = ast.parse(RUNNER.read_text(), feature_version=(3, minor))
    documented = (
        ast.get_docstring(tree),
        (RUNNER.parents[4] / "docs/how-to/base-images.md").read_text(),
    )
    assert all(text and f"Python {OLDEST} " in text for text in documented)
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case _: pass\n", feature_version=(3, minor))
