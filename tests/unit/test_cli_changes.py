"""Commands that change functions, and the tables that commands print."""

import re
import sys

import msgspec
import pytest

from promises import promise
from quiltfn import wire
from quiltfn.cli import show
from quiltfn.cli.field_options import option_of
from quiltfn.cli.options import unset_of
from quiltfn.wire.fields import fields_of
from unit.canned_server import FUNCTION, ID, INFO, INVOCATION, Terminal, body_of, version
from unit.command_line import CommandLine

# --- changes of functions ----------------------------------------------------------------------


def test_update_sends_what_was_said_and_nothing_else(cli: CommandLine) -> None:
    cli.answers["PUT", f"/{ID}"] = (200, {**FUNCTION, "current_version": 4})
    printed = cli.run("functions update hello --memory 512")
    assert cli.sent("PUT", f"/{ID}") == {"memory_limit_mb": 512}
    assert printed == ("hello is active: version 4\n", "")
    cli.run("functions update hello --unset-description --unset-workdir --unset-env --clean")
    assert [body for body in cli.bodies if body][1] == {
        "description": None,
        "working_directory": None,
        "environment": {},
        "cleanup_on_exit": True,
    }


@pytest.mark.parametrize(("image", "is_told"), [("sha256:4", True), ("sha256:3", False)])
def test_update_says_if_files_differ(cli: CommandLine, image: str, is_told: bool) -> None:
    versions = [version(5, image), version(4, "sha256:4"), version(3, "sha256:3")]
    cli.answers["PUT", f"/{ID}"] = (200, {**FUNCTION, "current_version": 5})
    cli.answers["GET", f"/{ID}/versions"] = (200, {"versions": versions})
    printed = cli.run("functions update hello --memory 512")
    note = "version 5 has the files that runtime shell has now, not those of version 3"
    assert (note in printed.err) is is_told


@pytest.mark.parametrize(
    ("line", "method", "path", "more"),
    [
        ("create hello --cluster-id c", "POST", "", {"name": "hello", "cluster_id": "c"}),
        ("update hello --name n", "PUT", f"/{ID}", {"name": "n"}),
    ],
)
def test_every_option_is_understood(
    cli: CommandLine, line: str, method: str, path: str, more: dict[str, str]
) -> None:
    cli.answers["PUT", f"/{ID}"] = (200, FUNCTION)
    options = "--handler h --runtime shell --description d --memory 512 --cpu 12.5 --timeout 9"
    options += " --env A=1 --env B=x=y --min 1 --max 2 --keep-state --workdir /app"
    cli.run(f"functions {line} {options}")
    assert cli.sent(method, path) == more | {
        "handler": "h",
        "runtime": "shell",
        "description": "d",
        "memory_limit_mb": 512,
        "cpu_limit_percent": 12.5,
        "timeout_seconds": 9,
        "environment": {"A": "1", "B": "x=y"},
        "min_instances": 1,
        "max_instances": 2,
        "cleanup_on_exit": False,
        "working_directory": "/app",
    }


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("update hello --workdir /x", ("PUT", f"/{ID}")),
        ("rollback hello 2", ("POST", f"/{ID}/rollback")),
    ],
)
def test_broken_version_fails_command(cli: CommandLine, line: str, call: tuple[str, str]) -> None:
    cli.answers[call] = (200, {**FUNCTION, "error_message": "version 4 cannot serve"})
    assert cli.run(f"functions {line}", code=1).err == "error: version 4 cannot serve\n"


@promise("R26")
def test_what_a_runtime_says_of_how_it_serves_is_shown(cli: CommandLine) -> None:
    """The note of a successful deploy is printed, but not the error of an earlier one."""
    cli.answers["POST", f"/{ID}/deploy"] = (200, {**FUNCTION, "note": "it starts threads"})
    assert "it starts threads" in cli.run("functions deploy hello").err
    cli.answers["POST", f"/{ID}/deploy"] = (200, {**FUNCTION, "error_message": "of long ago"})
    assert cli.run("functions deploy hello").err == ""


