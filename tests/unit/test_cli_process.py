"""The command as a process: loaded modules, exit, and standard input."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from timeouts import scaled
from unit.canned_server import INVOCATION
from unit.terminals import serving

pytestmark = promise("M5")

QUILTFN = [sys.executable, "-m", "quiltfn"]
NOBODY = "http://127.0.0.1:9"
# Modules that `invoke` does not need and that load slowly.
HEAVY = {"httpx", "rich", "pygments", "asyncio", "watchfiles", "click", "tarfile", "cryptography"}
HEAVY |= {"dataclasses", "inspect", "yaml", "argcomplete", "getpass"}


def ended(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. `options`: further arguments of `subprocess.run`."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | options
    return subprocess.run(
        words, stderr=subprocess.PIPE, text=True, timeout=scaled(30), check=False, **options
    )


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return ended(sys.executable, "-c", code, **options)


def loaded_by(line: str) -> tuple[int, set[str]]:
    """The exit code of a command, and the modules that it loaded."""
    env = {**os.environ, "QUILT_BASE_URL": NOBODY}
    done = ended(sys.executable, "-X", "importtime", "-m", "quiltfn", *line.split(), env=env)
    return done.returncode, set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE))


@promise("M4")
@pytest.mark.parametrize("line", ["invoke hello", "functions deploy hello", "--version"])
def test_a_command_loads_what_it_needs_and_no_more(line: str) -> None:
    loaded = {name.split(".")[0] for name in loaded_by(line)[1]}
    assert "quiltfn" in loaded
    assert not loaded & HEAVY


# Modules for reading a database, and those that only a server needs.
STORE, SERVER = {"sqlalchemy"}, {"structlog", "rich", "pygments", "quiltfn.launcher.main"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory whose database has one key."""
    data = tmp_path_factory.mktemp("keys") / "data"
    subprocess.run([*QUILTFN, "keys", "create", "--data-dir", str(data)], check=True)
    return data


@pytest.mark.parametrize(
    ("line", "code", "spared"),
    [
        ("keys --help", 0, STORE | SERVER | {"asyncio"}),
        ("keys list --data-dir /does/not/exist", 74, STORE | SERVER | {"asyncio"}),
        ("keys create --data-dir DATA", 0, SERVER),
        ("keys list --data-dir DATA", 0, SERVER),
    ],
)
def test_keys_load_only_the_store(database: Path, line: str, code: int, spared: set[str]) -> None:
    """The database exists before the command runs, since only its creation needs the migrations."""
    returned, loaded = loaded_by(line.replace("DATA", str(database)))
    assert returned == code
    assert "quiltfn.operator.keys" in loaded
    assert not loaded & spared


@pytest.mark.parametrize("asked", ["keys --help", "completion of serve"])
def test_a_local_command_is_not_looked_for_in_the_directory(tmp_path: Path, asked: str) -> None:
    marker = tmp_path / "it-ran"
    for name in ("quiltfn/__init__.py", "quiltfn/__main__.py", "msgspec.py", "argparse.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    installed = str(Path(sys.executable).with_name("quiltfn"))
    line = "quiltfn serve --"
    shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    shell |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "completed")}
    is_completion = asked.startswith("completion")
    words = [] if is_completion else asked.split()
    env = {**os.environ, **(shell if is_completion else {})}
    done = ended(installed, *words, cwd=tmp_path, env=env)
    assert not marker.exists()
    text = (tmp_path / "completed").read_text() if is_completion else done.stdout
    assert ("--data-dir" if is_completion else "usage: quiltfn keys") in text


def test_libraries_and_threads_are_loaded_when_they_are_needed() -> None:
    code = "import sys, quiltfn.sdk as s, quiltfn.cli.functions, quiltfn.cli.work, quiltfn.cli.dev;"
    code += "late = {'httpx', 'concurrent.futures', 'logging'};"
    code += "print(late & set(sys.modules), s.AsyncClient.__name__, 'httpx' in sys.modules)"
    assert python(code).stdout == "set() AsyncClient True\n"


# --- standard input ----------------------------------------------------------------------------


@contextmanager
def answering(stdout: str = "hello\n") -> Iterator[tuple[str, list[Any]]]:
    """A server that answers every call with the same record. Yields its address and the list of the
    request bodies.
    """
    bodies: list[Any] = []

    def reply(_path: str, body: bytes) -> dict[str, Any]:
        bodies.append(json.loads(body))
        return {**INVOCATION, "stdout": stdout}

    with serving(reply) as url:
        yield url, bodies


