"""`quiltfn top` and `open`: what is asked and how it is shown, in a pipe and in a terminal."""

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from quiltfn.cli import dashboard, load_columns, run, screen, top
from quiltfn.sdk import Client
from timeouts import scaled
from unit.canned_server import FUNCTION, ID, Canned, Fake, answered_by
from unit.test_transport import listening

Captured = pytest.CaptureFixture[str]
OTHER = ID[:-1] + "2"
SUMMARY = {name: one for name, one in FUNCTION.items() if name not in ("handler", "environment")}
POOL: dict[str, Any] = {
    **{"function_id": ID, "warming_count": 3, "ready_count": 2, "busy_count": 1},
    **{"total_count": 6, "parked_count": 1, "memory_mib": 512.4},
}
STATS: dict[str, Any] = {
    **{"function_id": OTHER, "calls": 90, "errors": 4, "cold_starts": 1},
    **{"p50_ms": 1.26, "p99_ms": 850.4},
}


class Busy(Fake):
    """Has a function with instances, and one that was called and is not known by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.answers["GET", "/pools"] = (200, {"pools": [POOL]})
        self.answers["GET", "/stats"] = (200, {"functions": [STATS], "next_cursor": None})
        self.answers["GET", ""] = (200, {"functions": [SUMMARY], "next_cursor": None})


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Busy()
    answered_by(one, monkeypatch)
    return one


@pytest.mark.usefixtures("fake")
def test_in_a_pipe_it_is_shown_once(capsys: Captured) -> None:
    assert run(["top"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == list(load_columns.HEAD)
    assert first.split() == ["hello", "3", "2", "1", "2", "1", "-", "-", "-", "-", "512", "MiB"]
    rest = ["1.50", "1.3", "ms", "850", "ms", "4", "0", "MiB"]
    assert second.split() == [OTHER, "-", "-", "-", "-", "-", *rest]


def test_programs_get_numbers(fake: Fake, capsys: Captured) -> None:
    assert run(["top", "-o", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["functions"]
    assert first == {
        **{"function_id": ID, "name": "hello", "tenant_id": None, "version": 3},
        **{"ready": 2, "busy": 1},
        **{"starting": 2, "parked": 1, "memory_mib": 512.4, "calls_per_second": 0.0},
        **{"errors": 0, "p50_ms": None, "p99_ms": None},
    }
    assert (second["calls_per_second"], second["errors"], second["version"]) == (1.5, 4, None)
    fake.answers["GET", "/pools"] = (200, {"pools": []})
    fake.answers["GET", "/stats"] = (200, {"functions": [], "next_cursor": None})
    assert run(["top"]) == 0
    assert "no function has instances" in capsys.readouterr().err


def test_operators_see_the_functions_of_all_tenants(fake: Fake, capsys: Captured) -> None:
    instance = {
        **{"function_id": ID, "function_name": "hello", "tenant_id": "acme", "node_id": "n"},
        **{"number": 1, "version": 3, "state": "busy", "memory_mib": 1.0, "age_seconds": 1.0},
        **{"state_seconds": 1.0, "start_reason": "first_call"},
    }
    listed: dict[str, Any] = {
        "total_count": 1,
        "prewarmed_count": 0,
        "waiting_calls": 0,
        "queued_calls": 0,
    }
    listed |= {"instances": [instance], "memory": {}}
    calling = {"tenant_id": "calls", "disabled": False, "functions": 1, "valid_keys": 1}
    idle = {**calling, "tenant_id": "idle", "calls_in_flight": 0}
    tenants = [{**calling, "calls_in_flight": 2}, idle]
    fake.answers["GET", "/api/instances"] = (200, listed)
    fake.answers["GET", "/api/tenants"] = (200, {"tenants": tenants, "next_cursor": None})
    assert run(["top", "--all-tenants"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["acme/hello", "calls/hello", f"acme/{OTHER}", f"calls/{OTHER}"]
    assert run(["top", "--all-tenants", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["functions"]
    assert {row["tenant_id"] for row in rows} == {"acme", "calls"}


def test_names_are_asked_for_again_only_for_a_function_that_is_new() -> None:
    fake = Busy()
    fake.answers["GET", "/stats"] = (200, {"functions": [], "next_cursor": None})
    with Client("http://x", transport=Canned(fake)) as client:
        observer = top.Observer(client)
        for _ in range(3):
            observer.look()
        assert fake.asked.count(("GET", "")) == 1
        new = {**POOL, "function_id": OTHER}
        fake.answers["GET", "/pools"] = (200, {"pools": [POOL, new]})
        observer.look()
    assert fake.asked.count(("GET", "")) == 2


def test_a_server_that_is_away_leaves_what_it_said_last() -> None:
    fake, is_away = Busy(), [False]

    def answer(request: httpx.Request) -> httpx.Response:
        if is_away[0]:
            raise httpx.ConnectError("refused")
        return fake(request)

    with Client("http://x", transport=Canned(answer), retries=0) as client:
        frames = top.frames(top.Observer(client), "http://x")
        head, rows = next(frames)
        assert head == "http://x · 2 functions, 6 instances, 1 busy, 1.50 calls/s, 512 MiB"
        is_away[0] = True
        head, same = next(frames)
        assert "does not answer" in head
        assert same == rows
        is_away[0] = False
        assert "does not answer" not in next(frames)[0]


# --- on a terminal -------------------------------------------------------------------------------


def picture(width: int, height: int, rows: list[tuple[str, ...]]) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    with console.capture() as shown:
        console.print(screen.drawn(console, "the head", rows))
    return [line.rstrip() for line in shown.get().splitlines()]


ROWS = [
    top.row(top.FunctionLoad(function_id="f", name=f"function-{n}", version=n)) for n in range(9)
]


def test_what_a_terminal_has_no_room_for_is_left_out_and_the_rest_is_whole() -> None:
    wide = picture(120, 24, ROWS)
    assert wide[2].split() == list(load_columns.HEAD)
    assert len(wide) == 5 + len(ROWS)
    narrow = picture(58, 24, ROWS)
    assert narrow[2].split() == ["FUNCTION", "READY", "BUSY", "CALLS/S", "P50", "P99", "ERRORS"]
    assert max(map(len, narrow)) <= 58
    assert "function-8" in narrow[11]
    low = picture(120, 9, ROWS)
    assert len(low) == 9
    assert low[-1].startswith("5 more that do less")


def test_a_name_cannot_draw_on_the_terminal() -> None:
    evil = [("a\x1b[31m\n", *ROWS[0][1:])]
    assert "\\u001b" in "".join(picture(120, 24, evil))


def test_it_is_drawn_again_until_q_and_the_terminal_is_as_it_was(tmp_path: Path) -> None:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux: apt install tmux")
    count = itertools.count(1)
    answers = Busy().answers

    with listening() as (port, kind):

        def answer(self: Any) -> None:
            path = self.path.partition("?")[0].removeprefix("/api/functions")
            body = dict(answers["GET", path][1])
            if path == "/pools":
                body["pools"] = [{**POOL, "busy_count": 100 + next(count)}]
            said = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        kind.do_GET = answer
        tmux = ["tmux", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]

        def captured() -> str:
            asked = [*tmux, "capture-pane", "-p"]
            return subprocess.run(asked, check=True, capture_output=True, text=True).stdout

        def wait_for(text: str) -> None:
            deadline = time.monotonic() + scaled(20)
            while text not in captured():
                assert time.monotonic() < deadline, f"{text!r} is not in\n{captured()}"
                time.sleep(0.05)

        command = f"{sys.executable} -m quiltfn top --url http://127.0.0.1:{port}"
        line = f"echo before; {command}; echo ended with $?; stty -a | grep -o '[-]*icanon'; read x"
        start = [*tmux, "new-session", "-d", "-x", "120", "-y", "20", "/bin/sh", "-c", line]
        subprocess.run(start, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
        try:
            wait_for("104 ")
            assert "before" not in captured()
            subprocess.run([*tmux, "send-keys", "q"], check=True)
            wait_for("ended with 0\nicanon")
            assert captured().startswith("before\n")
        finally:
            subprocess.run([*tmux, "kill-server"], check=True)


# --- open ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_a_page_is_opened_or_printed(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    opened: list[str] = []

    def open_page(address: str) -> bool:
        opened.append(address)
        return "functions" in address

    monkeypatch.setattr("webbrowser.open", open_page)
    monkeypatch.setattr(dashboard, "has_display", lambda: False)
    assert run(["open"]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:8080/ui/\n"
    assert opened == []
    monkeypatch.setattr(dashboard, "has_display", lambda: True)
    assert run(["open", "hello"]) == 0
    assert opened == [f"http://127.0.0.1:8080/ui/#/functions/{ID}"]
    assert capsys.readouterr() == (f"{opened[0]}\n", "")
    assert run(["open"]) == 0
    assert "no browser could be opened" in capsys.readouterr().err
    assert run(["open", "nobody"]) == 1


@pytest.mark.usefixtures("fake")
def test_a_password_in_the_servers_address_is_neither_shown_nor_given_to_a_browser(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    opened: list[str] = []

    def open_page(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", open_page)
    monkeypatch.setattr(dashboard, "has_display", lambda: True)
    monkeypatch.setenv("QUILT_BASE_URL", "http://me:canary@127.0.0.1:8080")
    assert run(["open"]) == 0
    assert opened == ["http://127.0.0.1:8080/ui/"]
    assert capsys.readouterr() == (f"{opened[0]}\n", "")
    seen: list[str] = []
    monkeypatch.setattr(screen, "refresh", lambda frames, _: seen.append(next(frames)[0]))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(["top"]) == 0
    assert seen[0].startswith("http://127.0.0.1:8080 · ")
