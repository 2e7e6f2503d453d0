"""A server with canned responses, for tests of the command line and the client library."""

import io
import json
from collections.abc import Callable, Generator, Mapping
from typing import Any, get_origin

import httpx
import pytest
from msgspec import Struct
from msgspec.structs import replace

from quiltfn.cli import session
from quiltfn.sdk import Client
from quiltfn.sdk.transport import AnswerTimeout, HttpRequest, HttpResponse, NotConnected
from quiltfn.wire.fields import Field, fields_of

ID = "01999999-0000-7000-8000-000000000001"
FUNCTION: dict[str, Any] = {
    "id": ID,
    "tenant_id": "default",
    "cluster_id": None,
    "owner_node_id": "n1",
    "name": "hello",
    "description": "says \x1b[31mhello",
    "handler": "echo hello",
    "runtime": "shell",
    "state": "active",
    "current_version": 3,
    "memory_limit_mb": 256,
    "cpu_limit_percent": 100.0,
    "timeout_seconds": 30,
    "environment": {"A": "1"},
    "min_instances": 0,
    "max_instances": 5,
    "cleanup_on_exit": True,
    "working_directory": None,
    "created_at": 1760000000,
    "updated_at": 1760000000,
    "last_invoked_at": None,
    "invocation_count": 0,
    "error_count": 0,
    "error_message": None,
}
OF_VERSION = (
    *("handler", "runtime", "environment", "created_at", "description", "working_directory"),
    *("memory_limit_mb", "cpu_limit_percent", "timeout_seconds", "cleanup_on_exit"),
)


def version(number: int, image: str) -> dict[str, Any]:
    """The record of a version of `FUNCTION`; version 5 is current. `image`: the digest of its
    files.
    """
    own = {"id": f"v{number}", "function_id": ID, "version": number, "is_active": number == 5}
    return {name: FUNCTION[name] for name in OF_VERSION} | own | {"image_digest": image}


INVOCATION: dict[str, Any] = {
    "invocation_id": "i1",
    "function_id": ID,
    "function_name": "hello",
    "execution_node_id": "n1",
    "status": "success",
    "started_at": 1760000000,
    "ended_at": 1760000000,
    "duration_ms": 3,
    "exit_code": 0,
    "stdout": "hello\n",
    "stderr": "",
    "error_message": None,
    "cold_start": False,
}
INFO: dict[str, Any] = {
    **{"version": "1", "node_id": "n1", "cgroup_mode": "v2", "oci_runtime": "crun 1"},
    **{"durability": "relaxed", "protections": {}, "interpreters": {}, "limits": {}, "memory": {}},
}
NOT_FOUND = {"error": "there is no such function", "error_code": "NOT_FOUND", "hint": "list them"}


def body_of(schema: type[Struct], **values: Any) -> dict[str, Any]:
    """A body that fits `schema` and has these `values`. Other required fields are null if the
    schema allows it; otherwise, they have the documented example.
    """
    required = {name: one for name, one in fields_of(schema).items() if one.is_required}
    return {name: None if one.is_nullable else _example(one) for name, one in required.items()} | (
        values
    )


def _example(field: Field) -> Any:
    if field.is_shape:
        return body_of(field.kind)
    return (get_origin(field.kind) or field.kind)() if field.example is None else field.example


class Fake:
    """A server that has a response for each method and path, and responds to other requests with
    404. Records the requests.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.query = ""
        self.headers: Mapping[str, str] = {}
        self.body: Any = None
        self.bodies: list[Any] = []
        # The next responses to requests whose response changes; used before those in `answers`.
        self.then: dict[tuple[str, str], list[tuple[int, Any]]] = {}
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "/by-name/hello"): (200, FUNCTION),
            ("GET", f"/{ID}"): (200, FUNCTION),
            ("POST", f"/{ID}/deploy"): (200, FUNCTION),
            ("DELETE", f"/{ID}"): (204, None),
            ("GET", ""): (200, {"functions": [FUNCTION], "next_cursor": "c2"}),
            ("POST", "/invoke/hello"): (200, INVOCATION),
            ("POST", f"/{ID}/invoke"): (200, INVOCATION),
            ("POST", ""): (
                201,
                {"function_id": ID, "name": "hello", "state": "pending", "version": 1},
            ),
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        call = (request.method, request.url.path.removeprefix("/api/functions"))
        self.asked.append(call)
        content = request.read()
        is_json = request.headers.get("content-type") == "application/json"
        self.body = json.loads(content) if content and is_json else content or None
        self.bodies.append(self.body)
        self.query, self.headers = request.url.query.decode(), request.headers
        first = self.then.get(call)
        status, body = first.pop(0) if first else self.answers.get(call, (404, NOT_FOUND))
        if isinstance(body, bytes):
            return httpx.Response(status, content=body)
        if body is None:
            return httpx.Response(status)
        return httpx.Response(status, json=body, headers={"x-invocation-id": "i1"})

    def ends(self, **how: Any) -> None:
        self.answers["POST", "/invoke/hello"] = (200, {**INVOCATION, **how})


class Canned:
    """A `Transport` that calls a function instead of a server. The function takes, returns
    and raises httpx's types, so that it can also replace the server of the asynchronous client.
    """

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self._answer = answer

    def exchange(self, request: HttpRequest) -> HttpResponse:
        body = (
            request.body
            if request.body is None or isinstance(request.body, bytes)
            else request.body.read()
        )
        asked = httpx.Request(
            request.method,
            request.url,
            headers=dict(request.headers),
            content=body,
            extensions={"timeout": {"read": request.read_timeout_s}},
        )
        try:
            given = self._answer(asked)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotConnected(str(error)) from error
        except httpx.ReadTimeout as error:
            raise AnswerTimeout(str(error)) from error
        except httpx.RequestError as error:
            raise OSError(str(error) or type(error).__name__) from error
        headers = {name.lower(): value for name, value in given.headers.items()}
        return HttpResponse(status=given.status_code, headers=headers, content=given.content)

    def open(self, request: HttpRequest) -> tuple[HttpResponse, Generator[bytes, None, None]]:
        whole = self.exchange(request)
        return replace(whole, content=b""), (one for one in [whole.content] if one)

    def close(self) -> None:
        pass


def answered_by(
    answer: Callable[[httpx.Request], httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make every command of this test call `answer` instead of a server."""
    monkeypatch.delenv("QUILT_BASE_URL", raising=False)
    monkeypatch.setattr(
        session,
        "Client",
        lambda url, **more: Client(url, transport=Canned(answer), **more),
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
