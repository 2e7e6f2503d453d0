"""The constraints of each field of a function, at their limits and just beyond."""

import math
from typing import Any

import pytest

from promises import promise
from quiltfn import wire
from quiltfn.api.http import parse
from quiltfn.api.routes.table import ROUTES
from quiltfn.model.errors import Unprocessable
from quiltfn.wire.check import Invalid, checked
from quiltfn.wire.functions import HANDLER_MAX_BYTES, RESERVED_FUNCTION_NAMES

pytestmark = promise("A35")

LIMITS = {"memory_limit_mb": 4096, "cpu_limit_percent": 200, "timeout_seconds": 86_400}
TEXTS = {"description": 1024, "cluster_id": 128}
TAKEN: dict[str, list[Any]] = {
    "name": ["a", "A", "7", "my-function", "a.b_c-d", "a" * 64, "a--b", "by-names", "Invoke"],
    "handler": ["x", "x" * HANDLER_MAX_BYTES, "ä" * (HANDLER_MAX_BYTES // 2)],
    **{field: ["", "ä" * most] for field, most in TEXTS.items()},
    "memory_limit_mb": [256, 4096],
    "cpu_limit_percent": [1, 200],
    "timeout_seconds": [1, 86_400],
    "working_directory": [None, "/", "/app", "/app/deep/er", "/app/.hidden", "/app/...",
                          "/with space", "/ä", "/processes", "/devices", "/system", "/app/proc",
                          "/" + "x" * 1023, "/" + "ä" * 511 + "x"],
}  # fmt: skip
CYRILLIC_A, FULL_WIDTH_A = "\u0430", "\uff41"
REFUSED: dict[str, list[Any]] = {
    "name": ["", "a" * 65, "-a", "a-", ".a", "a.", "_a", "a_", ".", "..", "a b", "a/b", "a\n",
             "\na", "a\0", "ä", CYRILLIC_A, FULL_WIDTH_A, "a\u200bb", "a\u202eb", "a\u0301b", "٣",
             "a%2fb", *sorted(RESERVED_FUNCTION_NAMES)],
    "handler": ["", "x" * (HANDLER_MAX_BYTES + 1), "ä" * (HANDLER_MAX_BYTES // 2 + 1), "a\0b"],
    "memory_limit_mb": [255, 4097, 0, -1, 10**30],
    "cpu_limit_percent": [201, 0, -1, 10**30, 0.999, 200.001, math.nan, math.inf, -math.inf],
    "timeout_seconds": [86_401, 0, -1, 10**30],
    "max_instances": [0, -1, 1001],
    "working_directory": ["", "app", "./app", "~", "/app/..", "/app/../..", "/..", "/.", "/app/.",
                          "/app/./b", "/app/", "//app", "//", "/app//b", "/proc", "/proc/self",
                          "/sys", "/sys/fs/cgroup", "/dev", "/dev/shm", "/app\0",
                          "/" + "x" * 1024, "/" + "ä" * 512],
}  # fmt: skip


def body(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "handler": "echo hello", **fields}


def refused(**fields: Any) -> Invalid:
    with pytest.raises(Invalid) as error:
        checked(body(**fields), wire.NewFunction, LIMITS)
    (name,) = fields
    assert error.value.path == name
    assert error.value.message.startswith(f"{name} must be")
    assert error.value.expected
    return error.value


@pytest.mark.parametrize(("field", "value"), [(name, one) for name in TAKEN for one in TAKEN[name]])
def test_a_value_that_is_taken(field: str, value: Any) -> None:
    checked(body(**{field: value}), wire.NewFunction, LIMITS)
    if field != "cluster_id":  # this field can't be changed
        checked({field: value}, wire.FunctionChanges, LIMITS)


@pytest.mark.parametrize(
    ("field", "value"), [(name, one) for name in REFUSED for one in REFUSED[name]]
)
def test_a_value_that_is_refused(field: str, value: Any) -> None:
    refused(**{field: value})


def test_the_words_of_the_api_are_reserved() -> None:
    words = [route.path.split("/")[3] for route in ROUTES if "/api/functions/" in route.path]
    of_routes = {word for word in words if not word.startswith("{")}
    assert {"by-name", "pool"} <= of_routes
    to_come = {"stats", "runtimes", "schedules", "keys", "audit", "nodes"}
    assert of_routes | to_come <= RESERVED_FUNCTION_NAMES


@pytest.mark.parametrize(("field", "most"), TEXTS.items())
def test_an_error_about_a_long_text_does_not_repeat_it(field: str, most: int) -> None:
    assert refused(**{field: "ä" * (most + 1)}).expected == f"at most {most} characters"
    with pytest.raises(Unprocessable) as error:
        parse.shape(body(**{field: "ä" * (most + 1)}), wire.NewFunction)
    assert len(str(error.value.details)) < 500


@pytest.mark.parametrize("value", [200.001, math.nan, math.inf, -math.inf])
def test_an_error_about_a_number_that_json_has_not_shows_it_as_text(value: float) -> None:
    with pytest.raises(Unprocessable) as error:
        parse.shape(body(cpu_limit_percent=value), wire.NewFunction, LIMITS)
    received = (error.value.details or {})["received"]
    assert isinstance(received, str) or math.isfinite(received)


@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_what_can_be_no_number_of_a_version_is_refused(value: int) -> None:
    with pytest.raises(Invalid, match="version must be between 1 and"):
        checked({"version": value}, wire.Rollback)
