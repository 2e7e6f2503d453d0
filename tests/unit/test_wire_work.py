"""The fields of asynchronous calls, at their limits and just beyond, also in nested schemas."""

from typing import Any

import msgspec
import pytest

from quiltfn import wire
from quiltfn.model import callback, schedule
from quiltfn.model.work import RETRYABLE, AsyncPolicy, RecordPolicy
from quiltfn.wire import schedules, work
from quiltfn.wire.check import Invalid, checked
from quiltfn.wire.work import IDS_MAX, QUEUED_MAX

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_attempts": 10, "max_concurrency": None, "on_success": None},
        {"backoff_seconds": {}},
        {"backoff_seconds": {"first": 0, "factor": 1, "most": 86_400, "jitter": 1}},
        {"retry_on": []},
        {"max_queued": QUEUED_MAX},
        {"on_failure": {"function": "f"}, "on_success": {"url": "https://a/b", "secret": SECRET}},
    ],
)
def test_a_policy_that_is_taken(fields: dict[str, Any]) -> None:
    checked(fields, wire.NewAsyncPolicy)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be between 1 and 10"),
        ({"max_attempts": 11}, "max_attempts must be between 1 and 10"),
        ({"max_attempts": "3"}, "max_attempts must be an integer"),
        ({"backoff_seconds": 5}, "backoff_seconds must be an object"),
        ({"backoff_seconds": {"first": -1}}, "backoff_seconds.first must be between 0 and 86400"),
        ({"backoff_seconds": {"jitter": 1.1}}, "backoff_seconds.jitter must be between 0 and 1"),
        ({"backoff_seconds": {"factor": "2"}}, "backoff_seconds.factor must be a number"),
        ({"backoff_seconds": {"of": 1}}, "backoff_seconds.of is not a field of this request"),
        (
            {"retry_on": ["success"]},
            "retry_on must be a list of different statuses among: failed, timeout, oom, error, "
            "interrupted",
        ),
        ({"retry_on": [1]}, "retry_on[0] must be a string"),
        ({"max_age_seconds": 0}, "max_age_seconds must be between 1 and 1209600"),
        ({"max_queued": QUEUED_MAX + 1}, f"max_queued must be between 1 and {QUEUED_MAX}"),
        ({"max_concurrency": 0}, "max_concurrency must be between 1 and 1000"),
        ({"on_success": "f"}, "on_success must be an object or null"),
        ({"on_success": {"function": 1}}, "on_success.function must be a string or null"),
    ],
)
def test_a_policy_that_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as error:
        checked(fields, wire.NewAsyncPolicy)
    assert error.value.message == message
    assert error.value.path == message.split(" ", maxsplit=1)[0]


@pytest.mark.parametrize("ids", [[], ["x"] * (IDS_MAX + 1), [""], ["x" * 65]])
def test_ids_that_are_refused(ids: list[str]) -> None:
    with pytest.raises(Invalid, match="invocation_ids must be a list of 1 to 1000 invocation ids"):
        checked({"invocation_ids": ids}, wire.Redrive)


def test_what_the_wire_takes_is_what_the_model_knows() -> None:
    """`wire` imports no other package of quiltfn, so both it and the model define these values."""
    assert tuple(RETRYABLE) == work.RETRYABLE
    assert RecordPolicy().keep_input in work.KEEP_INPUT
    assert work.URL_MAX_BYTES == callback.URL_MAX_CHARS
    assert tuple(schedule.Overlap) == schedules.OVERLAPS
    assert tuple(schedule.Missed) == schedules.MISSED


def test_a_policy_that_says_nothing_is_the_default_of_the_model() -> None:
    default = msgspec.json.decode(msgspec.json.encode(AsyncPolicy()))
    default["backoff_seconds"] = default.pop("backoff")
    assert msgspec.to_builtins(wire.NewAsyncPolicy()) == default
