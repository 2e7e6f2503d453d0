"""Function: its states, read as a table, and the rules for what the user may say."""

import re

import pytest

from contract.stores import a_function
from quiltfn.model.errors import NEXT_STEP, FunctionNotActive, Unprocessable
from quiltfn.model.function import (
    NEXT,
    RESERVED_NAMES,
    FunctionEvent,
    FunctionState,
    check_targets,
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
    failed = deploying.after(FunctionEvent.FAILED, 7, "no such directory")
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
        error = FunctionNotActive.because(state)
        assert error.details == {"state": state}
        assert error.hint


@pytest.mark.parametrize(
    "name", ["a", "A", "7", "my-function", "a.b_c-d", "a" * 64, "a--b", "by-names", "Invoke"]
)
def test_a_name_that_is_taken(name: str) -> None:
    a_function(name=name).validate()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a" * 65,
        "-a",
        "a-",
        ".a",
        "a.",
        "_a",
        "a_",
        ".",
        "..",
        "a b",
        "a/b",
        "a\n",
        "\na",
        "a\0",
        "ä",
        "а",  # noqa: RUF001  Cyrillic
        "ａ",  # noqa: RUF001  full width
        "a\u200bb",
        "a\u202eb",
        "a\u0301b",
        "٣",
        "a%2fb",
        *sorted(RESERVED_NAMES),
    ],
)
def test_a_name_that_is_refused(name: str) -> None:
    with pytest.raises(Unprocessable, match=r"^name must be"):
        a_function(name=name).validate()


def test_the_words_of_the_api_are_reserved() -> None:
    today = {"by-name", "invoke", "pool", "stats", "health", "help", "examples"}
    to_come = {"runtimes", "schedules", "keys", "audit", "nodes"}
    assert today | to_come <= RESERVED_NAMES


@pytest.mark.parametrize(("field", "most"), [("description", 1024), ("cluster_id", 128)])
def test_texts_have_a_limit(field: str, most: int) -> None:
    a_function(**{field: "ä" * most}).validate()
    a_function(**{field: ""}).validate()
    with pytest.raises(
        Unprocessable, match=rf"^{field} must be at most {most} characters"
    ) as error:
        a_function(**{field: "ä" * (most + 1)}).validate()
    assert len(str(error.value.details)) < 500, "the error repeats it all"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 1), (0, 1000), (1000, 1000), (5, 5)])
def test_targets_that_are_taken(low: int, high: int) -> None:
    check_targets(low, high)


@pytest.mark.parametrize(
    ("low", "high", "blamed"),
    [
        (0, 0, "max_instances"),
        (0, -1, "max_instances"),
        (0, 1001, "max_instances"),
        (-1, 1, "min_instances"),
        (2, 1, "min_instances"),
        (1001, 1000, "min_instances"),
    ],
)
def test_targets_that_are_refused(low: int, high: int, blamed: str) -> None:
    with pytest.raises(Unprocessable, match=re.escape(f"{blamed} must be between")):
        check_targets(low, high)
