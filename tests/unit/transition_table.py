"""Checks every pair of state and event of a state machine against a drawing."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from quiltfn.model.state_machine import InvalidTransition, transition


def read(drawn: str) -> dict[tuple[str, str], str]:
    """Read a drawing: `state: event > state, event > state` on each line; `state:` alone is a final
    state.
    """
    arrows: dict[tuple[str, str], str] = {}
    for line in drawn.strip().splitlines():
        state, _, rest = line.strip().partition(":")
        for arrow in filter(None, rest.split(",")):
            event, _, then = arrow.partition(">")
            arrows[state, event.strip()] = then.strip()
    return arrows


def check_table(
    table: Mapping[Any, Any], states: type[StrEnum], events: type[StrEnum], drawn: str
) -> None:
    """Check that the transitions in `drawn` happen, and that all others raise an error, which names
    the last events.
    """
    arrows = read(drawn)
    assert set(table) == set(states), "a state without a row"
    seen = set()
    for state in states:
        for event in events:
            expected = arrows.get((state.value, event.value))
            if expected is None:
                with pytest.raises(InvalidTransition, match="before: one, two") as raised:
                    transition(table, state, event, ["one", "two"])
                assert f"{event.value!r} cannot happen in {state.value!r}" in str(raised.value)
            else:
                assert transition(table, state, event).value == expected
                seen.add((state.value, event.value))
    assert seen == set(arrows), "the drawing names something that does not exist"
