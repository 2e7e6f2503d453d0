"""Runs commands in this process, for tests of the command line."""

import json
import shlex
from typing import Any, NamedTuple

import pytest

from quiltfn.cli import run
from unit.canned_server import Fake


class Printed(NamedTuple):
    """The output of a command."""

    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard output, with runs of spaces reduced to one."""
        return [" ".join(line.split()) for line in self.out.splitlines()]

    @property
    def data(self) -> Any:
        """Standard output, parsed as JSON."""
        return json.loads(self.out)


class CommandLine(Fake):
    """A server with canned responses, and commands that send requests to it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self._capsys = capsys

    def run(self, line: str, *more: str, code: int = 0) -> Printed:
        """Run `quiltfn` with the words of `line`, check the exit code, and return the output.
        `more`: further words, which may contain spaces.
        """
        ended = run([*shlex.split(line), *more])
        printed = Printed(*self._capsys.readouterr())
        assert ended == code, printed
        return printed

    def sent(self, method: str, path: str) -> Any:
        """The body of the only request with this method and path."""
        (at,) = [at for at, asked in enumerate(self.asked) if asked == (method, path)]
        return self.bodies[at]
