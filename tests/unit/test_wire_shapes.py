"""The API's schemas: fields are checked as documented, and known to few files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn import wire
from quiltfn.api.routes.table import ROUTES
from quiltfn.launcher import verbs
from quiltfn.model import access, invocation, runtime, version
from quiltfn.tenants.access import EXPIRES_MAX_S
from quiltfn.wire import check, functions, invocations, keys, runtimes, schemas
from quiltfn.wire.check import Invalid, checked
from quiltfn.wire.fields import fields_of

pytestmark = promise("A35")

PACKAGE = Path(wire.__file__).resolve().parents[1]
BODIES = sorted(
    {route.body for route in ROUTES if route.body is not None},
    key=lambda schema: schema.__name__,
)
NAMES = [*sorted({name for body in BODIES for name in fields_of(body)}), "another"]
SMALL = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
SMALL |= st.just(10**400) | st.just(2**64)
VALUES = SMALL | st.lists(SMALL, max_size=2) | st.dictionaries(st.text(max_size=3), SMALL)


def by_name(body: type) -> str:
    return body.__name__


# --- checking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_what_is_refused_has_a_reason_that_names_a_field(body: type[msgspec.Struct]) -> None:
    """The reasons are not taken from msgspec's errors, so both checks must agree."""

    @given(value=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
    def agree(value: dict[str, Any]) -> None:
        reasons = list(check._reasons(value, body))
        try:
            msgspec.convert(value, body, strict=True)
        except msgspec.ValidationError:
            assert reasons
            assert all(one.path for one in reasons)
        else:
            assert not reasons

    agree()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the body must be a JSON object"),
        ({"handler": "x"}, "name is required"),
        ({"name": "a", "handler": "x", "colour": 1}, "colour is not a field of this request"),
        ({"name": 1, "handler": "x"}, "name must be a string"),
        ({"name": "a", "handler": "x", "min_instances": 1.0}, "min_instances must be an integer"),
        ({"name": "a", "handler": "x", "description": 1}, "description must be a string or null"),
        ({"name": "a", "handler": "x", "environment": {"A": 1}}, "environment.A must be a string"),
        (
            {"name": "a", "handler": "x", "cpu_limit_percent": 10**400},
            "cpu_limit_percent must be a number of a usual size",
        ),
        (
            {"name": "-", "handler": "x"},
            "name must be 1 to 64 letters, digits, dots, dashes or underscores; the first and "
            "last a letter or digit",
        ),
        (
            {"name": "invoke", "handler": "x"},
            "name must be another word, since this one is part of the API's paths",
        ),
        ({"name": "a", "handler": ""}, "handler must be between 1 and 65536 bytes long"),
        ({"name": "a", "handler": "\0"}, "handler must be text without NUL"),
        (
            {"name": "a", "handler": "x", "memory_limit_mb": 1},
            "memory_limit_mb must be between 256 and 4096",
        ),
        (
            {"name": "a", "handler": "x", "max_instances": 0},
            "max_instances must be between 1 and 1000",
        ),
        (
            {"name": "a", "handler": "x", "working_directory": "/proc/1"},
            "working_directory must be outside /proc, /sys and /dev",
        ),
    ],
)  # fmt: skip
def test_a_refusal_is_a_sentence_about_one_field(value: Any, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked(value, wire.NewFunction, {"memory_limit_mb": 4096.0})
    assert refused.value.message == message


def test_what_fits_is_taken_and_answers_of_newer_servers_are_read() -> None:
    new = checked({"name": "a", "handler": "x", "cpu_limit_percent": 50}, wire.NewFunction)
    assert (new.runtime, new.cpu_limit_percent, new.environment) == ("shell", 50.0, {})
    # Only the server checks constraints: a newer server's responses may exceed this client's.
    newer = {"function_id": "f", "min_instances": 0, "max_instances": 10**6, "later": 1}
    assert msgspec.convert(newer, wire.Scaling).max_instances == 10**6


# --- documenting -------------------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_every_field_of_a_request_says_what_it_means(body: type[msgspec.Struct]) -> None:
    for field in fields_of(body).values():
        assert field.meaning, field.name


def test_every_field_of_a_response_says_what_it_means() -> None:
    """Exceptions: fields that contain other schemas, and schemas whose texts explain themselves."""
    shapes = [kind for name, kind in vars(schemas).items() if not name.startswith("_")]
    for shape in (one for one in shapes if hasattr(one, "__struct_fields__")):
        for field in fields_of(shape).values():
            holds_shapes = "quiltfn.wire" in str(field.kind)
            if not holds_shapes and shape not in (wire.Help, wire.ExampleList):
                assert field.meaning, f"{shape.__name__}.{field.name}"


@pytest.mark.parametrize("body", BODIES, ids=by_name)
def test_every_example_is_accepted(body: type[msgspec.Struct]) -> None:
    fields = fields_of(body).values()
    checked({one.name: one.example for one in fields if one.example is not None}, body)


def sources() -> Iterator[tuple[str, str]]:
    for path in PACKAGE.rglob("*.py"):
        if "migrations" not in path.parts:
            yield str(path.relative_to(PACKAGE)), path.read_text()


@pytest.mark.parametrize("field", ["cleanup_on_exit", "working_directory"])
def test_a_field_is_named_in_few_files(field: str) -> None:
    named = sorted(name for name, text in sources() if field in text)
    assert len(named) <= 5, named
    assert any(name.startswith("wire/") for name in named)


# --- agreeing ----------------------------------------------------------------------------------


def test_the_model_has_the_same_numbers_and_words() -> None:
    """The model checks combinations of values; these schemas document the limits."""
    assert tuple(access.Scope) == keys.SCOPES
    assert list(runtime.Kind) == list(runtimes.Kind)  # type: ignore[comparison-overlap]
    assert list(runtime.Network) == list(runtimes.Network)  # type: ignore[comparison-overlap]
    assert list(runtime.Isolation) == list(runtimes.Isolation)  # type: ignore[comparison-overlap]
    assert runtime.RESERVED_NAMES == runtimes.RESERVED_RUNTIME_NAMES
    assert runtime.WRITABLE_MAX == verbs.WRITABLE_MAX == runtimes.WRITABLE_PATHS_MAX
    assert version.ENVIRONMENT_MAX_BYTES == functions.ENVIRONMENT_MAX_BYTES
    assert version.RESERVED_PREFIX == functions.RESERVED_PREFIX
    assert version.MASK == functions.MASK
    assert invocation.PAYLOAD_MAX_BYTES == invocations.PAYLOAD_MAX_BYTES
    assert EXPIRES_MAX_S == keys.EXPIRES_MAX_SECONDS