@promise("M6")
@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("printf 'a\\r\\nb' | QUILTFN", {"payload": "a\r\nb"}),
        ("QUILTFN </etc/hostname", {"payload": Path("/etc/hostname").read_text()}),
        ("(sleep 0.3; echo late) | QUILTFN", {"payload": "late\n"}),
        ("echo x | QUILTFN --payload y", {"payload": "y"}),
        ("echo x | QUILTFN --payload ''", {"payload": ""}),
        ("echo x | QUILTFN --payload-file -", {"payload": "x\n"}),
        ("QUILTFN </dev/null", {}),
        ("QUILTFN <&-", {}),
        (": | QUILTFN", {}),
        ("sleep 9 | QUILTFN --payload y & wait %1", {"payload": "y"}),
    ],
)
def test_what_is_piped_in_is_the_payload(typed: str, sent: dict[str, str]) -> None:
    with answering() as (url, bodies):
        typed = typed.replace("QUILTFN", f"{sys.executable} -m quiltfn invoke cat --url {url}")
        with subprocess.Popen(
            ["/bin/bash", "-c", typed], stdout=subprocess.PIPE, start_new_session=True
        ) as shell:
            deadline = time.monotonic() + scaled(20)
            while not bodies and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(shell.pid, signal.SIGTERM) if "sleep 9" in typed else shell.wait(scaled(20))
    assert bodies == [sent]


INVOKE = f"sys.exit(run(['invoke', 'cat', '--url', '{NOBODY}']))"
PAYLOAD = "import sys; from quiltfn.cli import payload, run; payload."


@promise("M6")
def test_a_pipe_that_nobody_writes_to_is_given_up_with_advice() -> None:
    reader, writer = os.pipe()
    done = python(f"{PAYLOAD}SILENCE_S = 0.2; {INVOKE}", stdin=reader)
    os.close(reader)
    os.close(writer)
    assert done.returncode == 2
    assert "neither written to nor closed" in done.stderr
    assert "/dev/null" in done.stderr


def test_a_pipe_that_never_ends_is_given_up_too() -> None:
    with subprocess.Popen(["/usr/bin/yes"], stdout=subprocess.PIPE) as endless:
        done = python(f"{PAYLOAD}PIPED_MAX_BYTES = 1 << 20; {INVOKE}", stdin=endless.stdout)
        endless.terminate()
    assert done.returncode == 2
    assert "more than 1 MiB" in done.stderr


# --- exit --------------------------------------------------------------------------------------


def test_ctrl_c_is_130_without_a_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*QUILTFN, "invoke", "hello", "--url", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        connection.recv(65536)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=scaled(10))
        connection.close()
    assert (process.returncode, out, err) == (130, "", "")


HALF_MADE = """
import http.client, socket, sys
from quiltfn.cli import root
class Other:
    def __del__(self): self.gone
sys.unraisablehook = root.of_interrupted
http.client.HTTPResponse.__new__(http.client.HTTPResponse)
socket.SocketIO.__new__(socket.SocketIO)
assert {control}
"""


@pytest.mark.parametrize(
    "control",
    [
        "True",
        "Other()",
        "not setattr(sys, 'unraisablehook', "
        "sys.__unraisablehook__) and socket.SocketIO.__new__(socket.SocketIO)",
    ],
)
def test_a_connection_that_was_interrupted_while_it_was_made_is_not_told_of(control: str) -> None:
    done = python(HALF_MADE.format(control=control))
    assert done.returncode == 0
    assert ("Exception ignored" in done.stderr) is (control != "True")


@pytest.mark.parametrize("after_s", [0, 0.02, 0.05])
def test_ctrl_c_while_it_starts_is_no_traceback_either(after_s: float) -> None:
    """`after_s`: since it loaded its first library. Before that, Python handles the signal."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*QUILTFN, "invoke", "hello", "--url", url],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while "msgspec" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=scaled(10))
        except subprocess.TimeoutExpired:
            # The exception was raised where Python discards exceptions, such as in a finalizer.
            # Users would press Ctrl-C again.
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=scaled(10))
    # If the signal arrives in code that a dataclass generates, Python ends itself by the signal,
    # even if the program handles it. A shell sees 130 in both cases.
    assert process.returncode in (130, -signal.SIGINT)
    assert err == ""


@pytest.mark.parametrize(
    "line", ["invoke hello", "invoke hello -o json", "doctor", "doctor -o json", "--version"]
)
def test_a_reader_that_has_gone_is_no_traceback(line: str) -> None:
    with answering("x" * 1_000_000) as (url, _):
        reader, writer = os.pipe()
        os.close(reader)
        env = {**os.environ, "QUILT_BASE_URL": url}
        done = ended(*QUILTFN, *line.split(), stdout=writer, env=env)
        os.close(writer)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == 141


def test_output_that_is_closed_is_no_traceback() -> None:
    with answering() as (url, bodies):
        words = " ".join([*QUILTFN, "invoke hello --url", url])
        done = ended("/bin/bash", "-c", f"{words} >&- 2>&- </dev/null")
    assert (done.returncode, done.stderr, len(bodies)) == (0, "", 1)
