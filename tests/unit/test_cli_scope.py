"""Commands without a function's name, the times that they accept, and the log of HTTP servers."""

import time
from pathlib import Path

import httpx
import msgspec
import pytest

from promises import promise
from quiltfn import wire
from quiltfn.cli import moments, server_log, tables
from quiltfn.cli.parsing import BadParameter
from quiltfn.sdk import Invocation, InvocationSummaryPage
from quiltfn.sdk.events import End, Event, Output, Started
from unit.canned_server import FUNCTION, ID, INVOCATION, NOT_FOUND, answered_by, body_of
from unit.command_line import CommandLine

pytestmark = promise("A83")

NAMES = {f"{ID[:-1]}{number}": name for number, name in enumerate(("a", "b", "gone"))}


def invocation(function_id: str, name: str, number: int) -> dict[str, object]:
    return body_of(
        wire.InvocationSummary,
        invocation_id=f"{number}-{name}",
        function_id=function_id,
        function_name=name,
        status="success",
        attempt=4,
    )


def listed(schema: type[msgspec.Struct], names: str) -> list[dict[str, object]]:
    return [body_of(schema, function_id=f"id-{name}", function_name=name) for name in names]


LISTS = {
    "/api/queues": ("queues", listed(wire.FunctionQueue, "ba")),
    "/api/dead-letters": ("dead_letters", listed(wire.DeadLetter, "aba")),
    "/api/deliveries": ("deliveries", listed(wire.Delivery, "aba")),
}


GONE = httpx.Response(404, json=NOT_FOUND)


def answer(request: httpx.Request) -> httpx.Response:
    """List records of the tenant or, if the request names it, of the project `shop`, which has
    function `b`. The first page names a second one.
    """
    path, query = request.url.path, dict(request.url.params)
    assert query.get("cluster_id", "project:shop") == "project:shop"
    if path == "/api/functions":
        names = set(NAMES.values()) if "cluster_id" not in query else {"b"}
        found = [
            FUNCTION | {"id": one, "name": name} for one, name in NAMES.items() if name in names
        ]
        return httpx.Response(200, json={"functions": found, "next_cursor": None})
    if path == "/api/invocations":
        ids = {one: name for one, name in NAMES.items() if query.get("function_id") in (None, one)}
        if [*ids.values()] == ["gone"]:
            return GONE
        calls = [invocation(one, name, at) for one, name in ids.items() for at in (1, 2)]
        next_cursor = "c" if query.get("limit") == "1" else None
        return httpx.Response(200, json={"invocations": calls, "next_cursor": next_cursor})
    if "/by-name/" in path:
        return GONE
    if path.endswith("/aliases"):
        name, share = NAMES[path.split("/")[3]], {"version": 4, "weight": 0.1}
        alias = body_of(wire.Alias, name=f"of-{name}", version=3, also=share)
        return GONE if name == "gone" else httpx.Response(200, json={"aliases": [alias]})
    field, found = LISTS[path]
    if "cluster_id" in query:
        found = [one for one in found if one["function_name"] == "b"]
    start, limit = int(query.get("cursor", 0)), int(query.get("limit", 50))
    end = start + limit
    more = str(end) if end < len(found) else None
    return httpx.Response(200, json={field: found[start:end], "next_cursor": more})


@pytest.fixture
def cli(cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    answered_by(answer, monkeypatch)
    return cli


def in_project() -> None:
    Path("quiltfn.toml").write_text('project = "shop"\n')


@pytest.mark.parametrize(
    ("command", "field", "names"),
    [
        ("queue", "queues", ["b", "a"]),
        ("dead-letters list", "dead_letters", ["a", "b", "a"]),
        ("deliveries list", "deliveries", ["a", "b", "a"]),
    ],
)
def test_a_list_of_all_functions_names_each_and_says_that_there_is_more(
    cli: CommandLine, command: str, field: str, names: list[str]
) -> None:
    def listed(*options: str) -> list[str]:
        found = cli.run(f"{command} -o json", *options).data[field]
        return [one["function_name"] for one in found]

    assert listed() == names
    assert listed("--limit", "1", "--cursor", "1") == names[1:2]
    shown = cli.run(f"{command} --limit 1")
    assert "FUNCTION" in shown.out
    assert "more results: add --cursor 1" in shown.err
    assert ("on_failure" in shown.out and "ENDED" in shown.out) == (field == "deliveries")
    in_project()
    said = cli.run(f"{command} -o json")
    assert {one["function_name"] for one in said.data[field]} == {"b"}
    assert "project shop; --all-functions" in said.err
    assert set(listed("--all-functions")) == {"a", "b"}


def test_invocations_are_those_of_the_project(cli: CommandLine) -> None:
    def listed(*more: str) -> tuple[list[str], str]:
        printed = cli.run("invocations -o json", *more)
        shown = printed.data["invocations"]
        return [one["invocation_id"] for one in shown], printed.err

    assert len(listed()[0]) == 6
    in_project()
    ids, note = listed()
    assert ids == ["2-b", "1-b"]
    assert "project shop; --all-functions" in note
    assert "more results" not in note
    ids, note = listed("--limit", "1")
    assert (ids, "more results" in note) == (["2-b"], True)
    assert len(listed("--all-functions")[0]) == 6
    for which in (["--function", next(iter(NAMES))], [next(iter(NAMES))]):
        assert listed(*which) == (["1-a", "2-a"], "")
    assert "success, attempt 4" in cli.run("invocations").out
    needs = "--cursor needs a function's name or --all-functions"
    assert needs in cli.run("invocations --cursor c", code=2).err


def test_invocations_are_shown_by_when_they_started(capsys: pytest.CaptureFixture[str]) -> None:
    started = {"a": 5, "b": None, "c": 9}
    found = [
        {**invocation(ID, name, at), "started_at": at_s}
        for at, (name, at_s) in enumerate(started.items())
    ]
    page = msgspec.convert({"invocations": found, "next_cursor": None}, InvocationSummaryPage)
    tables.all_invocations(page)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-1].partition("-")[2] for row in rows] == ["b", "c", "a"]