def test_pause_resume_and_rollback(cli: CommandLine) -> None:
    cli.answers["POST", f"/{ID}/pause"] = (200, {"success": True, "message": "2 calls still run"})
    cli.answers["POST", f"/{ID}/resume"] = (200, FUNCTION)
    cli.answers["POST", f"/{ID}/rollback"] = (200, FUNCTION)
    active = "hello is active: version 3\n"
    assert cli.run("functions pause hello") == ("hello is paused\n", "2 calls still run\n")
    assert cli.run("functions resume hello") == (active, "")
    alias = body_of(wire.Alias, name="live", version=3, default=True)
    of_aliases = ("GET", f"/{ID}/aliases")
    cli.then[of_aliases] = [(200, {"aliases": []}), (200, {"aliases": [alias]})]
    note = "live is version 3; invocations without a version or alias use it\n"
    assert cli.run("functions rollback hello 3") == (active, note)


@pytest.mark.parametrize(("current", "chosen"), [(4, 2), (2, 1), (1, None)])
def test_a_rollback_goes_back_by_one(cli: CommandLine, current: int, chosen: int | None) -> None:
    found = [version(number, "") for number in (5, 4, 2, 1)]  # version 3 was removed
    cli.answers["POST", f"/{ID}/rollback"] = (200, FUNCTION)
    cli.answers["GET", f"/{ID}/aliases"] = (200, {"aliases": []})
    cli.answers["GET", f"/{ID}/versions"] = (200, {"versions": found, "next_cursor": None})
    cli.answers["GET", "/by-name/hello"] = (200, {**FUNCTION, "current_version": current})
    printed = cli.run("functions rollback hello", code=0 if chosen else 1)
    assert [one for one in cli.bodies if one] == ([{"version": chosen}] if chosen else [])
    assert bool(chosen) or "no version before the current one, 1" in printed.err


def test_scale_keeps_the_target_that_was_not_named(cli: CommandLine) -> None:
    cli.answers["GET", "/by-name/hello"] = (200, {**FUNCTION, "tenant_id": "t1"})
    target = ("POST", f"/api/elasticity/functions/{ID}/pool-target")
    cli.answers[target] = (200, {"function_id": ID, "min_instances": 2, "max_instances": 5})
    printed = cli.run("functions scale hello --min 2")
    assert cli.body == {"min_instances": 2, "max_instances": 5}
    assert cli.headers["x-tenant-id"] == "t1"
    assert printed.out == "hello now has 2 to 5 instances\n"


# --- printed tables ----------------------------------------------------------------------------


def test_versions_are_listed_with_a_handler_on_one_line(cli: CommandLine) -> None:
    newest = version(5, "host:aa")
    long = {**version(2, "host:aa"), "handler": "set -e\n" + "x" * 60}
    cli.answers["GET", f"/{ID}/versions"] = (200, {"versions": [newest, long]})
    head, row, older = cli.run("functions versions hello").out.splitlines()
    assert head.split()[:3] == ["VERSION", "CURRENT", "RUNTIME"]
    assert row.split()[:9] == ["5", "yes", "shell", "256", "MiB", "100", "%", "30", "s"]
    assert row.endswith("  echo hello")
    assert older.endswith("set -e " + "x" * 32 + "…")


def test_invocations_are_asked_for_and_listed(cli: CommandLine) -> None:
    failed = {**INVOCATION, "status": "failed", "exit_code": 3, "cold_start": True}
    queued = {**INVOCATION, "status": "queued", "duration_ms": None}
    failed["started_at"] = queued["started_at"] = None
    page = {"invocations": [failed, queued], "next_cursor": "c2"}
    cli.answers["GET", f"/{ID}/invocations"] = (200, page)
    printed = cli.run("functions invocations hello --limit 2 --status failed --cold")
    assert cli.query == "limit=2&status=failed&cold_start=true"
    assert printed.lines[1:] == ["- failed (3) 3 ms cold i1", "- queued - warm i1"]
    assert "--cursor c2" in printed.err
    cli.run("functions invocations hello --warm")
    assert cli.query == "cold_start=false"


LASTED = {"queued": 12, "placed": 20_034, "ran": 900}
TIMELINE = body_of(
    wire.Timeline,
    cold_start=True,
    cold_reason="first",
    phases=[{"name": name, "microseconds": lasted} for name, lasted in LASTED.items()],
    total_microseconds=20_946,
)
OF_TIMELINE = ("GET", f"/{ID}/invocations/i1/timeline")


