"""Runs quiltfn's commands for tests, each in a forked process, which needs no imports.

Nine tenths of the CPU time of `quiltfn keys` or `quiltfn functions list` goes to the start of
Python and to imports. The forked process runs the program's own `main` with the command's
arguments, environment, directory and output. Tests with `e2e.server.QUILTFN` or `own_process` check
that a command finds its imports when it is started normally.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import Any

from forked import CONTEXT

# `serve` becomes the launcher, which must not have loaded the modules of other commands.
NEVER_FORKED = "serve"


def run(
    words: Sequence[str], timeout_s: float, *, cwd: str, env: Mapping[str, str]
) -> tuple[int, str, str]:
    """Returns the exit code of a command, its output and its errors. Raises
    `subprocess.TimeoutExpired` for a command that took too long and was killed.
    """
    with (
        open(os.devnull, "rb") as nothing,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
    ):
        files = [_Given(one.fileno()) for one in (nothing, out, errors)]
        process = CONTEXT.Process(target=_become, args=(list(words), cwd, dict(env), files))
        process.start()
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(words), timeout_s)
        code = process.exitcode
        assert code is not None
        out.seek(0)
        errors.seek(0)
        return code, out.read().decode(), errors.read().decode()


class _Given:
    """The descriptor of a file that the new process gets from this one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken, (DupFd(self.number),)


def _taken(given: Any) -> int:
    number: int = given.detach()
    return number


def _become(words: list[str], cwd: str, env: dict[str, str], files: Sequence[int]) -> None:
    """Turns this process into the command."""
    from quiltfn import __main__ as program  # noqa: PLC0415 — the tests' process has no use for it

    for number, descriptor in enumerate(files):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    sys.stdout = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding, closefd=False)  # noqa: SIM115
    sys.argv = words
    program.main()
