"""Version: which fields must fit together, and the digest of a spec."""

from typing import Any

import pytest
from msgspec.structs import replace

from quiltfn.model.errors import Unprocessable
from quiltfn.model.runtime import SHELL, Network
from quiltfn.model.version import ENVIRONMENT_MAX_BYTES, HostLimits, VersionSpec, check_environment

HOST = HostLimits(memory_max_mib=4096, cores=2)
NAME_ERRORS = "named with letters|reserved prefix|without NUL|the real value"


def spec(**fields: Any) -> VersionSpec:
    return VersionSpec(**{"handler": "echo hello", **fields})


def refused(**fields: Any) -> Unprocessable:
    with pytest.raises(Unprocessable) as error:
        spec(**fields).validate(HOST)
    (name,) = fields
    assert str(error.value).startswith(name), f"the sentence does not name the field: {error.value}"
    assert error.value.details is not None
    assert error.value.details["expected"]
    return error.value


@pytest.mark.parametrize(
    ("field", "high"),
    [("memory_limit_mb", 4096), ("cpu_limit_percent", 200), ("timeout_seconds", 86_400)],
)
def test_a_version_never_has_more_than_its_machine(field: str, high: int) -> None:
    spec(**{field: high}).validate(HOST)
    refused(**{field: high + 1})


# The environment -----------------------------------------------------------------------------


def test_an_environment_has_at_most_32_kib_over_all_variables() -> None:
    value, half = "x" * (ENVIRONMENT_MAX_BYTES - len("A") - 2), "ä" * (ENVIRONMENT_MAX_BYTES // 4)
    check_environment({"A": value})
    check_environment({"A": half})
    names = {f"not valid {number}": "" for number in range(10_000)}
    for too_large in ({"A": value + "x"}, {"A": half, "B": half}, names):
        with pytest.raises(Unprocessable, match=r"^environment must be at most 32768 bytes"):
            check_environment(too_large)


@pytest.mark.parametrize("name", ["A", "_", "a1", "NODE_ENV", "QUILT", "quilt_x", "Q" * 1000])
def test_a_variable_that_is_taken(name: str) -> None:
    check_environment({name: ""})


NO_NAMES = ["", "1A", "A-B", "A=B", "A ", "A\n", "A\0", "Ä", "\uff21", "QUILT_", "QUILT_PAYLOAD"]


@pytest.mark.parametrize(
    ("name", "value"), [*((name, "x") for name in NO_NAMES), ("A", "x\0y"), ("A", "***")]
)
def test_a_variable_that_is_refused(name: str, value: str) -> None:
    with pytest.raises(Unprocessable, match=NAME_ERRORS):
        check_environment({name: value})


def test_an_error_about_a_variable_never_shows_its_value() -> None:
    with pytest.raises(Unprocessable) as error:
        check_environment({"A": "secret\0"})
    assert "secret" not in str(error.value) + str(error.value.details)


# The digest ----------------------------------------------------------------------------------


def test_equal_specs_have_one_digest_whatever_the_order_of_their_variables() -> None:
    first = spec(environment={"A": "1", "B": "2"})
    second = spec(environment={"B": "2", "A": "1"})
    assert first.digest() == second.digest()


def test_every_field_is_part_of_the_digest() -> None:
    others = {
        "handler": "echo bye",
        "runtime": "python",
        "runtime_snapshot": replace(SHELL, id="another"),
        "environment": {"A": "1"},
        "working_directory": "/app",
        "memory_limit_mb": 512,
        "cpu_limit_percent": 50.0,
        "timeout_seconds": 31,
        "cleanup_on_exit": False,
    }
    assert set(others) == set(VersionSpec.__struct_fields__)
    digests = {spec(**{name: value}).digest() for name, value in others.items()}
    assert len(digests | {spec().digest()}) == len(others) + 1


def test_the_digest_is_the_one_that_data_directories_have() -> None:
    """After a rollback to a version of an older server, its instances are found by this digest."""
    assert spec(handler="x").digest() == "cd2e4e1dc70443a028757f602abcf795"
    assert spec(cpu_limit_percent=50).digest() == spec(cpu_limit_percent=50.0).digest()
    # Limits that a runtime does not set leave the digest as it was.
    assert spec().digest() == "cd97f093b1534e68d2147d5954a03b0b"
    more = replace(SHELL, tmp_limit_mb=1024)
    assert spec(runtime_snapshot=more).digest() != spec().digest()


@pytest.mark.parametrize(
    ("change", "of_runtime", "is_same"),
    [
        ({"memory_limit_mb": 300, "environment": {"A": "1"}}, {}, True),
        ({"runtime": "other"}, {"name": "other", "network": Network.EGRESS, "host": "2"}, True),
        ({"handler": "echo 2"}, {}, False),
        ({}, {"image": "b"}, False),
        ({}, {"packages": "b"}, False),
        ({}, {"base_image": "b"}, False),
        ({}, {"command": ("sh",)}, False),
    ],
)
def test_settings_are_not_code(
    change: dict[str, Any], of_runtime: dict[str, Any], is_same: bool
) -> None:
    runtime = replace(SHELL, **of_runtime)
    assert (spec(**change, runtime_snapshot=runtime).code == spec().code) is is_same
