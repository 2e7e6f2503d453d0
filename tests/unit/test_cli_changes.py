"""The command line's changes and tables against the fake."""

import re
import sys
from typing import Any

import msgspec
import pytest

from promises import promise
from quiltfn.cli import run, show
from quiltfn.cli.field_options import option_of
from quiltfn.cli.options import unset_of
from quiltfn.wire import FunctionChanges
from quiltfn.wire.fields import fields_of
from unit.canned_server import FUNCTION, ID, INFO, INVOCATION, Fake, Terminal, answered_by, version


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Fake()
    answered_by(one, monkeypatch)
    return one


Captured = pytest.CaptureFixture[str]

# --- changes -----------------------------------------------------------------------------------


def test_update_sends_what_was_said_and_nothing_else(fake: Fake, capsys: Captured) -> None:
    fake.answers["PUT", f"/{ID}"] = (200, {**FUNCTION, "current_version": 4})
    assert run(["functions", "update", "hello", "--memory", "512"]) == 0
    assert _updated(fake) == {"memory_limit_mb": 512}
    assert capsys.readouterr() == ("hello is active: version 4\n", "")


def _updated(fake: Fake) -> Any:
    """The body of the one update."""
    (at,) = [n for n, call in enumerate(fake.asked) if call == ("PUT", f"/{ID}")]
    return fake.bodies[at]


@pytest.mark.parametrize(("image", "is_told"), [("sha256:4", True), ("sha256:3", False)])
def test_update_says_where_the_new_version_has_other_files(
    fake: Fake, capsys: Captured, image: str, is_told: bool
) -> None:
    versions = [version(5, image), version(4, "sha256:4"), version(3, "sha256:3")]
    fake.answers["PUT", f"/{ID}"] = (200, {**FUNCTION, "current_version": 5})
    fake.answers["GET", f"/{ID}/versions"] = (200, {"versions": versions})
    assert run(["functions", "update", "hello", "--memory", "512"]) == 0
    told = "version 5 has the files that runtime shell has now, not those of version 3"
    assert (told in capsys.readouterr().err) is is_told


def test_update_understands_every_option(fake: Fake) -> None:
    fake.answers["PUT", f"/{ID}"] = (200, FUNCTION)
    words = "--name n --handler h --runtime shell --description d --memory 512 --cpu 12.5"
    more = "--timeout 9 --env A=1 --env B=2 --min 1 --max 2 --keep-state --workdir /app"
    assert run(["functions", "update", "hello", *words.split(), *more.split()]) == 0
    assert _updated(fake) == {
        "name": "n",
        "handler": "h",
        "runtime": "shell",
        "description": "d",
        "memory_limit_mb": 512,
        "cpu_limit_percent": 12.5,
        "timeout_seconds": 9,
        "environment": {"A": "1", "B": "2"},
        "min_instances": 1,
        "max_instances": 2,
        "cleanup_on_exit": False,
        "working_directory": "/app",
    }


def test_update_takes_back_what_can_be_taken_back(fake: Fake) -> None:
    fake.answers["PUT", f"/{ID}"] = (200, FUNCTION)
    words = "--unset-description --unset-workdir --unset-env --clean"
    assert run(["functions", "update", "hello", *words.split()]) == 0
    assert _updated(fake) == {
        "description": None,
        "working_directory": None,
        "environment": {},
        "cleanup_on_exit": True,
    }


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("update hello --workdir /x", ("PUT", f"/{ID}")),
        ("rollback hello 2", ("POST", f"/{ID}/rollback")),
    ],
)
def test_a_version_that_cannot_serve_fails_the_command_and_says_why(
    fake: Fake, capsys: Captured, line: str, call: tuple[str, str]
) -> None:
    fake.answers[call] = (200, {**FUNCTION, "error_message": "version 4 cannot serve"})
    assert run(["functions", *line.split()]) == 1
    assert capsys.readouterr().err == "error: version 4 cannot serve\n"


