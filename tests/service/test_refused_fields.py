"""An invalid request is refused with the name of the field, and changes nothing."""

from typing import Any

import pytest

from promises import promise
from service.routes import Scenario, Web

# These secrets must not be in a response: it would have them if it repeated the request.
SECRET, SIGNING = "a secret of sixteen bytes or more", "whsec_c29tZSByYW5kb20gYnl0ZXMgb2Ygb3Vyc2U="
HALF, RULE = {"version": 2, "weight": 0.5}, {"error_rate": 0.05, "within_s": 300}
Rows = list[tuple[Any, str]]


def webhook(**fields: str) -> dict[str, Any]:
    return {"auth": "webhook", "webhook": fields}


URLS: Rows = [
    ({"auth": "webhook"}, "webhook"),
    (webhook(scheme="github", secret=SECRET) | {"auth": "key"}, "webhook"),
    ({"auth": "maybe"}, "auth"),
    ({"methods": []}, "methods"),
    ({"methods": ["get"]}, "methods"),
    ({"methods": ["TRACE"]}, "methods"),
    ({"methods": ["GET", "GET"]}, "methods"),
    ({"methods": [f"M{'A' * n}" for n in range(60)]}, "methods"),
    ({"stream": "yes"}, "stream"),
    ({"stray": 1}, "stray"),
    ({"cors": {"allow_origins": ["app.example.com"]}}, "cors.allow_origins"),
    ({"cors": {"allow_origins": ["https://app.example.com/"]}}, "cors.allow_origins"),
    ({"cors": {"allow_origins": []}}, "cors.allow_origins"),
    ({"cors": {"allow_credentials": True}}, "cors.allow_credentials"),
    ({"cors": {"allow_headers": ["a b"]}}, "cors.allow_headers"),
    ({"cors": {"max_age_seconds": 86_401}}, "cors.max_age_seconds"),
    ({"cors": {"stray": 1}}, "cors.stray"),
    (webhook(scheme="github", secret="short"), "webhook.secret"),
    (webhook(scheme="github", secret="***"), "webhook.secret"),
    (webhook(scheme="standard", secret="x" * 40), "webhook.secret"),
    (webhook(scheme="stripe", secret="x" * 40), "webhook.secret"),
    (webhook(scheme="other", secret=SECRET), "webhook.scheme"),
    (webhook(scheme="github"), "webhook.secret"),
]
ALIASES: Rows = [
    ({}, "version"),
    ({"version": 0}, "version"),
    ({"version": 1, "also": {"version": 1, "weight": 0.1}}, "also.version"),
    ({"version": 1, "also": {"version": 2, "weight": 0}}, "also.weight"),
    ({"version": 1, "also": {"version": 2, "weight": 1}}, "also.weight"),
    ({"version": 1, "also": {"weight": 0.5}}, "also.version"),
    ({"version": 1, "to": 3}, "to"),
    ({"version": 1, "rollback_on": RULE}, "rollback_on"),
    ({"version": 1, "also": HALF, "rollback_on": {"within_s": 5}}, "rollback_on.error_rate"),
    (
        {"version": 1, "also": HALF, "rollback_on": RULE | {"error_rate": 0}},
        "rollback_on.error_rate",
    ),
    ({"version": 1, "also": HALF, "rollback_on": {"p99_ms": 0}}, "rollback_on.p99_ms"),
    ({"version": 1, "also": HALF, "rollback_on": RULE | {"within_s": 0}}, "rollback_on.within_s"),
    ({"version": 1, "also": HALF, "rollback_on": RULE | {"on": 1}}, "rollback_on.on"),
]
ASYNC_POLICIES: Rows = [
    ({"on_failure": {}}, "on_failure"),
    ({"on_failure": {"function": "g", "url": "https://a"}}, "on_failure"),
    ({"on_failure": {"function": "nobody"}}, "on_failure.function"),
    ({"on_success": {"function": "f"}}, "on_success.function"),
    ({"on_success": {"function": "g", "secret": SIGNING}}, "on_success.secret"),
    ({"on_success": {"url": "https://a.example"}}, "on_success.secret"),
    ({"on_success": {"url": "ftp://a.example", "secret": SIGNING}}, "on_success.url"),
    ({"on_success": {"url": "https://a.example", "secret": "***"}}, "on_success.secret"),
    ({"backoff_seconds": {"first": -1}}, "backoff_seconds.first"),
]
# The query, and the parameter that is refused.
TIMES = {
    "mode=later": "mode",
    "mode=async&delay_seconds=-1": "delay_seconds",
    "mode=async&delay_seconds=31536001": "delay_seconds",
    "mode=async&not_before=soon": "not_before",
    "mode=async&not_before=99999999999": "not_before",
    f"mode=async&not_before={'0' * 11}{'9' * 20}": "not_before",  # more than the database can store
    "mode=async&not_before=1&delay_seconds=1": "not_before",
    "delay_seconds=1": "delay_seconds",
    "mode=sync&not_before=1": "not_before",
}
# Fields that are invalid for every version that the invocation may name.
INVOCATIONS: Rows = [
    ({"timeout_seconds": 6}, "timeout_seconds"),
    ({"environment": {"QUILT_X": "1"}}, "environment.QUILT_X"),
    ({"payload": 1}, "payload"),
]
VERSIONS = ("", "&version=1", "&version=2", "&alias=old")
REDRIVES: Rows = [
    (body, "invocation_ids")
    for body in ({}, {"all": False}, {"all": True, "invocation_ids": ["x"]})
]
# The request, a path that would show its effect, and the invalid bodies.
WRONG: dict[str, tuple[str, Rows]] = {
    "PUT {f}/url": ("{f}/url", URLS),
    "PUT {f}/aliases/live": ("{f}/aliases", ALIASES),
    **{f"PUT {{f}}/aliases/{name}": ("{f}/aliases", [({"version": 1}, "alias")])
       for name in ("1", "a" * 33, "a.b", "-a")},
    "PUT {f}/async-policy": ("{f}/async-policy", ASYNC_POLICIES),
    "PUT {f}/record-policy": ("{f}/record-policy", [({"keep_input": "some"}, "keep_input")]),
    "POST {f}/dead-letters/redrive": ("{f}/invocations", REDRIVES),
    **{f"POST {{f}}/invoke?{query}": ("{f}/queue", [({}, name)]) for query, name in TIMES.items()},
    **{
        f"POST {{f}}/invoke?mode=async{version}": ("{f}/queue", INVOCATIONS) for version in VERSIONS
    },
}  # fmt: skip
SCENARIOS = [
    (Scenario(request, 422, body, events=(), unchanged=shown), field)
    for request, (shown, rows) in WRONG.items()
    for body, field in rows
]


@promise("W3")
@pytest.mark.parametrize(("scenario", "field"), SCENARIOS, ids=str)
async def test_what_is_wrong_is_refused_by_its_field(
    web: Web, scenario: Scenario, field: str
) -> None:
    function = await web.function("echo 1", timeout_seconds=5)
    await web.function(name="g")
    await web.good("PUT", f"{function}/aliases/old", {"version": 1})
    await web.good("PUT", function, {"handler": "echo 2"})
    canary = {"version": 1, "also": HALF, "rollback_on": RULE}
    await web.good("PUT", f"{function}/aliases/live", canary)
    answer = await scenario.perform(web, function)
    refusal = answer.json()
    assert refusal["error"].startswith((f"{field} must be ", f"{field} is ")), refusal
    assert refusal["details"]["expected"]
    assert SECRET not in answer.text
    assert SIGNING not in answer.text
