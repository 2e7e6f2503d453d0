"""`quiltfn top` and `open`: requests, and output in a pipe and on a terminal."""

import io
import itertools
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from quiltfn import wire
from quiltfn.cli import dashboard, load_columns, screen, top
from quiltfn.sdk import Client
from unit.canned_server import FUNCTION, ID, Canned, body_of
from unit.command_line import CommandLine
from unit.terminals import Screen, needs, serving

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
NO_CALLS: dict[str, Any] = {"functions": [], "next_cursor": None}
# One function with instances, and one that was called but whose name is unknown.
BUSY = {
    "/pools": {"pools": [POOL]},
    "/stats": {"functions": [STATS], "next_cursor": None},
    "": {"functions": [SUMMARY], "next_cursor": None},
}


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.answers |= {("GET", path): (200, body) for path, body in BUSY.items()}
    return cli


def test_in_a_pipe_it_is_shown_once_and_programs_get_numbers(cli: CommandLine) -> None:
    assert cli.run("top").lines == [
        " ".join(load_columns.HEAD),
        "hello 3 2 1 2 1 - - - - 512 MiB",
        f"{OTHER} - - - - - 1.50 1.3 ms 850 ms 4 0 MiB",
    ]
    first, second = cli.run("top -o json").data["functions"]
    assert first == {
        **{"function_id": ID, "name": "hello", "tenant_id": None, "version": 3},
        **{"ready": 2, "busy": 1},
        **{"starting": 2, "parked": 1, "memory_mib": 512.4, "calls_per_second": 0.0},
        **{"errors": 0, "p50_ms": None, "p99_ms": None},
    }
    assert (second["calls_per_second"], second["errors"], second["version"]) == (1.5, 4, None)
    cli.answers["GET", "/pools"] = (200, {"pools": []})
    cli.answers["GET", "/stats"] = (200, NO_CALLS)
    assert "no function has instances" in cli.run("top").err


def test_operators_see_the_functions_of_all_tenants(cli: CommandLine) -> None:
    instance = body_of(
        wire.Instance, function_id=ID, function_name="hello", tenant_id="acme", state="busy"
    )
    tenants = [
        body_of(wire.Tenant, tenant_id=name, calls_in_flight=count)
        for name, count in (("calls", 2), ("idle", 0))
    ]
    cli.answers["GET", "/api/instances"] = (200, body_of(wire.InstanceList, instances=[instance]))
    cli.answers["GET", "/api/tenants"] = (200, {"tenants": tenants, "next_cursor": None})
    names = [line.split()[0] for line in cli.run("top --all-tenants").lines[1:]]
    assert names == ["acme/hello", "calls/hello", f"acme/{OTHER}", f"calls/{OTHER}"]
    rows = cli.run("top --all-tenants -o json").data["functions"]
    assert {row["tenant_id"] for row in rows} == {"acme", "calls"}


def test_names_are_asked_for_again_only_for_a_function_that_is_new(cli: CommandLine) -> None:
    cli.answers["GET", "/stats"] = (200, NO_CALLS)
    with Client("http://x", transport=Canned(cli)) as client:
        observer = top.Observer(client)
        for _ in range(3):
            observer.look()
        assert cli.asked.count(("GET", "")) == 1
        new = {**POOL, "function_id": OTHER}
        cli.answers["GET", "/pools"] = (200, {"pools": [POOL, new]})
        observer.look()
    assert cli.asked.count(("GET", "")) == 2


def test_a_server_that_is_away_leaves_what_it_said_last(cli: CommandLine) -> None:
    is_away = False

    def answer(request: httpx.Request) -> httpx.Response:
        if is_away:
            raise httpx.ConnectError("refused")
        return cli(request)

    with Client("http://x", transport=Canned(answer), retries=0) as client:
        frames = top.frames(top.Observer(client), "http://x")
        head, rows = next(frames)
        assert head == "http://x · 2 functions, 6 instances, 1 busy, 1.50 invocations/s, 512 MiB"
        is_away = True
        head, same = next(frames)
        assert "does not respond" in head
        assert same == rows
        is_away = False
        assert "does not respond" not in next(frames)[0]


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
    assert narrow[2].split() == ["FUNCTION", "READY", "BUSY", "INVOKED/S", "P50", "P99", "ERRORS"]
    assert max(map(len, narrow)) <= 58
    assert "function-8" in narrow[11]
    low = picture(120, 9, ROWS)
    assert len(low) == 9
    assert low[-1].startswith("5 less busy ones")
    evil = [("a\x1b[31m\n", *ROWS[0][1:])]  # the control characters of a name are escaped
    assert "\\u001b" in "".join(picture(120, 24, evil))


def test_it_is_drawn_again_until_q_and_the_terminal_is_as_it_was(tmp_path: Path) -> None:
    needs("tmux")
    count = itertools.count(101)

    def reply(path: str, _: bytes) -> Any:
        path = path.removeprefix("/api/functions")
        return {"pools": [{**POOL, "busy_count": next(count)}]} if path == "/pools" else BUSY[path]

    with serving(reply) as url:
        command = f"{sys.executable} -m quiltfn top --url {url}"
        line = f"echo before; {command}; echo ended with $?; stty -a | grep -o '[-]*icanon'; read x"
        with Screen(tmp_path, ["/bin/sh", "-c", line], {}) as screen:
            screen.wait_for("104 ")
            assert "before" not in screen.text()
            screen.run("send-keys", "q")
            screen.wait_for("ended with 0\nicanon")
            assert screen.text().startswith("before\n")


# --- open ----------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that a browser was asked to open. Opening the start page fails."""
    pages: list[str] = []

    def open_page(address: str) -> bool:
        pages.append(address)
        return "functions" in address

    monkeypatch.setattr("webbrowser.open", open_page)
    monkeypatch.setattr(dashboard, "has_display", lambda: True)
    return pages


def test_a_page_is_opened_or_printed(
    cli: CommandLine, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "has_display", lambda: False)
    assert cli.run("open").out == "http://127.0.0.1:8080/ui/\n"
    assert opened == []
    monkeypatch.setattr(dashboard, "has_display", lambda: True)
    page = f"http://127.0.0.1:8080/ui/#/functions/{ID}"
    assert cli.run("open hello") == (f"{page}\n", "")
    assert opened == [page]
    assert "no browser could be opened" in cli.run("open").err
    cli.run("open nobody", code=1)


def test_a_password_in_the_servers_address_is_neither_shown_nor_given_to_a_browser(
    cli: CommandLine, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUILT_BASE_URL", "http://me:canary@127.0.0.1:8080")
    printed = cli.run("open hello")
    assert opened == [f"http://127.0.0.1:8080/ui/#/functions/{ID}"]
    assert printed == (f"{opened[0]}\n", "")
    seen: list[str] = []
    monkeypatch.setattr(screen, "refresh", lambda frames, _: seen.append(next(frames)[0]))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    cli.run("top")
    assert seen[0].startswith("http://127.0.0.1:8080 · ")
