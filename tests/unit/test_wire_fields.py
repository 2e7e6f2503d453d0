"""The constraints of each field of a function, at their limits and just beyond."""

import math
from typing import Any

import pytest

from promises import promise
from quiltfn import wire
from quiltfn.api.http import parse
from quiltfn.api.routes.table import ROUTES
from quiltfn.model.errors import Unprocessable
from quiltfn.wire import functions
from quiltfn.wire.check import Invalid, checked

pytestmark = promise("A35")

LIMITS = {"memory_limit_mb": 4096, "cpu_limit_percent": 200, "timeout_seconds": 86_400}


def body(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "handler": "echo hello", **fields}


def taken(**fields: Any) -> None:
    checked(body(**fields), wire.NewFunction, LIMITS)
    if "cluster_id" not in fields:  # which cannot be changed
        checked(fields, wire.FunctionChanges, LIMITS)


def refused(**fields: Any) -> Invalid:
    with pytest.raises(Invalid) as error:
        checked(body(**fields), wire.NewFunction, LIMITS)
    (name,) = fields
    assert error.value.path == name
    assert error.value.message.startswith(f"{name} must be")
    assert error.value.expected
    return error.value


# Names and texts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "A", "7", "my-function", "a.b_c-d", "a" * 64, "a--b", "by-names", "Invoke"]
)
def test_a_name_that_is_taken(name: str) -> None:
    taken(name=name)


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
        *sorted(functions.RESERVED_FUNCTION_NAMES),
    ],
)
def test_a_name_that_is_refused(name: str) -> None:
    assert refused(name=name).message.startswith("name must be")


def test_the_words_of_the_api_are_reserved() -> None:
    of_routes = {
        parts[3]
        for path, _ in ROUTES
        if path.startswith("/api/functions/") and not (parts := path.split("/"))[3].startswith("{")
    }
    assert {"by-name", "pool"} <= of_routes
    to_come = {"stats", "runtimes", "schedules", "keys", "audit", "nodes"}
    assert of_routes | to_come <= functions.RESERVED_FUNCTION_NAMES


@pytest.mark.parametrize(("field", "most"), [("description", 1024), ("cluster_id", 128)])
def test_texts_have_a_limit(field: str, most: int) -> None:
    taken(**{field: "ä" * most})
    taken(**{field: ""})
    assert refused(**{field: "ä" * (most + 1)}).expected == f"at most {most} characters"
    with pytest.raises(Unprocessable) as error:
        parse.shape(body(**{field: "ä" * (most + 1)}), wire.NewFunction)
    assert len(str(error.value.details)) < 500, "the error repeats it all"


# Handlers and numbers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handler", ["x", "x" * functions.HANDLER_MAX_BYTES, "ä" * (functions.HANDLER_MAX_BYTES // 2)]
)
def test_a_handler_has_1_byte_to_64_kib(handler: str) -> None:
    taken(handler=handler)


@pytest.mark.parametrize(
    "handler",
    [
        "",
        "x" * (functions.HANDLER_MAX_BYTES + 1),
        "ä" * (functions.HANDLER_MAX_BYTES // 2 + 1),
        "a\0b",
    ],
)
def test_a_handler_that_is_refused(handler: str) -> None:
    refused(handler=handler)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("memory_limit_mb", 256, 4096),
        ("cpu_limit_percent", 1, 200),
        ("timeout_seconds", 1, 86_400),
    ],
)
def test_numbers_are_taken_at_limits_and_refused_beyond(field: str, low: int, high: int) -> None:
    for value in (low, high):
        taken(**{field: value})
    for value in (low - 1, high + 1, 0, -1, 10**30):
        refused(**{field: value})


@pytest.mark.parametrize("value", [0.999, 200.001, math.nan, math.inf, -math.inf])
def test_a_cpu_limit_that_is_no_number_in_range_is_refused(value: float) -> None:
    refused(cpu_limit_percent=value)
    with pytest.raises(Unprocessable) as error:
        parse.shape(body(cpu_limit_percent=value), wire.NewFunction, LIMITS)
    received = (error.value.details or {})["received"]
    assert isinstance(received, str) or math.isfinite(received), "JSON has no such number"


@pytest.mark.parametrize("value", [0, -1, 1001])
def test_a_number_of_instances_that_is_refused(value: int) -> None:
    refused(max_instances=value)


@pytest.mark.parametrize("value", [0, -1, 2**31])
def test_what_can_be_no_number_of_a_version_is_refused(value: int) -> None:
    with pytest.raises(Invalid, match="version must be between 1 and"):
        checked({"version": value}, wire.Rollback)


# The working directory -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        None,
        "/",
        "/app",
        "/app/deep/er",
        "/app/.hidden",
        "/app/...",
        "/with space",
        "/ä",
        "/processes",
        "/devices",
        "/system",
        "/app/proc",
        "/" + "x" * 1023,
        "/" + "ä" * 511 + "x",
    ],
)
def test_a_working_directory_that_is_taken(path: str | None) -> None:
    taken(working_directory=path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "app",
        "./app",
        "~",
        "/app/..",
        "/app/../..",
        "/..",
        "/.",
        "/app/.",
        "/app/./b",
        "/app/",
        "//app",
        "//",
        "/app//b",
        "/proc",
        "/proc/self",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/shm",
        "/app\0",
        "/" + "x" * 1024,
        "/" + "ä" * 512,
    ],
)
def test_a_working_directory_that_is_refused(path: str) -> None:
    refused(working_directory=path)
