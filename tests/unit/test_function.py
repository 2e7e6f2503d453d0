"""Function: its states, each transition between them, and the rules for values from users."""

import pytest

from contract.stores import a_function
from quiltfn.model.errors import NEXT_STEP, Unprocessable
from quiltfn.model.function import (
    NEXT,
    FunctionEvent,
    FunctionState,
    check_targets,
    not_active,
)
from quiltfn.model.state_machine import InvalidTransition
from unit.transition_table import check_table

TABLE = """
pending:   deploy > deploying, delete > deleted
deploying: ready > active, failed > error, pause > paused, delete > deleted
active:    pause > paused, delete > deleted
paused:    deploy > deploying, delete > deleted
error:     deploy > deploying, delete > deleted
deleted:
"""


def test_the_states_are_the_table_and_every_other_event_raises() -> None:
    check_table(NEXT, FunctionState, FunctionEvent, TABLE)


def test_an_event_moves_the_function_and_keeps_or_clears_its_error() -> None:
    deploying = a_function(state=FunctionState.DEPLOYING, error_message="old")
    failed = deploying.after(FunctionEvent.FAILED, 7).failing("no such directory")
    assert (failed.state, failed.error_message, failed.updated_at) == (
        FunctionState.ERROR,
        "no such directory",
        7,
    )
    assert failed.after(FunctionEvent.DEPLOY, 8).error_message is None
    with pytest.raises(InvalidTransition):
        failed.after(FunctionEvent.READY, 9)


def test_every_state_that_refuses_calls_names_the_call_that_helps() -> None:
    refusing = set(FunctionState) - {FunctionState.ACTIVE, FunctionState.DELETED}
    assert set(NEXT_STEP) == refusing
    for state in refusing:
        error = not_active(state)
        assert error.details == {"state": state}
        assert error.hint
        assert error.see is None or error.see.text in error.hint


@pytest.mark.parametrize(("low", "high"), [(1, 0), (-1, 1), (2, 1), (1001, 1000)])
def test_targets_that_are_refused(low: int, high: int) -> None:
    for taken in ((0, 1), (1, 1), (0, 1000), (1000, 1000), (5, 5)):
        check_targets(*taken)
    with pytest.raises(Unprocessable, match="min_instances must be between"):
        check_targets(low, high)
