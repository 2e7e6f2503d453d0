"""How a plan is performed if steps fail, and the exit codes of `quiltfn deploy`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from promises import promise
from quiltfn.cli import run
from quiltfn.cli.project import commands
from unit.canned_server import FUNCTION, ID, INFO, answered_by

OTHER = ID.replace("1999", "2999")
Captured = pytest.CaptureFixture[str]
POLICY = {
    **{"max_attempts": 1, "max_age_seconds": 21600, "max_queued": 100000},
    "backoff_seconds": {"first": 1.0, "factor": 2.0, "most": 600.0, "jitter": 0.2},
    "retry_on": ["failed", "timeout", "oom", "error", "interrupted"],
    **{"max_concurrency": None, "on_success": None, "on_failure": None},
}
FILE = """\
project = "shop"

[functions.hello]
handler = "echo new"
"""
WHOAMI = {
    **{"tenant_id": "default", "credential": "open", "expires_at": None},
    **{"needs_credential": False, "version": "1", "node_id": "n1", "offers": []},
}
GONE = {"error": "there is no such thing", "error_code": "NOT_FOUND", "hint": None}
CHANGED = {"error": "it was changed", "error_code": "PRECONDITION_FAILED", "hint": None}


class Server:
    """A server with functions of the project. `updates`: the outcome of each of the next updates:
    None (success), an exception, a response, or a status and the function's state after it.
    """

    def __init__(self) -> None:
        self.scope = "write"
        self.functions = {"hello": function_of("hello", ID)}
        self.updates: Iterator[Any] = iter(())
        self.asked: list[tuple[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api")
        self.asked.append((request.method, path))
        functions = {f"/functions/{one['id']}": one for one in self.functions.values()}
        if request.method == "PUT":
            return self._updated(request, functions[path])
        if request.method == "DELETE":
            del self.functions[functions[path]["name"]]
            return httpx.Response(204)
        known: dict[str, Any] = {
            "/whoami": WHOAMI | {"scope": self.scope},
            "/system/info": INFO,
            "/schedules": {"schedules": [], "next_cursor": None},
            "/runtimes": {"runtimes": []},
            "/functions": {"functions": list(functions.values()), "next_cursor": None},
        }
        for where, function in functions.items():
            policies = {"async-policy": POLICY, "record-policy": {"keep_input": "async"}}
            known |= {where: function} | {
                f"{where}/{name}": each for name, each in policies.items()
            }
        if path not in known:
            return httpx.Response(404, json=GONE)
        headers = {"etag": f'"{functions[path]["etag"]}"'} if path in functions else {}
        return httpx.Response(200, json=known[path], headers=headers)

    def _updated(self, request: httpx.Request, function: dict[str, Any]) -> httpx.Response:
        assert request.headers["if-match"] == f'"{function["etag"]}"'
        given = next(self.updates, None)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, httpx.Response):
            return given
        status, now = given or (200, json.loads(request.read()))
        function |= now
        return httpx.Response(status, json=function if status == 200 else CHANGED)

    def count(self, method: str) -> int:
        return sum(one == method for one, _ in self.asked)


def function_of(name: str, function_id: str) -> dict[str, Any]:
    same: dict[str, Any] = {
        "environment": {},
        "description": None,
        "cluster_id": "project:shop",
        "etag": 1,
    }
    return FUNCTION | same | {"name": name, "id": function_id}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    answered_by(server, monkeypatch)
    monkeypatch.setattr(commands, "FIRST_WAIT_S", 0.0)
    return server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "quiltfn.toml").write_text(FILE)
    return tmp_path


def test_an_update_goes_by_the_etag_that_was_compared(server: Server, place: Path) -> None:
    assert run(["deploy", str(place), "--dry-run"]) == 0
    assert {method for method, _ in server.asked} == {"GET"}
    assert run(["deploy", str(place)]) == 0
    assert server.functions["hello"]["handler"] == "echo new"
    assert server.count("PUT") == 1
    assert ("PUT", f"/functions/{ID}") in server.asked


@promise("R43")
def test_others_changes_are_compared_again(server: Server, place: Path, capsys: Captured) -> None:
    now = {"etag": 2, "handler": "echo theirs"}
    server.updates = iter([(412, now)])
    assert run(["deploy", str(place)]) == 0
    assert server.count("PUT") == 2
    assert server.functions["hello"]["handler"] == "echo new"
    assert "it was changed; comparing again" in capsys.readouterr().err


def test_what_somebody_else_has_done_already_is_not_done_again(server: Server, place: Path) -> None:
    server.updates = iter([(412, {"etag": 2, "handler": "echo new"})])
    assert run(["deploy", str(place)]) == 0
    assert server.count("PUT") == 1


def test_who_never_gets_a_turn_gives_up(server: Server, place: Path, capsys: Captured) -> None:
    server.updates = iter([(412, {"etag": number}) for number in range(2, 20)])
    assert run(["deploy", str(place)]) == 3
    assert server.count("PUT") == commands.ROUNDS
    assert "somebody else changes the project as well" in capsys.readouterr().err


@pytest.mark.parametrize(("wait_s", "code"), [(10, 0), (60, 1)])
def test_what_is_refused_for_a_moment_alone_is_tried_again(
    server: Server, place: Path, capsys: Captured, wait_s: int, code: int
) -> None:
    """A step is repeated if the server refuses it for a moment, for example since the tenant
    uploads something else, but not if the tenant's quota is reached.
    """
    busy = {"error": "others are at it", "error_code": "RATE_LIMITED", "hint": None}
    server.updates = iter([httpx.Response(429, json=busy | {"retry_after": wait_s})])
    assert run(["deploy", str(place)]) == code
    assert server.count("PUT") == (2 if code == 0 else 1)
    assert "others are at it" in capsys.readouterr().err


def test_failed_functions_keep_what_would_go(server: Server, place: Path, capsys: Captured) -> None:
    server.functions["old"] = function_of("old", OTHER)
    why = "version 4 cannot serve: it said\nerror: no"
    server.updates = iter([(200, {"error_message": why})])
    assert run(["deploy", str(place), "--yes"]) == 1
    assert "old" in server.functions
    # The output of a program must not look like a line of the command.
    assert "hello: version 4 cannot serve: it said\n  | error: no" in capsys.readouterr().err


def test_nothing_is_deleted_without_a_yes(server: Server, place: Path, capsys: Captured) -> None:
    server.functions["old"] = function_of("old", OTHER)
    assert run(["deploy", str(place)]) == 1
    assert server.count("PUT") == server.count("DELETE") == 0
    assert "this would delete function old" in capsys.readouterr().err
    assert run(["deploy", str(place), "--yes"]) == 0
    assert list(server.functions) == ["hello"]


def test_a_deletion_that_comes_up_meanwhile_was_not_agreed_to(server: Server, place: Path) -> None:
    def changed() -> Iterator[Any]:
        server.functions["theirs"] = function_of("theirs", OTHER)
        yield 412, {"etag": 2}

    server.updates = changed()
    assert run(["deploy", str(place)]) == 3
    assert "theirs" in server.functions


def test_a_lost_connection_is_told_apart_by_what_was_done(server: Server, place: Path) -> None:
    server.functions["old"] = function_of("old", OTHER)
    (place / "quiltfn.toml").write_text(f"{FILE}\n[functions.old]\nhandler = 'echo new'\n")
    server.updates = iter([httpx.ReadError("gone")])
    assert run(["deploy", str(place)]) == 1
    server.updates = iter([None, httpx.ReadError("gone")])
    assert run(["deploy", str(place)]) == 3
    assert run(["deploy", str(place)]) == 0
    assert {one["handler"] for one in server.functions.values()} == {"echo new"}


def test_a_key_that_reads_is_refused_at_once(server: Server, place: Path, capsys: Captured) -> None:
    server.scope = "invoke"
    assert run(["deploy", str(place)]) == 1
    assert "the key has scope invoke, but projects need scope write" in capsys.readouterr().err


@pytest.mark.usefixtures("server")
def test_json_says_what_was_done(place: Path, capsys: Captured) -> None:
    assert run(["deploy", str(place), "-o", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["project"], report["outcome"], report["failed"]) == ("shop", "done", {})
    (step,) = report["steps"]
    assert step["changes"][0] == {"field": "handler", "old": "echo hello", "new": "echo new"}
    assert report["done"] == report["steps"]
