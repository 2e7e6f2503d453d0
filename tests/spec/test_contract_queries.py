"""The contract: each query parameter that is refused is named in the error."""

import re

import pytest

from promises import promise
from spec.api_client import Api, new_name
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("A1")]

LIMITS = ("limit=0", "limit=1001", "limit=x")
CURSOR_OR_LIMIT = ("cursor=x", "limit=0")
# The queries that each route refuses; the error names the first parameter of the query.
REFUSED = {
    "/api/functions": (
        *(*LIMITS, "state=deleted", "stat=a", "q=", f"q={'x' * 201}"),
        *("sort=handler", "order=up", "view=short"),
    ),
    "/api/functions/FUNCTION/invocations": (
        *(*LIMITS, "limit=-1", "limit=1e3", "limit=", "limit=9&limit=9", f"limit={2**64}"),
        *("status=done", "cold_start=1", "min_duration_ms=-1", "limits=5"),
        *("cursor=AAAA", "cursor=%00", "cursor="),
    ),
    "/api/functions/FUNCTION/invocations/CALL/logs": (
        *("stream=stdin", "tail=-1", "offset=5", "tail=3&offset=1-1"),
        *("follow=perhaps", "since=1"),
    ),
    "/api/functions/FUNCTION/logs": ("follow=false",),
    "/api/functions/FUNCTION/series": (
        *("step=11", "step=10&from=1", "from=1", "from=5&to=5", "to=99999999999"),
    ),
    "/api/functions/stats": ("window=59", "window=86401", "limit=10001"),
    "/api/invocations": (
        *("status=done", "source=cron", "version=0", "version=x", "from=-1", "to=99999999999"),
        *("from=5&to=4", "cold_start=1", "limit=0", "cursor=AAAA", "output=full", "q=x"),
    ),
    "/api/usage": (
        *("step=week", "by=tenant", "from=20&to=10", "from=x", "from=0&to=4102444800&step=hour"),
    ),
    "/api/events": ("follow=false", "types=function,nonsense&follow=true", "types=&follow=true"),
    "/api/audit": ("from=5&to=4",),
    "/api/keys": ("limit=0", "limit=1001", "cursor=bogus"),
    "/api/schedules": CURSOR_OR_LIMIT,
    "/api/queues": CURSOR_OR_LIMIT,
    "/api/dead-letters": CURSOR_OR_LIMIT,
    "/api/deliveries": CURSOR_OR_LIMIT,
}


@pytest.fixture(scope="module")
def asked(keyed: Keyed) -> tuple[Api, str, str]:
    """The admin of a tenant, with the ids of a function and an invocation."""
    api = keyed.caller(new_name())
    function_id = api.active()
    return api, function_id, api.invoke(function_id)["invocation_id"]


@pytest.mark.parametrize("path", REFUSED)
def test_a_wrong_parameter_is_named(asked: tuple[Api, str, str], path: str) -> None:
    api, function_id, call_id = asked
    where = path.replace("FUNCTION", function_id).replace("CALL", call_id)
    for query in REFUSED[path]:
        error = api.refused("UNPROCESSABLE_ENTITY", 422, "GET", f"{where}?{query}")
        name = query.partition("=")[0]
        assert re.match(rf"(the query parameter )?{name}\b", error["error"]), (query, error)
