"""Commands that are run in this process, for tests of the command line."""

import json
import shlex
from typing import Any, NamedTuple

import pytest

from quiltfn.cli import run
from unit.canned_server import Fake


class Printed(NamedTuple):
    """What a command wrote."""

    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of its output, with single spaces."""
        return [" ".join(line.split()) for line in self.out.splitlines()]

    @property
    def data(self) -> Any:
        """Its output, which is JSON."""
        return json.loads(self.out)


class CommandLine(Fake):
    """A server of canned answers, and commands that ask it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self._capsys = capsys

    def run(self, line: str, *more: str, code: int = 0) -> Printed:
        """What `quiltfn` prints that is typed with this line, and ends with this exit code. `more`:
        words that have spaces or are not known to have none.
        """
        ended = run([*shlex.split(line), *more])
        printed = Printed(*self._capsys.readouterr())
        assert ended == code, printed
        return printed

    def sent(self, method: str, path: str) -> Any:
        """The body of the one request like this."""
        (at,) = [at for at, asked in enumerate(self.asked) if asked == (method, path)]
        return self.bodies[at]
