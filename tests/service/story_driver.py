"""The means by which a story controls its server: the API, and an operator's actions.

Stories (see `story_machine.py`) run on fake sandboxes in this process (`story_fake.py`) and on
real ones in a real server (`tests/e2e/story_real.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx

# This directory is missing in every sandbox, so a version that uses it can be stored, but not
# started.
NOWHERE = "/missing"


def handler(mark: str) -> str:
    """A handler that prints its mark and version, then obeys the payload: empty, `exit N` or `sleep
    SECONDS`.
    """
    return (
        f'echo "{mark} $QUILT_FUNCTION_VERSION"; case "$QUILT_PAYLOAD" in '
        "exit*) exit ${QUILT_PAYLOAD#exit };; "
        "sleep*) exec sleep ${QUILT_PAYLOAD#sleep };; esac"
    )


class Running(Protocol):
    """A request that was sent, and whose response may not have arrived yet."""

    def done(self) -> bool:
        """Whether the response has arrived."""

    def answer(self) -> httpx.Response | None:
        """Waits for the response; None if the connection ended instead."""


class Driver(Protocol):
    """A server under test, with the operations that a story needs."""

    @property
    def slow(self) -> Sequence[float]:
        """The durations of slow handlers in seconds, from the shortest to the longest."""

    @property
    def delays(self) -> Sequence[int]:
        """The delays of asynchronous invocations in seconds, from none to long."""

    @property
    def is_fleet(self) -> bool:
        """Whether requests go to any of several nodes. Counts of other nodes are slightly outdated,
        and invocations may run on a node other than the restarted one.
        """

    def unix(self) -> float:
        """The present time, in Unix seconds."""

    def runs(self, invocation_id: str) -> int | None:
        """How often the handler was started for the invocation; None: unknown."""

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Sends one request, and returns the response."""

    def start_call(self, method: str, path: str, body: Any = None) -> Running:
        """Sends a request, and lets the server run until it has to wait."""

    def wait(self, seconds: float) -> None:
        """Lets time pass."""

    def kill_sandbox(self, which: int) -> bool:
        """Ends the process of one of the sandboxes, and returns once the server has noticed.

        False if there are no sandboxes.
        """

    def restart(self, *, kill: bool) -> None:
        """Ends the server, by SIGTERM or SIGKILL, and starts it with the same data directory."""

    def sandboxes(self) -> int:
        """The number of sandboxes according to the OCI runtime."""

    def of_function(self, key: str) -> tuple[int, int] | None:
        """The number of sandboxes whose mark begins with this key: now, and its highest value since
        the last call.

        None if unknown.
        """

    def complaints(self) -> list[str]:
        """The internal errors in the server's log."""

    def close(self) -> None:
        """Ends the server, and checks that nothing is left of it."""


class Tell(Protocol):
    """Opens a server for one story. `speed`: selects one of its speeds, if it has several."""

    def __call__(self, speed: int, /) -> Driver: ...
