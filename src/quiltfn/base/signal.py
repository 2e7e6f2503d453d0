"""Signal: the receivers of a notification, whose order is declared in one place."""

from collections.abc import Callable
from typing import Generic, ParamSpec

P = ParamSpec("P")


class Signal(Generic[P]):
    """The owner of a signal calls each of its `hearers` itself: a method for that would slow down
    every invocation. Hearers must not raise or wait.
    """

    __slots__ = ("hearers",)

    def __init__(self) -> None:
        self.hearers: tuple[Callable[P, None], ...] = ()

    def connect(self, *hearers: Callable[P, None]) -> None:
        """Sets all hearers at once, in their order. No other code can add hearers."""
        assert not self.hearers, "it is connected already"
        self.hearers = hearers

    def disconnect(self) -> None:
        """Removes all hearers."""
        self.hearers = ()
