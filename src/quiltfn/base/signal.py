"""Signal: who hears of something, in an order that one place declares."""

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Signal(Generic[P]):
    """Whoever makes it calls each of its `hearers` with the news, inline: a call of its own would
    cost every invocation something. None of them may raise or wait.
    """

    __slots__ = ("hearers",)

    def __init__(self) -> None:
        self.hearers: tuple[Callable[P, None], ...] = ()

    def connect(self, *hearers: Callable[P, None]) -> None:
        """All of them at once, in their order: a second place cannot add one."""
        assert not self.hearers, "it is connected already"
        self.hearers = hearers

    def disconnect(self) -> None:
        """Nobody hears of it any more."""
        self.hearers = ()