def test_aliases_are_of_a_function_of_the_project_or_all(cli: CommandLine) -> None:
    def listed(*more: str) -> list[tuple[str | None, str]]:
        shown = cli.run("aliases list -o json", *more).data["aliases"]
        return [(one.get("function_name"), one["name"]) for one in shown]

    assert listed() == [("a", "of-a"), ("b", "of-b")]
    assert listed(next(iter(NAMES))) == [(None, "of-a")]
    in_project()
    assert listed() == [("b", "of-b")]
    assert listed("--all-functions") == [("a", "of-a"), ("b", "of-b")]
    head, row = cli.run("aliases list").lines
    assert head.startswith("FUNCTION ALIAS VERSION ")
    assert row.startswith("b of-b 3 4=10% ")


# --- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", "2026-12-01T11:58:30"),
        ("1d", "2026-11-30T12:00:00"),
        ("today", "2026-12-01T00:00:00"),
        ("yesterday", "2026-11-30T00:00:00"),
        ("09:30", "2026-12-01T09:30:00"),
        ("09:30:15", "2026-12-01T09:30:15"),
        ("2026-11-02", "2026-11-02T00:00:00"),
        ("2026-11-02T09:30", "2026-11-02T09:30:00"),
        ("2026-11-02 09:30", "2026-11-02T09:30:00"),
        ("2026-12-01T09:30+05:00", "2026-12-01T05:30:00"),
    ],
)
def test_moments_are_ages_or_days(monkeypatch: pytest.MonkeyPatch, text: str, moment: str) -> None:
    now = 1_796_122_800  # 2026-12-01T12:00:00+01:00
    monkeypatch.setenv("TZ", "Etc/GMT-1")
    time.tzset()
    try:
        monkeypatch.setattr(time, "time", lambda: float(now))
        found = moments.moment_of("--since", text)
        assert time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(found)) == moment
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "now", "1w", "9", "24:00:00", "99999-01-01", "1e9"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="--since must be"):
        moments.moment_of("--since", text)


# --- HTTP servers -------------------------------------------------------------------------------

HEAD = b'{"statusCode":404,"headers":{},"cookies":[],"request":{"method":"GET","path":"/tea"}}'
ENDED = End(Invocation(**{**INVOCATION, "invocation_id": "i1", "http_status": 404}))


def test_a_response_is_a_line_however_it_was_cut() -> None:
    whole = HEAD + server_log.END + b"a body that is not shown"
    stderr = Output("stderr", 0, b"log\n", "i1")
    for cut in range(0, len(whole), 7):
        pieces = [Output("stdout", 0, whole[:cut], "i1"), Output("stdout", cut, whole[cut:], "i1")]
        events: list[Event] = [Started("i1", cold_start=False), pieces[0], stderr, pieces[1], ENDED]
        started, log, line, end = server_log.as_lines(iter(events))
        assert (started, log, end) == (events[0], stderr, ENDED)
        assert isinstance(line, server_log.RequestLine)
        assert str(line).endswith(f" GET /tea 404 {ENDED.invocation.duration_ms} ms")
    of_an_earlier_server = b'{"statusCode":404,"headers":{},"cookies":[]}' + server_log.END
    line, _ = server_log.as_lines(iter([Output("stdout", 0, of_an_earlier_server, None), ENDED]))
    assert " - - 404 " in str(line)


@pytest.mark.parametrize(
    "output",
    [b"the result of an event", b"", b"{}" + server_log.END, b"[1]" + server_log.END, HEAD],
)
def test_what_is_no_response_is_shown_as_it_is(output: bytes) -> None:
    events: list[Event] = [Output("stdout", 0, output, "i1"), ENDED]
    assert list(server_log.as_lines(iter(events))) == events