def test_a_timeline_is_in_milliseconds_and_says_when_it_is_due(cli: CommandLine) -> None:
    cli.answers[OF_TIMELINE] = (200, TIMELINE)
    assert cli.run("functions timeline hello i1").lines == [
        "queued 0.012 ms",
        "placed 20.034 ms",
        "ran 0.900 ms",
        "total 20.946 ms",
        "cold first",
    ]
    for status, is_shown in (("queued", True), ("running", False)):
        cli.answers[OF_TIMELINE] = (200, TIMELINE | {"status": status, "due_at": 1_760_000_000})
        lines = cli.run("functions timeline hello i1").lines
        assert (f"due {show.when(1_760_000_000)}" in lines) is is_shown


def test_timing_is_beside_output_and_never_fails_a_call(cli: CommandLine) -> None:
    cli.answers[OF_TIMELINE] = (200, {**TIMELINE, "cold_reason": None})
    printed = cli.run("invoke hello --timing")
    assert printed.out == "hello\n"
    assert printed.err.splitlines()[1:] == [
        "queued   0.012 ms",
        "placed  20.034 ms",
        "ran      0.900 ms",
        "total   20.946 ms",
    ]
    del cli.answers[OF_TIMELINE]
    assert "could not be read: there is no such function" in cli.run("invoke hello --timing").err
    cli.run("invoke hello")
    assert cli.asked[-1] == ("POST", "/invoke/hello")


def test_counts_of_a_pool_and_of_all(cli: CommandLine) -> None:
    counts = {"warming_count": 1, "ready_count": 2, "busy_count": 3, "total_count": 6}
    cli.answers["GET", f"/{ID}/pool"] = (200, {"function_id": ID, **counts})
    assert cli.run("functions pool hello").lines[1] == "1 2 3 6"
    stats = {**counts, "recycling_count": 4, "terminating_count": 5, "total_count": 15}
    stats |= {name.replace("count", "containers"): value for name, value in stats.items()}
    cli.answers["GET", "/pool/stats"] = (200, stats)
    assert cli.run("pool-stats").lines[1] == "1 2 3 4 5 15"


@pytest.mark.parametrize(("ready", "code"), [(True, 0), (False, 1)])
def test_health_is_the_exit_code(cli: CommandLine, ready: bool, code: int) -> None:
    report = {
        "status": "ok" if ready else "unavailable",
        "ready": ready,
        "transport": "cleartext",
        "durability": "strict",
        "checks": {"accepting_calls": {"ok": ready, "reason": "because"}},
        "protections": {"seccomp": "allowlist"},
    }
    cli.answers["GET", "/health"] = (200, report)
    printed = cli.run("health", code=code)
    assert [line for line in printed.out.splitlines() if line != line.rstrip()] == []
    assert printed.lines == [
        "ready" if ready else "not ready: unavailable",
        "PART WHAT",
        f"accepting calls {'ok' if ready else 'NO'} because",
        "transport warn cleartext",
        "durability ok strict",
        "seccomp ok allowlist",
    ]


def test_info_is_told(cli: CommandLine) -> None:
    more = {"limits": {"body_bytes": 1048576}, "tenant_id": "acme", "scope": "read"}
    cli.answers["GET", "/api/system/info"] = (200, INFO | more)
    shown = {"node n1", "body bytes 1.0 MiB", "your tenant acme", "your scope read"}
    assert shown <= set(cli.run("info").lines)


@pytest.mark.parametrize(("columns", "shown"), [("80", False), ("200", True)])
def test_a_narrow_terminal_is_spared_the_ids_it_would_break(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, columns: str, shown: bool
) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", columns)
    cli.run("functions list")
    assert (ID in out.getvalue()) is shown
    lines = re.sub("\x1b\\[[0-9;]*m", "", out.getvalue()).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert "hello" in out.getvalue()


def test_the_option_that_empties_a_field_is_spelled_as_the_one_that_sets_it() -> None:
    """Options have no underscores, even if the API's fields do."""
    field = next(iter(fields_of(wire.FunctionChanges).values()))
    for name, short in (("owner_contact", "owner_contact"), ("working_directory", "workdir")):
        named = msgspec.structs.replace(field, name=name, short=short)
        assert unset_of(named) == f"--unset-{option_of(named)[2:]}"
        assert "_" not in unset_of(named)
