"""The programs of others that commands run: pip, uv, npm, pnpm, skopeo. Each may fail, be killed,
say anything in any encoding, and wait for ever for somebody who does not answer.
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

# Of these a key of a server is one.
OWN_VARIABLES = ("QUILT_", "QUILTFN_")
SAID_MAX = 2000
TIMEOUT_SECONDS = 900
# How long a program has to end by itself once it was told to.
GRACE_SECONDS = 5
# What ends a command, as far as the system has it.
ENDING = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    ENDING.append(signal.SIGHUP)

_timeout_seconds: ContextVar[float] = ContextVar("timeout_seconds", default=TIMEOUT_SECONDS)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """How long each program may take that is run within."""
    token = _timeout_seconds.set(seconds)
    try:
        yield
    finally:
        _timeout_seconds.reset(token)


def found(name: str) -> str | None:
    """The path of a program, beside this Python or on the PATH; None: there is none. The directory
    that a command is given in is not searched: somebody else may have made it.
    """
    places = [str(Path(sys.executable).parent), search_path(os.environ.get("PATH", os.defpath))]
    path = shutil.which(name, path=os.pathsep.join(places))
    return path if path and os.path.isabs(path) else None


def search_path(path: str) -> str:
    """A PATH without what depends on the current directory."""
    return os.pathsep.join(one for one in path.split(os.pathsep) if os.path.isabs(one))


def run(
    command: Sequence[str],
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in the directory (else here) and with the variables (else
    those of this process, without our own).
    What it puts aside, where it is given variables, is removed with it. An exception here, or the
    time limit, ends it and all that it has started. Raises `BadParameter` if it cannot be run or
    takes too long.
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
                    f"{Path(command[0]).name} was ended: it was not done after {seconds:g} s, as "
                    "where a registry does not answer (quiltfn runtimes add --timeout sets the "
                    f"limit){words}"
                ) from None
            except BaseException:
                _ended(process)
                raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _variables() -> dict[str, str]:
    return {name: it for name, it in os.environ.items() if not name.startswith(OWN_VARIABLES)}


def _hold_signals() -> Callable[[], None]:
    """From now on signals that end the command wait, until what is returned is called. One that
    came while a program is started would leave that behind: nobody has its number yet.
    """
    came: list[int] = []
    held: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():  # others get no signals
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
    """Ends a program and what it has started, and gives what they had said. What leaves the group
    is not waited for.
    """
    output = errors = ""
    try:
        _end(process, gently=True)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE_SECONDS)
    finally:  # also where somebody does not wait for that
        _end(process)
        with suppress(subprocess.TimeoutExpired):
            output, errors = process.communicate(timeout=GRACE_SECONDS)
    return subprocess.CompletedProcess(process.args, 0, output, errors)


def _end(process: subprocess.Popen[str], *, gently: bool = False) -> None:
    if sys.platform == "win32":  # without groups of processes, and without a gentle way
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM if gently else signal.SIGKILL)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a program that failed has said, and which signal killed it, if one did."""
    words = (done.stderr.strip() or done.stdout.strip())[-SAID_MAX:]
    killed = f"it was killed by signal {-done.returncode}" if done.returncode < 0 else ""
    return "\n".join(filter(None, (words, killed)))
