"""The contract: the output of an invocation, byte for byte, over HTTP."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e.server import Server, until, watched
from promises import promise
from spec.api_client import Api, is_error, of

pytestmark = [pytest.mark.sandbox, promise("C14")]
# Every byte value, and a NUL in the middle of the output.
ALL = bytes(range(256)) * 2
PRINT = "printf %b '" + "".join(f"\\0{byte:03o}" for byte in ALL) + "'"


def output_of(api: Api, record: dict[str, Any], query: str = "", **headers: str) -> httpx.Response:
    path = f"{of(record['function_id'])}/invocations/{record['invocation_id']}/output{query}"
    return api("GET", path, headers={name.replace("_", "-"): one for name, one in headers.items()})


@pytest.fixture(scope="module")
def written(open_server: Server) -> tuple[Api, dict[str, Any]]:
    """An invocation that wrote every byte value to standard output, and some of them to standard
    error.
    """
    api = Api(open_server.url)
    record = api.invoke(api.active(f"{PRINT}; printf 'e\\377' >&2", name="every-byte"))
    return api, record


def test_bytes_survive(written: tuple[Api, dict[str, Any]]) -> None:
    api, record = written
    assert record["stdout"] == ALL.decode("utf-8", "replace")
    answer = output_of(api, record)
    assert (answer.status_code, answer.content) == (200, ALL)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert output_of(api, record, "?stream=stdout").content == ALL
    assert output_of(api, record, "?stream=stderr").content == b"e\xff"
    refused = output_of(api, record, "?stream=stdin")
    assert is_error(refused, "UNPROCESSABLE_ENTITY", 422)["error"].startswith("stream must be")


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=255-": (255, 512),
    "bytes=10-19": (10, 20),
    "bytes=500-99999": (500, 512),
    "bytes=-2": (510, 512),
    "bytes=-9999": (0, 512),
}
NO_RANGES = ("bytes=5-4", "bytes=-", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "nonsense", "")


@pytest.mark.parametrize("wanted", RANGES)
def test_a_part(written: tuple[Api, dict[str, Any]], wanted: str) -> None:
    first, end = RANGES[wanted]
    answer = output_of(*written, range=wanted)
    assert (answer.status_code, answer.content) == (206, ALL[first:end])
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/512"
    assert answer.headers["content-length"] == str(end - first)


@pytest.mark.parametrize("wanted", NO_RANGES)
def test_what_is_no_range_is_passed_over(written: tuple[Api, dict[str, Any]], wanted: str) -> None:
    answer = output_of(*written, range=wanted)
    assert (answer.status_code, answer.content) == (200, ALL)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize("wanted", ["bytes=512-", "bytes=9999-10000", "bytes=-0"])
def test_a_part_behind_the_end_is_refused(written: tuple[Api, dict[str, Any]], wanted: str) -> None:
    answer = output_of(*written, range=wanted)
    is_error(answer, "RANGE_NOT_SATISFIABLE", 416)
    assert answer.headers["content-range"] == "bytes */512"
    assert output_of(*written, range=wanted, if_range='"x"').status_code == 200


def test_no_output_is_no_bytes_and_an_unfinished_call_has_none_yet(tenant: Api) -> None:
    function_id = tenant.active("read -r SECONDS; sleep $SECONDS")
    quiet = tenant.invoke(function_id, "0\n")
    answer = output_of(tenant, quiet)
    assert (answer.status_code, answer.content) == (200, b"")
    is_error(output_of(tenant, quiet, range="bytes=0-"), "RANGE_NOT_SATISFIABLE", 416)
    path = f"{of(function_id)}/invoke"
    call = threading.Thread(target=lambda: tenant("POST", path, {"payload": "1\n"}))
    call.start()
    path_of_list = f"{of(function_id)}/invocations?status=running"
    (listed,) = until(lambda: tenant.good("GET", path_of_list)["invocations"])
    running = output_of(tenant, listed)
    call.join()
    assert is_error(running, "NOT_FOUND", 404)["hint"] == "ask again once it has"


@pytest.fixture(scope="module")
def bounded() -> Iterator[Api]:
    """A client of a server with low limits on output."""
    limits = "--timeout-max-s 2592000 --stdout-max-bytes 65536 --result-max-bytes 131072"
    with watched(limits) as server:
        yield Api(server.start().url)


@promise("C15")
def test_a_timeout_may_be_a_day_or_what_the_operator_says(bounded: Api, tenant: Api) -> None:
    assert tenant.get(tenant.create(timeout_seconds=86_400))["timeout_seconds"] == 86_400
    body = {"name": "too-long", "handler": "echo", "timeout_seconds": 86_401}
    error = tenant.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/functions", body)
    assert error["details"]["expected"] == "between 1 and 86400"
    function_id = tenant.active("echo $QUILT_DEADLINE_MS", timeout_seconds=86_400)
    record = tenant.invoke(function_id)
    left = int(record["stdout"]) / 1000 - record["started_at"]
    assert 86_399 <= left <= 86_402
    api = bounded
    limits = api.good("GET", "/api/system/info")["limits"]
    assert (limits["timeout_seconds"], limits["stdout_bytes"]) == (2_592_000, 65_536)
    schema = api.good("GET", "/openapi.json")["components"]["schemas"]["NewFunction"]
    assert schema["properties"]["timeout_seconds"]["maximum"] == 2_592_000
    longest = api.active("head -c 65537 /dev/zero", timeout_seconds=2_592_000)
    answer = api("POST", f"{of(longest)}/invoke", {})
    assert answer.json()["status"] == "success"
    assert answer.headers["x-output-truncated"] == "stdout=1"
    function = {"name": "one", "handler": "echo", "timeout_seconds": 2_592_001}
    api.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/functions", function)


def test_a_result_has_a_limit_of_its_own(bounded: Api) -> None:
    api = bounded
    if "python" not in api.good("GET", "/api/system/info")["interpreters"]:
        pytest.skip("this machine has no Python for handlers")
    same = api.active("copy:copy", runtime="python")

    def returned(size: int) -> dict[str, Any]:
        answer = api("POST", f"{of(same)}/invoke", {"payload": f'"{"x" * size}"'})
        record: dict[str, Any] = answer.json()
        return record

    most = returned(131_072)
    assert (most["status"], len(most["stdout"])) == ("success", 131_072)
    more = returned(131_073)
    assert (more["status"], more["stdout"]) == ("failed", "")
    assert "returned 131073 bytes; at most 131072 are kept" in more["error_message"]
