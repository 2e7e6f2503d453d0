"""The contract, "Create": every field with its rule and its default."""

import os
from typing import Any

import pytest

from promises import promise
from spec.api_client import Api, new_name, of
from spec.function_fields import FIELDS, REQUIRED

pytestmark = [pytest.mark.sandbox, promise("A1")]
FUNCTIONS = "/api/functions"
DEFAULTS = {name: one.default for name, one in FIELDS.items() if one.default is not REQUIRED}
CORES = len(os.sched_getaffinity(0))
GOOD = [(name, value) for name, one in FIELDS.items() for value in one.good]
BAD = [(name, value) for name, one in FIELDS.items() for value in one.bad]


def brief(value: object) -> str:
    return repr(value)[:40]


@pytest.mark.parametrize(("field", "value"), GOOD, ids=brief)
def test_a_value_inside_its_range_is_kept_as_it_is(anybody: Api, field: str, value: Any) -> None:
    body = {"name": new_name(), "handler": "echo hello", field: value}
    made = anybody.good("POST", FUNCTIONS, body, 201)["function_id"]
    answer = anybody.get(made)
    assert answer[field] == value
    for other, default in DEFAULTS.items():
        if other != field:
            assert answer[other] == default
            assert type(answer[other]) is type(default)


@pytest.mark.parametrize(("field", "value"), BAD, ids=brief)
def test_a_value_outside_its_range_is_refused_by_name(anybody: Api, field: str, value: Any) -> None:
    body = {"name": new_name(), "handler": "echo hello", field: value}
    error = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    assert field in error["error"]
    assert error["details"]["expected"]
    assert anybody.count() == 0


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in DEFAULTS])
def test_what_is_required(anybody: Api, field: str) -> None:
    body = {"name": new_name(), "handler": "echo"}
    del body[field]
    error = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    assert field in error["error"]


def test_cores_of_100_percent_and_the_memory_of_the_host_are_the_most(anybody: Api) -> None:
    limits = anybody.good("GET", "/api/system/info")["limits"]
    assert limits["cpu_limit_percent"] == 100 * CORES
    for field, more in (("cpu_limit_percent", 0.5), ("memory_limit_mb", 1)):
        anybody.create(**{field: limits[field]})
        body = {"name": new_name(), "handler": "x", field: limits[field] + more}
        anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)


def test_the_environment_is_measured_after_merging_too(anybody: Api) -> None:
    half = "x" * (20 * 1024)
    function_id = anybody.active(environment={"A": half})
    path = f"{of(function_id)}/invoke"
    anybody.good("POST", path, {"environment": {"A": "short", "B": half}})
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", path, {"environment": {"B": half}})
