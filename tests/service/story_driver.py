"""What a story needs of the server it is told on: the API, and the hands of an operator.

Stories (see `story_machine.py`) are told on fake sandboxes in this process (`story_fake.py`) and on
real ones in a real server (`tests/e2e/story_real.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx

# A directory that no sandbox has: what names it can be stored, and cannot stand.
NOWHERE = "/missing"


def handler(mark: str) -> str:
    """Says what it is, then does what the payload says: nothing, `exit N` or `sleep SECONDS`."""
    return (
        f'echo "{mark} $QUILT_FUNCTION_VERSION"; case "$QUILT_PAYLOAD" in '
        "exit*) exit ${QUILT_PAYLOAD#exit };; "
        "sleep*) exec sleep ${QUILT_PAYLOAD#sleep };; esac"
    )


class Running(Protocol):
    """A request that was sent and whose answer nobody has waited for yet."""

    def done(self) -> bool:
        """Whether the answer is there."""

    def answer(self) -> httpx.Response | None:
        """Waits for it; None where the connection ended instead."""


class Driver(Protocol):
    """A server."""

    @property
    def slow(self) -> Sequence[float]:
        """How long slow handlers run, in seconds, from a moment to long."""

    @property
    def delays(self) -> Sequence[int]:
        """By how much accepted work is delayed, in seconds, from nothing to long."""

    @property
    def is_fleet(self) -> bool:
        """Whether any of several nodes is asked. Counts of others are those of a moment ago, and
        calls may run on another node than the one that is restarted.
        """

    def unix(self) -> float:
        """The time, in Unix seconds."""

    def runs(self, invocation_id: str) -> int | None:
        """How often a handler began with that call; None where nobody can tell."""

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request and its answer."""

    def start_call(self, method: str, path: str, body: Any = None) -> Running:
        """Sends a request and lets the server get as far as it gets without waiting."""

    def wait(self, seconds: float) -> None:
        """Lets that much time pass."""

    def kill_sandbox(self, which: int) -> bool:
        """Ends the process of one of the sandboxes, and returns once the server has seen it.

        False where there is none.
        """

    def restart(self, *, kill: bool) -> None:
        """Ends the server, with notice or by `kill -9`, and starts it on what is on its disk."""

    def sandboxes(self) -> int:
        """How many there are, by the word of the OCI runtime."""

    def of_function(self, key: str) -> tuple[int, int] | None:
        """Sandboxes whose mark begins with that key: now, and the most since this was asked last.

        None where nobody can tell.
        """

    def complaints(self) -> list[str]:
        """What the server said of its own mistakes."""

    def close(self) -> None:
        """Ends it and looks at what it has left."""


class Tell(Protocol):
    """Opens a server for one story. `speed` picks one of its kinds, if it has several."""

    def __call__(self, speed: int, /) -> Driver: ...
