"""The contract, "Create": every field with its rule and its default."""

import os
from typing import Any

import pytest

from promises import promise
from spec.api_client import Api, new_name, of

pytestmark = [pytest.mark.sandbox, promise("A1")]
FUNCTIONS = "/api/functions"
DEFAULTS: dict[str, Any] = {
    "runtime": "shell",
    "cluster_id": None,
    "description": None,
    "memory_limit_mb": 256,
    "cpu_limit_percent": 100.0,
    "timeout_seconds": 30,
    "environment": {},
    "min_instances": 0,
    "max_instances": 5,
    "cleanup_on_exit": True,
    "working_directory": None,
}
CORES = len(os.sched_getaffinity(0))
BIG = "x" * (32 * 1024)
GOOD: list[tuple[str, Any]] = [
    ("name", "a"),
    ("name", "A-b.c_9"),
    ("name", "x" * 64),
    ("handler", "x"),
    ("handler", "x" * 65536),
    ("runtime", "shell"),
    ("cluster_id", "x" * 128),
    ("cluster_id", None),
    ("description", "é" * 1024),
    ("description", ""),
    ("description", None),
    ("memory_limit_mb", 256),
    ("memory_limit_mb", 512),
    ("cpu_limit_percent", 1),
    ("cpu_limit_percent", 12.5),
    ("cpu_limit_percent", 100.0),
    ("timeout_seconds", 1),
    ("timeout_seconds", 86_400),
    ("environment", {"A_1": "", "_": "ü"}),
    ("environment", {"A": BIG[3:]}),
    ("min_instances", 5),
    ("max_instances", 1),
    ("max_instances", 1000),
    ("cleanup_on_exit", False),
    ("working_directory", "/"),
    ("working_directory", "/app/x"),
    ("working_directory", "/" + "x" * 1023),
    ("working_directory", "/processes"),
    ("working_directory", None),
]
BAD: list[tuple[str, Any]] = [
    *[("name", one) for one in ("", "-a", "a-", ".a", "a_", "a b", "a/b", "ä", "x" * 65, "a\n")],
    ("handler", ""),
    ("handler", "x" * 65537),
    ("handler", "é" * 32769),
    ("handler", "a\0b"),
    ("runtime", "cobol"),
    ("runtime", ""),
    ("cluster_id", "x" * 129),
    ("description", "x" * 1025),
    ("memory_limit_mb", 255),
    ("memory_limit_mb", 10**9),
    ("cpu_limit_percent", 0.99),
    ("cpu_limit_percent", 100 * 1024),
    ("timeout_seconds", 0),
    ("timeout_seconds", 86_401),
    *[("environment", {one: "x"}) for one in ("", "1A", "A=B", "A B", "Ä", "QUILT_X", "A\0")],
    ("environment", {"A": "x\0"}),
    ("environment", {"A": "***"}),
    ("environment", {"A": BIG}),
    ("environment", {"A": 1}),
    ("environment", None),
    ("min_instances", -1),
    ("min_instances", 6),
    ("max_instances", 0),
    ("max_instances", 1001),
    ("cleanup_on_exit", "true"),
    ("cleanup_on_exit", 1),
    *[
        ("working_directory", one)
        for one in ("", "app", "/a/", "/a//b", "/a/../b", "/./a", "/proc", "/proc/1", "/sys/x",
                    "/dev/shm", "/a\0", "/" + "x" * 1024)
    ],
]  # fmt: skip


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
    told = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    assert field in told["error"]
    assert told["details"]["expected"]
    assert anybody.count() == 0


@pytest.mark.parametrize("field", ["name", "handler"])
def test_what_is_required(anybody: Api, field: str) -> None:
    body = {"name": new_name(), "handler": "echo"}
    del body[field]
    told = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    assert field in told["error"]


def test_a_name_is_unique_in_its_tenant(anybody: Api) -> None:
    name = new_name()
    anybody.create(name=name)
    told = anybody.refused("CONFLICT", 409, "POST", FUNCTIONS, {"name": name, "handler": "echo"})
    assert name in told["error"]


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
    nullable = {"cluster_id", "description", "working_directory"}
    for field in {"name", "handler", *DEFAULTS} - nullable:
        body = {"name": new_name(), "handler": "echo", field: None}
        told = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
        assert field in told["error"]
