"""Runs external programs: pip, uv, npm, pnpm, skopeo. Each may fail, be killed, print anything in
any encoding, or wait forever for an unresponsive peer.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from quiltfn.cli import show
from quiltfn.cli.parsing import BadParameter

# Prefixes of quiltfn's own variables, one of which is a server's key.
OWN_VARIABLES = ("QUILT_", "QUILTFN_")
SAID_MAX = 2000
TIMEOUT_SECONDS = 900
# Time for a program to exit after SIGTERM.
GRACE_SECONDS = 5
# Signals that end a command.
ENDING = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    ENDING.append(signal.SIGHUP)

_timeout_seconds: ContextVar[float] = ContextVar("timeout_seconds", default=TIMEOUT_SECONDS)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Within the block, limit the time of each program."""
    token = _timeout_seconds.set(seconds)
    try:
        yield
    finally:
        _timeout_seconds.reset(token)


def found(name: str) -> str | None:
    """The path of a program, beside this Python or on the PATH. None: not found. The current
    directory is not searched, since another user may own it.
    """
    places = [str(Path(sys.executable).parent), search_path(os.environ.get("PATH", os.defpath))]
    path = shutil.which(name, path=os.pathsep.join(places))
    return path if path and os.path.isabs(path) else None


def search_path(path: str) -> str:
    """A PATH without entries that depend on the current directory."""
    return os.pathsep.join(one for one in path.split(os.pathsep) if os.path.isabs(one))


def run(
    command: Sequence[str],
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in the directory (default: the current one) and with the variables
    (default: those of this process without quiltfn's own). If variables are given, its temporary
    files are removed afterwards. An exception here, or the time limit, ends the program and all
    processes that it started. Raises `BadParameter` if it cannot be run or takes too long.
    """
    seconds = _timeout_seconds.get()
    with tempfile.TemporaryDirectory(prefix="quiltfn-", ignore_cleanup_errors=True) as aside:
        variables = {**environment, "TMPDIR": aside} if environment is not None else _variables()
        release = _hold_signals()
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            release()
            raise BadParameter(f"{command[0]} cannot be run: {error.strerror}") from None
        with process:
            try:
                release()
                output, errors = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                written = said(_ended(process))
                words = f". It said:{show.below(written)}" if written else ""
                raise BadParameter(
                    f"{Path(command[0]).name} was ended after {seconds:g} s; maybe a registry does "
                    f"not respond (quiltfn runtimes add --timeout sets the limit){words}"
                ) from None
            except BaseException:
                _ended(process)
                raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _variables() -> dict[str, str]:
    return {name: it for name, it in os.environ.items() if not name.startswith(OWN_VARIABLES)}


def _hold_signals() -> Callable[[], None]:
    """Hold signals that end the command until the returned function is called. A signal that
    arrives while a program starts would leave it running, since its process id is not known yet.
    """
    came: list[int] = []
    held: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # other threads get no signals
        for number in ENDING:
            if callable(signal.getsignal(number)):
                held[number] = signal.signal(number, lambda number, _: came.append(number))

    def release() -> None:
        for number, handler in held.items():
            signal.signal(number, handler)
        for received in came:
            signal.raise_signal(received)

    return release


def _ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """End a program and the processes that it started, and return their output. Does not wait for
    processes that left the process group.
    """
    output = errors = ""
    try:
        _end(process, gently=True)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE_SECONDS)
    finally:  # even if waiting is interrupted
        _end(process)
        with suppress(subprocess.TimeoutExpired):
            output, errors = process.communicate(timeout=GRACE_SECONDS)
    return subprocess.CompletedProcess(process.args, 0, output, errors)


def _end(process: subprocess.Popen[str], *, gently: bool = False) -> None:
    if sys.platform == "win32":  # Windows has neither process groups nor SIGTERM
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if gently else signal.SIGKILL)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The end of a failed program's output, and the signal that killed it, if any."""
    words = (done.stderr.strip() or done.stdout.strip())[-SAID_MAX:]
    killed = f"it was killed by signal {-done.returncode}" if done.returncode < 0 else ""
    return "\n".join(filter(None, (words, killed)))
