"""The transition function of the three state machines, by a table and with a clear error.

Each table is in the module of the object that it describes.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class InvalidTransition(RuntimeError):
    """An event that cannot happen in this state: a bug, never a user's mistake."""


def transition(
    table: Mapping[S, Mapping[E, S]], state: S, event: E, history: Iterable[str] = ()
) -> S:
    """The state after `event`. Raises `InvalidTransition` with the object's last events."""
    try:
        return table[state][event]
    except KeyError:
        story = ", ".join(history) or "nothing yet"
        raise InvalidTransition(
            f"{event.value!r} cannot happen in {state.value!r}; before: {story}"
        ) from None