def test_an_old_error_does_not_fail_a_deploy_that_works(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", f"/{ID}/deploy"] = (200, {**FUNCTION, "error_message": "of long ago"})
    assert run(["functions", "deploy", "hello"]) == 0
    assert capsys.readouterr().err == ""


@promise("R26")
def test_what_a_runtime_says_of_how_it_serves_is_shown(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", f"/{ID}/deploy"] = (200, {**FUNCTION, "note": "it starts threads"})
    assert run(["functions", "deploy", "hello"]) == 0
    assert "it starts threads" in capsys.readouterr().err


def test_pause_resume_and_rollback(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", f"/{ID}/pause"] = (200, {"success": True, "message": "2 calls still run"})
    fake.answers["POST", f"/{ID}/resume"] = (200, FUNCTION)
    fake.answers["POST", f"/{ID}/rollback"] = (200, FUNCTION)
    assert run(["functions", "pause", "hello"]) == 0
    assert run(["functions", "resume", "hello"]) == 0
    alias = {"name": "live", "version": 3, "also": None, "default": True, "updated_at": 1}
    of_aliases = ("GET", f"/{ID}/aliases")
    fake.then[of_aliases] = [(200, {"aliases": []}), (200, {"aliases": [alias]})]
    assert run(["functions", "rollback", "hello", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "hello is paused\n" + 2 * "hello is active: version 3\n"
    assert printed.err == (
        "2 calls still run\nlive is version 3; calls without a version or alias run by it\n"
    )


def test_a_rollback_without_a_version_goes_to_the_one_before(fake: Fake, capsys: Captured) -> None:
    numbers = [5, 4, 2, 1]  # a third one was removed
    fake.answers["POST", f"/{ID}/rollback"] = (200, FUNCTION)
    fake.answers["GET", f"/{ID}/aliases"] = (200, {"aliases": []})
    for current, chosen in ((4, 2), (2, 1), (1, None)):
        found = [version(number, "") for number in numbers]
        fake.answers["GET", f"/{ID}/versions"] = (200, {"versions": found, "next_cursor": None})
        fake.answers["GET", "/by-name/hello"] = (200, {**FUNCTION, "current_version": current})
        assert run(["functions", "rollback", "hello"]) == (0 if chosen else 1)
        assert [one for one in fake.bodies if one] == ([{"version": chosen}] if chosen else [])
        fake.bodies.clear()
    assert "no version before the current one, 1" in capsys.readouterr().err


def test_scale_keeps_the_target_that_was_not_named(fake: Fake, capsys: Captured) -> None:
    fake.answers["GET", "/by-name/hello"] = (200, {**FUNCTION, "tenant_id": "t1"})
    target = ("POST", f"/api/elasticity/functions/{ID}/pool-target")
    fake.answers[target] = (200, {"function_id": ID, "min_instances": 2, "max_instances": 5})
    assert run(["functions", "scale", "hello", "--min", "2"]) == 0
    assert fake.body == {"min_instances": 2, "max_instances": 5}
    assert fake.headers["x-tenant-id"] == "t1"
    assert capsys.readouterr().out == "hello has 2 to 5 instances\n"


# --- tables ------------------------------------------------------------------------------------

VERSION: dict[str, Any] = {
    **{name: FUNCTION[name] for name in ("handler", "runtime", "environment", "created_at")},
    **{name: FUNCTION[name] for name in ("memory_limit_mb", "cpu_limit_percent")},
    **{name: FUNCTION[name] for name in ("description", "working_directory", "cleanup_on_exit")},
    **{"id": "v", "function_id": ID, "version": 3, "is_active": True, "timeout_seconds": 30},
    "image_digest": "host:aa",
}


def test_versions_are_listed_with_a_handler_on_one_line(fake: Fake, capsys: Captured) -> None:
    long = {**VERSION, "version": 2, "is_active": False, "handler": "set -e\n" + "x" * 60}
    fake.answers["GET", f"/{ID}/versions"] = (200, {"versions": [VERSION, long]})
    assert run(["functions", "versions", "hello"]) == 0
    head, newest, older = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["VERSION", "CURRENT", "RUNTIME"]
    assert newest.split()[:9] == ["3", "yes", "shell", "256", "MiB", "100", "%", "30", "s"]
    assert newest.endswith("  echo hello")
    assert older.endswith("set -e " + "x" * 32 + "…")


def test_invocations_are_asked_for_and_listed(fake: Fake, capsys: Captured) -> None:
    failed = {**INVOCATION, "status": "failed", "exit_code": 3, "cold_start": True}
    queued = {**INVOCATION, "status": "queued", "duration_ms": None}
    failed["started_at"] = queued["started_at"] = None
    page = {"invocations": [failed, queued], "next_cursor": "c2"}
    fake.answers["GET", f"/{ID}/invocations"] = (200, page)
    words = ["--limit", "2", "--status", "failed", "--cold"]
    assert run(["functions", "invocations", "hello", *words]) == 0
    assert fake.query == "limit=2&status=failed&cold_start=true"
    printed = capsys.readouterr()
    _, first, second = printed.out.splitlines()
    assert first.split() == ["-", "failed", "(3)", "3", "ms", "cold", "i1"]
    assert second.split() == ["-", "queued", "-", "warm", "i1"]
    assert "--cursor c2" in printed.err
    assert run(["functions", "invocations", "hello", "--warm"]) == 0
    assert fake.query == "cold_start=false"


TIMELINE: dict[str, Any] = {
    "invocation_id": "i1",
    "cold_start": True,
    "cold_reason": "first",
    "phases": [
        {"name": "queued", "microseconds": 12},
        {"name": "placed", "microseconds": 20_034},
        {"name": "ran", "microseconds": 900},
    ],
    "total_microseconds": 20_946,
}


def test_a_timeline_of_a_call_that_waits_says_when_it_is_due(fake: Fake, capsys: Captured) -> None:
    path = ("GET", f"/{ID}/invocations/i1/timeline")
    fake.answers[path] = (200, TIMELINE | {"status": "queued", "due_at": 1_760_000_000})
    assert run(["functions", "timeline", "hello", "i1"]) == 0
    assert f"due {show.when(1_760_000_000)}" in re.sub(" +", " ", capsys.readouterr().out)
    fake.answers[path] = (200, TIMELINE | {"status": "running", "due_at": 1_760_000_000})
    assert run(["functions", "timeline", "hello", "i1"]) == 0
    assert "due" not in capsys.readouterr().out


def test_a_timeline_is_shown_in_milliseconds(fake: Fake, capsys: Captured) -> None:
    fake.answers["GET", f"/{ID}/invocations/i1/timeline"] = (200, TIMELINE)
    assert run(["functions", "timeline", "hello", "i1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["queued", "0.012", "ms"],
        ["placed", "20.034", "ms"],
        ["ran", "0.900", "ms"],
        ["total", "20.946", "ms"],
        ["cold", "first"],
    ]


def test_timing_is_beside_output_and_never_fails_a_call(fake: Fake, capsys: Captured) -> None:
    path = ("GET", f"/{ID}/invocations/i1/timeline")
    fake.answers[path] = (200, {**TIMELINE, "cold_reason": None})
    assert run(["invoke", "hello", "--timing"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "hello\n"
    assert printed.err.splitlines()[1:] == [
        "queued   0.012 ms",
        "placed  20.034 ms",
        "ran      0.900 ms",
        "total   20.946 ms",
    ]
    del fake.answers[path]
    assert run(["invoke", "hello", "--timing"]) == 0
    assert "could not be read: there is no such function" in capsys.readouterr().err
    assert run(["invoke", "hello"]) == 0
    assert fake.asked[-1] == ("POST", "/invoke/hello")


def test_counts_of_a_pool_and_of_all(fake: Fake, capsys: Captured) -> None:
    counts = {"warming_count": 1, "ready_count": 2, "busy_count": 3, "total_count": 6}
    fake.answers["GET", f"/{ID}/pool"] = (200, {"function_id": ID, **counts})
    more = {"recycling_count": 4, "terminating_count": 5}
    stats = {**counts, **more, "total_count": 15}
    stats |= {name.replace("count", "containers"): value for name, value in stats.items()}
    fake.answers["GET", "/pool/stats"] = (200, stats)
    assert run(["functions", "pool", "hello"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "2", "3", "6"]
    assert run(["pool-stats"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "2", "3", "4", "5", "15"]


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1)])
def test_health_is_the_exit_code(fake: Fake, capsys: Captured, ready: bool, code: int) -> None:
    report = {
        "status": "ok" if ready else "unavailable",
        "ready": ready,
        "transport": "cleartext",
        "durability": "strict",
        "checks": {"accepting_calls": {"ok": ready, "reason": "because"}},
        "protections": {"seccomp": "allowlist"},
    }
    fake.answers["GET", "/health"] = (200, report)
    assert run(["health"]) == code
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == ("ready" if ready else "not ready: unavailable")
    assert [row for row in rows if row != row.rstrip()] == []
    assert [row.split() for row in rows] == [
        ["accepting", "calls", "ok" if ready else "NO", "because"],
        ["transport", "warn", "cleartext"],
        ["durability", "ok", "strict"],
        ["seccomp", "ok", "allowlist"],
    ]


def test_info_is_told(fake: Fake, capsys: Captured) -> None:
    told = {**INFO, "limits": {"body_bytes": 1048576}, "tenant_id": "acme", "scope": "read"}
    fake.answers["GET", "/api/system/info"] = (200, told)
    assert run(["info"]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    assert ["node", "n1"] in rows
    assert ["body", "bytes", "1.0", "MiB"] in rows
    assert ["your", "tenant", "acme"] in rows
    assert ["your", "scope", "read"] in rows


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("columns", "shown"), [("80", False), ("200", True)])
def test_a_narrow_terminal_is_spared_the_ids_it_would_break(
    monkeypatch: pytest.MonkeyPatch, columns: str, shown: bool
) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", columns)
    assert run(["functions", "list"]) == 0
    assert (ID in out.getvalue()) is shown
    lines = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert "hello" in out.getvalue()


def test_the_key_is_the_option_s_or_variable_s(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_env")
    assert run(["functions", "get", "hello"]) == 0
    assert fake.headers["x-api-key"] == "quilt_sk_env"
    assert run(["functions", "get", "hello", "--api-key", "quilt_sk_arg"]) == 0
    assert fake.headers["x-api-key"] == "quilt_sk_arg"


def test_the_option_that_empties_a_field_is_spelled_as_the_one_that_sets_it() -> None:
    """Options have no underscores, whatever the API calls the field."""
    field = next(iter(fields_of(FunctionChanges).values()))
    for name, short in (("owner_contact", "owner_contact"), ("working_directory", "workdir")):
        named = msgspec.structs.replace(field, name=name, short=short)
        assert unset_of(named) == f"--unset-{option_of(named)[2:]}"
        assert "_" not in unset_of(named)
