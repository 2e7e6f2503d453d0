"""Generates `docs/reference/errors.md` from real responses.

`PYTHONPATH=tests .venv/bin/python -m spec.errors_page` (as root) writes the page again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from e2e.server import Server, until, watched
from quiltfn.api.http.errors import STATUS, error_body
from quiltfn.model.errors import Internal, StoreUnavailable
from spec.api_client import Api, make_key, new_name, of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"
FUNCTIONS = "/api/functions"
WHEN = {
    "BAD_REQUEST": "The body is not one valid JSON text (syntax, UTF-8, a repeated key, nesting "
    "over 32, more than 50,000 values, or a number of more than 100 digits), the body did not "
    "arrive in time, or a required header is missing.",
    "UNAUTHORIZED": "There is no credential, or it is wrong, expired or revoked.",
    "FORBIDDEN": "The credential's scope does not allow the request, or the request is for another "
    "tenant; on a server without keys, it has a foreign Host or Origin.",
    "NOT_FOUND": "The route, function, version, invocation, operation, key or runtime does not "
    "exist, or belongs to another tenant; or the invocation has no stored timeline.",
    "METHOD_NOT_ALLOWED": "The path does not support the method; `Allow` names the supported ones.",
    "CONFLICT": "The name is taken; the first request with this `Idempotency-Key` is still in "
    "progress; the function cannot be paused or resumed in its state; or the runtime is built in.",
    "FUNCTION_NOT_ACTIVE": "The function cannot be invoked in its state; `hint` names the "
    "request that helps.",
    "PRECONDITION_FAILED": "`If-Match` does not match: the function was changed since it was read.",
    "PAYLOAD_TOO_LARGE": "The body is longer than the route accepts.",
    "UNSUPPORTED_MEDIA_TYPE": "The Content-Type is not JSON (for an image: an archive), or there "
    "is a Content-Encoding.",
    "RANGE_NOT_SATISFIABLE": "`Range` begins after the end of the output.",
    "UNPROCESSABLE_ENTITY": "A field, parameter or header is missing, unknown, of the wrong type "
    "or out of range; an `Idempotency-Key` was used before with another body or query; or an "
    "archive has contents that no image may have.",
    "RATE_LIMITED": "A limit of the tenant was reached, or 20 wrong credentials came from one "
    "address.",
    "INTERNAL": "A bug in the server; see its log.",
    "RUNTIME_UNAVAILABLE": "The sandbox could not be created, or it ended during the invocation. "
    "If `x-invocation-id` is set, a record exists.",
    "CAPACITY_FULL": "Every instance is busy and the wait queue is full, "
    "or the invocation waited too long.",
    "SHUTTING_DOWN": "The server is stopping.",
    "HANDLER_FAILED": "The function behind the URL failed, or its result is not a valid HTTP "
    "response. Callers with a key get the reason.",
    "HANDLER_TIMEOUT": "The function behind the URL timed out.",
    "STORE_UNAVAILABLE": "The database accepts no writes at the moment.",
}
# A healthy server does not return these two errors, so their bodies are made without a server. The
# tests of a full disk get the first one from a real server.
WITHOUT_A_SERVER = ("STORE_UNAVAILABLE", "INTERNAL")


@dataclass
class Scene:
    """A server with keys and low limits, with functions in each state that leads to an error."""

    server: Server
    api: Api
    active: str

    def later(self, call: Callable[[], object]) -> threading.Thread:
        def quietly() -> None:
            try:
                call()
            except httpx.HTTPError:
                return

        thread = threading.Thread(target=quietly)
        thread.start()
        return thread


OPTIONS = "--queue-max 1 --queue-wait-s 1 --tenant-functions 8"


def collect() -> dict[str, httpx.Response]:
    """Returns a real response for every code that a server can be made to return."""
    with watched(OPTIONS) as server:
        key = make_key(server)["key"]
        api = Api(server.start().url, key)
        # The timeout must last for the whole scene, even on a slow machine.
        busy = api.active("sleep 60", name="busy", max_instances=1, timeout_seconds=300)
        scene = Scene(server, api, busy)
        found = {code: make(scene) for code, make in EASY.items()}
        found["HANDLER_FAILED"] = _behind_a_url(scene, "exit 3")
        found["HANDLER_TIMEOUT"] = _behind_a_url(scene, "sleep 9", timeout_seconds=1)
        found["CAPACITY_FULL"] = _capacity_full(scene)
        found["RUNTIME_UNAVAILABLE"] = _runtime_unavailable(scene)
        found["SHUTTING_DOWN"] = _shutting_down(scene)
        return found


def _post(scene: Scene, path: str, text: bytes, kind: str = "application/json") -> httpx.Response:
    return scene.api("POST", path, content=text, headers={"Content-Type": kind})


def _reader(scene: Scene) -> httpx.Response:
    key = scene.api.good("POST", "/api/keys", {"scope": "read"}, 201)["key"]
    return Api(scene.server.url, key)("DELETE", of(scene.active))


def _too_many_functions(scene: Scene) -> httpx.Response:
    made = [scene.api.create() for _ in range(8 - scene.api.count())]
    answer = scene.api("POST", FUNCTIONS, {"name": "one-more", "handler": "echo"})
    for function in made:
        scene.api("DELETE", of(function))
    return answer


def _behind_the_end(scene: Scene) -> httpx.Response:
    record = scene.api.invoke(scene.api.active())
    path = f"{of(record['function_id'])}/invocations/{record['invocation_id']}/output"
    answer = scene.api("GET", path, headers={"Range": "bytes=6-"})
    scene.api("DELETE", of(record["function_id"]))
    return answer


def _behind_a_url(scene: Scene, handler: str, **fields: int) -> httpx.Response:
    name = new_name()
    function = scene.api.active(handler, name=name, **fields)
    scene.api.good("PUT", f"{of(function)}/url", {})
    answer = scene.api("GET", f"/fn/default/{name}")
    scene.api("DELETE", of(function))
    return answer


def _capacity_full(scene: Scene) -> httpx.Response:
    path = f"{of(scene.active)}/invoke"
    call = scene.later(lambda: scene.api("POST", path, {}))
    until(lambda: scene.api.pool(scene.active)["busy_count"] == 1)
    answer = scene.api("POST", path, {})  # this invocation waits in the queue for a second
    scene.server.wake()
    call.join()
    return answer


def _runtime_unavailable(scene: Scene) -> httpx.Response:
    found: list[httpx.Response] = []
    path = f"{of(scene.active)}/invoke"
    call = scene.later(lambda: found.append(scene.api("POST", path, {})))
    os.kill(scene.server.guest_of("sleep"), signal.SIGKILL)
    call.join()
    return found[0]


def _shutting_down(scene: Scene) -> httpx.Response:
    path = f"{of(scene.active)}/invoke"
    call = scene.later(lambda: scene.api("POST", path, {}))
    # The process of an earlier invocation may still exist for a moment.
    until(lambda: scene.api.pool(scene.active)["busy_count"] == 1)
    until(lambda: scene.server.named("sleep"))
    scene.server.terminate()
    answer = until(
        lambda: (
            (response := scene.api("POST", path, {})).status_code == 503
            and response.json()["error_code"] == "SHUTTING_DOWN"
            and response
        )
    )
    scene.server.wake()
    call.join()
    return answer


EASY: dict[str, Callable[[Scene], httpx.Response]] = {
    "BAD_REQUEST": lambda s: _post(s, FUNCTIONS, b'{"name": "a", "name": "b"}'),
    "UNAUTHORIZED": lambda s: Api(s.server.url, "wrong")("GET", FUNCTIONS),
    "FORBIDDEN": _reader,
    "NOT_FOUND": lambda s: s.api("GET", f"{FUNCTIONS}/by-name/nobody"),
    "METHOD_NOT_ALLOWED": lambda s: s.api("PATCH", FUNCTIONS),
    "CONFLICT": lambda s: s.api("POST", FUNCTIONS, {"name": "busy", "handler": "echo"}),
    "FUNCTION_NOT_ACTIVE": lambda s: s.api("POST", f"{of(s.api.create())}/invoke", {}),
    "PRECONDITION_FAILED": lambda s: s.api(
        "PUT", of(s.active), {"handler": "echo"}, headers={"If-Match": '"stale"'}
    ),
    "PAYLOAD_TOO_LARGE": lambda s: _post(s, FUNCTIONS, b" " * (1024 * 1024 + 1)),
    "UNSUPPORTED_MEDIA_TYPE": lambda s: _post(s, FUNCTIONS, b"name=x", "text/plain"),
    "UNPROCESSABLE_ENTITY": lambda s: s.api(
        "POST", FUNCTIONS, {"name": new_name(), "handler": "echo", "memory_limit_mb": "256"}
    ),
    "RANGE_NOT_SATISFIABLE": _behind_the_end,
    "RATE_LIMITED": _too_many_functions,
}


def plain(body: dict[str, object]) -> dict[str, object]:
    """The body, in which normalized values replace those that differ between runs."""
    text = json.dumps(body)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "…", text)
    return json.loads(text)


def render(found: dict[str, httpx.Response]) -> str:
    """The text of the page."""
    bodies = {code: plain(answer.json()) for code, answer in found.items()}
    bug = Internal("internal server error; check the server's log")
    for error in (StoreUnavailable(), bug):
        bodies[error.code] = plain(json.loads(error_body(error, "…")))
    lines = [
        "# Errors",
        "",
        "Every refusal and failure has a body of the same form. `error` is a sentence for",
        "people, `error_code` a stable code for programs. `details` repeats the facts of the",
        "sentences as data, so programs need not read sentences: the expected and the received",
        "value; `field`, the path of the invalid field, such as `cors.max_age_seconds`, or the",
        "name of a query parameter or header; `see`, a helpful request of the API, by its",
        "`operation` in the OpenAPI document. `hint` is the suggested next step; `retry_after`",
        "(also the `Retry-After` header) is the number of seconds to wait before a retry.",
        "`details`, `hint` and `retry_after` may be null. Quote `request_id`, which is also in",
        "the header `x-request-id`, when you report a problem. Refusals by the HTTP parser",
        "itself (400, 431, 501) have no such body.",
        "",
        "Generated from a server's responses by `tests/spec/errors_page.py`.",
        "",
        "| code | status | when |",
        "|---|---|---|",
    ]
    order = sorted(WHEN, key=lambda code: (STATUS[code], code))
    lines += [f"| [{code}](#{code.lower()}) | {STATUS[code]} | {WHEN[code]} |" for code in order]
    for code in order:
        example = json.dumps(bodies[code], indent=2, ensure_ascii=False)
        lines += ["", f"## {code}", "", f"{STATUS[code]}. {WHEN[code]}", "", "```json"]
        lines += [example, "```"]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(render(collect()))
