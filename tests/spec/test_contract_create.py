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


def test_a_name_is_unique_in_its_tenant(anybody: Api) -> None:
    name = new_name()
    anybody.create(name=name)
    error = anybody.refused("CONFLICT", 409, "POST", FUNCTIONS, {"name": name, "handler": "echo"})
    assert name in error["error"]


def test_one_core_is_100_percent(anybody: Api) -> None:
    limit = anybody.good("GET", "/api/system/info")["limits"]["cpu_limit_percent"]
    assert limit == 100 * CORES
    anybody.create(cpu_limit_percent=limit)
    body = {"name": new_name(), "handler": "x", "cpu_limit_percent": limit + 0.5}
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)


def test_the_memory_limit_of_the_host_is_the_most(anybody: Api) -> None:
    limit = int(anybody.good("GET", "/api/system/info")["limits"]["memory_limit_mb"])
    anybody.create(memory_limit_mb=limit)
    body = {"name": new_name(), "handler": "x", "memory_limit_mb": limit + 1}
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)


def test_the_environment_is_measured_after_merging_too(anybody: Api) -> None:
    half = "x" * (20 * 1024)
    function_id = anybody.active(environment={"A": half})
    path = f"{of(function_id)}/invoke"
    anybody.good("POST", path, {"environment": {"A": "short", "B": half}})
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", path, {"environment": {"B": half}})


def test_null_is_refused_where_a_field_is_not_nullable(anybody: Api) -> None:
    for field in (name for name, one in FIELDS.items() if "null" not in one.types):
        body = {"name": new_name(), "handler": "echo", field: None}
        error = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
        assert field in error["error"]
