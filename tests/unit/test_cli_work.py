"""Asynchronous calls on the command line: requests, output, and exit codes."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quiltfn import wire
from quiltfn.api.http.errors import error_body
from quiltfn.cli import tables
from quiltfn.cli.drawing import drawn
from quiltfn.model.errors import SET_RECORD_POLICY, NotFound
from unit.canned_server import ID, INVOCATION, body_of
from unit.command_line import CommandLine

QUEUED = {**INVOCATION, "status": "queued", "started_at": None, "stdout": ""}
POLICY: dict[str, Any] = {
    "max_attempts": 3,
    "backoff_seconds": {"first": 1, "factor": 2, "most": 600, "jitter": 0.2},
    "retry_on": ["failed"],
    "max_age_seconds": 21_600,
    "max_queued": 100_000,
    "max_concurrency": None,
    "on_success": None,
    "on_failure": {"function": "other"},
}
ONE = f"/{ID}/invocations/i1"


def test_a_call_is_queued_and_its_id_is_all_that_is_printed(cli: CommandLine) -> None:
    """By default, the id is the only output. With --wait, the command instead has the output and
    the exit code of the call.
    """
    cli.answers["POST", "/invoke/hello"] = (202, QUEUED)
    printed = cli.run("invoke hello --payload x --async --delay 60")
    assert (cli.query, cli.body) == ("mode=async&delay_seconds=60", {"payload": "x"})
    assert printed.out == "i1\n"
    assert "quiltfn wait hello i1" in printed.err
    cli.answers["GET", ONE] = (200, {**INVOCATION, "status": "failed", "exit_code": 3})
    assert cli.run("invoke hello --payload x --async --wait", code=3).out == "hello\n"
    assert cli.query == "wait_seconds=60"


@pytest.mark.parametrize(
    ("age", "seconds"), [("60", 60), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400)]
)
def test_a_number_of_seconds_may_have_a_unit(cli: CommandLine, age: str, seconds: int) -> None:
    cli.answers["POST", "/invoke/hello"] = (202, QUEUED)
    cli.run(f"invoke hello --payload x --async --delay {age}")
    assert cli.query == f"mode=async&delay_seconds={seconds}"
    set_policy(cli, f"--max-age-seconds {age}")
    assert cli.body["max_age_seconds"] == seconds


@pytest.mark.parametrize("mode", ["", "--async"])
def test_a_call_has_a_key_and_ends_with_its_waiting_command(cli: CommandLine, mode: str) -> None:
    cli.answers["POST", "/invoke/hello"] = (202, QUEUED) if mode else (200, INVOCATION)
    cli.run(f"invoke hello --payload x --idempotency-key order-17 {mode}")
    assert cli.headers["idempotency-key"] == "order-17"
    assert mode or cli.headers["x-on-disconnect"] == "cancel"


def test_a_cancelled_call_that_never_started_was_neither_warm_nor_cold(cli: CommandLine) -> None:
    cli.answers["POST", f"{ONE}/cancel"] = (200, {**INVOCATION, "status": "cancelled"})
    assert cli.run("cancel hello i1").out == "i1 is cancelled\n"
    cli.answers["GET", ONE] = (200, {**QUEUED, "status": "cancelled", "duration_ms": None})
    assert "cancelled · not started · i1" in cli.run("wait hello i1", code=1).err


def test_wait_says_if_it_was_too_short(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise TimeoutError("the invocation is still running after 1 s")

    monkeypatch.setattr("quiltfn.sdk.work.WorkMethods.wait", late)
    assert "still running after 1 s" in cli.run("wait hello i1 --timeout 1", code=1).err


def test_replay_here_and_in_the_queue(cli: CommandLine) -> None:
    cli.answers["POST", f"{ONE}/replay"] = (200, {**INVOCATION, "invocation_id": "i2"})
    assert cli.run("replay hello i1 --version 2").out == "hello\n"
    assert cli.body == {"version": 2, "mode": "sync"}
    cli.answers["POST", f"{ONE}/replay"] = (202, {**QUEUED, "invocation_id": "i2"})
    assert cli.run("replay hello i1 --async --payload x").out == "i2\n"
    assert cli.body == {"version": None, "mode": "async", "payload": "x"}


def test_queues_and_dead_letters(cli: CommandLine) -> None:
    counts = {"queued": 3, "delayed": 1, "running": 2, "oldest_age_seconds": 7, "dead_letters": 4}
    cli.answers["GET", f"/{ID}/queue"] = (200, counts)
    assert cli.run("queue hello").lines[1] == "3 1 2 7 s 4"
    letter = body_of(wire.DeadLetter, invocation_id="i1")
    page = {"dead_letters": [letter], "next_cursor": "c2"}
    cli.answers["GET", f"/{ID}/dead-letters"] = (200, page)
    printed = cli.run("dead-letters list hello --limit 1")
    assert "i1" in printed.out
    assert "--cursor c2" in printed.err
    again = {"redriven": 1, "invocation_ids": ["i2"], "remaining": 0}
    cli.answers["POST", f"/{ID}/dead-letters/redrive"] = (200, again)
    assert cli.run("dead-letters redrive hello --id i1").out == "i2\n", "alone, for scripts"
    assert cli.body == {"invocation_ids": ["i1"]}
    printed = cli.run("dead-letters redrive hello --all")
    assert cli.body == {"all": True}
    assert printed.out == "i2\n"
    assert "queued 1 invocation again" in printed.err
    assert "quiltfn wait hello i2" in printed.err
    printed = cli.run("dead-letters redrive hello --id i1 --id i9", code=1)
    assert "1 id is not of a dead letter" in printed.err
    cli.answers["DELETE", f"/{ID}/dead-letters/i1"] = (204, None)
    cli.run("dead-letters drop hello i1")


def test_deliveries(cli: CommandLine) -> None:
    path = f"/{ID}/deliveries"
    cli.answers["GET", path] = (200, {"deliveries": [], "next_cursor": None})
    assert "no deliveries" in cli.run("deliveries list hello").err
    delivery = body_of(wire.Delivery, delivery_id="d1")
    cli.answers["GET", path] = (200, {"deliveries": [delivery], "next_cursor": None})
    assert "d1" in cli.run("deliveries list hello").out
    cli.answers["POST", f"{path}/d1/retry"] = (200, delivery)
    printed = cli.run("deliveries retry hello d1")
    assert "d1 is sent again" in printed.out
    assert "quiltfn deliveries list hello" in printed.err


def test_a_node_without_instances_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """A table without rows must also work if its columns can be dropped."""
    nothing = body_of(wire.InstanceList, instances=[], total_count=0)
    tables.instances(msgspec.convert(nothing, wire.InstanceList))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no instances" in printed.err
    assert drawn(("NAME", "KIND"), [], drop=("KIND",)).split() == ["NAME", "KIND"]


def test_attempts_and_input(cli: CommandLine) -> None:
    attempt = body_of(wire.Attempt, status="failed", exit_code=3)
    cli.answers["GET", f"{ONE}/attempts"] = (200, {"attempts": [attempt]})
    assert "failed (3)" in cli.run("functions attempts hello i1").out
    stored = body_of(wire.InvocationInput, payload="hello")
    cli.answers["GET", f"{ONE}/input"] = (200, stored)
    assert cli.run("functions input hello i1").out == "hello"
    cli.answers["GET", f"{ONE}/input"] = (200, {**stored, "caller": "open"})
    assert "from a caller without a key" in cli.run("functions input hello i1").err
    hint = f"{SET_RECORD_POLICY.text} says whose inputs are kept"
    refusal = json.loads(error_body(NotFound("it is not kept", hint=hint, see=SET_RECORD_POLICY)))
    cli.answers["GET", f"{ONE}/input"] = (404, refusal)
    printed = cli.run("functions input hello i1", code=1)
    assert "quiltfn functions record-policy hello says" in printed.err


def set_policy(cli: CommandLine, options: str, **current: Any) -> None:
    for method in ("GET", "PUT"):
        cli.answers[method, f"/{ID}/async-policy"] = (200, POLICY | current)
    cli.run(f"functions async-policy hello {options}")


def test_async_policies_are_shown_and_set(cli: CommandLine, tmp_path: Path) -> None:
    cli.answers["GET", f"/{ID}/async-policy"] = (200, POLICY)
    assert "at most 600 s" in cli.run("functions async-policy hello").out
    secret = tmp_path / "secret"
    secret.write_text("whsec_x\n")
    options = "--max-attempts 3 --backoff first=5 --backoff most=60 --retry-on failed"
    options += f" --on-success https://example.com/a --secret-file {secret} --on-failure other"
    set_policy(cli, options)
    assert {name: one for name, one in cli.body.items() if one is not None} == {
        "max_attempts": 3,
        "backoff_seconds": {"first": 5, "factor": 2, "most": 60, "jitter": 0.2},
        "retry_on": ["failed"],
        "max_age_seconds": 21_600,
        "max_queued": 100_000,
        "on_success": {"url": "https://example.com/a", "secret": "whsec_x"},
        "on_failure": {"function": "other"},
    }
    cli.answers["DELETE", f"/{ID}/async-policy"] = (204, None)
    cli.run("functions async-policy hello --reset")


@pytest.mark.parametrize("options", ["--retry-on failed,oom", "--retry-on failed --retry-on oom"])
def test_retried_ends_are_named_with_commas_or_one_by_one(cli: CommandLine, options: str) -> None:
    set_policy(cli, options)
    assert cli.body["retry_on"] == ["failed", "oom"]


def test_what_a_policy_change_does_not_name_stays_as_it_is(cli: CommandLine) -> None:
    signed = {"url": "https://example.com/a", "secret": "whsec_x"}
    current = {"max_concurrency": 4, "on_success": signed}
    set_policy(cli, "--backoff first=5", **current)
    backoff = {"first": 5, "factor": 2, "most": 600, "jitter": 0.2}
    assert cli.body == POLICY | current | {"backoff_seconds": backoff}
    set_policy(cli, "--unset-on-success --unset-on-failure --unset-max-concurrency", **current)
    emptied = ("on_success", "on_failure", "max_concurrency")
    assert [cli.body.get(name) for name in ("max_attempts", *emptied)] == [3, None, None, None]


def test_the_record_policy_is_shown_and_set(cli: CommandLine) -> None:
    cli.answers["GET", f"/{ID}/record-policy"] = (200, {"keep_input": "async"})
    cli.answers["PUT", f"/{ID}/record-policy"] = (200, {"keep_input": "all"})
    assert cli.run("functions record-policy hello -o json").data == {"keep_input": "async"}
    cli.run("functions record-policy hello --keep-input all")
    assert cli.body == {"keep_input": "all"}


def test_a_schedule_says_its_times_in_its_own_time_zone(cli: CommandLine) -> None:
    at_three = 1_795_744_800  # 2026-11-27 02:00:00 UTC
    schedule = body_of(
        wire.Schedule, cron="0 3 * * *", timezone="Europe/Paris", next_runs=[at_three]
    )
    cli.answers["GET", "/api/schedules/nightly"] = (200, schedule)
    assert "2026-11-27 03:00:00 CET" in cli.run("schedules show nightly").out
    unknown = {**schedule, "timezone": "Europe/Nowhere"}
    cli.answers["GET", "/api/schedules/nightly"] = (200, unknown)
    assert "next" in cli.run("schedules show nightly").out


COUNTS = ("running_calls", "waiting_calls", "memory_free_mib", "ready_instances", "busy_instances")
HEARD = {"name": "one", "state": "ready", "presence": "present", "beat_age_seconds": 42}
NODE = body_of(wire.Node, **HEARD, **dict.fromkeys(COUNTS, 7))


@pytest.mark.parametrize(
    ("changed", "cells"),
    [
        ({}, "ready 42s 7 7 7 7"),
        ({"is_silent": True}, "silent 42s - - - - -"),
        ({"presence": "gone"}, "gone - - - - - -"),
        ({"presence": "gone", "state": "removed"}, "removed - - - - - -"),
    ],
)
def test_only_live_reports_are_shown(cli: CommandLine, changed: dict[str, Any], cells: str) -> None:
    cli.answers["GET", "/api/nodes"] = (200, {"nodes": [{**NODE, **changed}]})
    assert cli.run("nodes list").lines[1].startswith(f"one {cells} ")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        (
            {"is_silent": True},
            "one is silent (last heartbeat 42 s ago): this takes effect once",
        ),
        ({"presence": "gone"}, "one does not run (gone): this takes effect at its next start"),
    ],
)
@pytest.mark.parametrize("verb", ["drain", "cordon"])
def test_who_drains_a_node_that_does_not_hear_it_is_told_so(
    cli: CommandLine, verb: str, changed: dict[str, Any], said: str
) -> None:
    cli.answers["POST", f"/api/nodes/one/{verb}"] = (200, {**NODE, **changed})
    err = cli.run(f"nodes {verb} one").err
    assert said in err if said else not err


# --- aliases -------------------------------------------------------------------------------------

LIVE = body_of(wire.Alias, name="live", version=4, also={"version": 5, "weight": 0.1})


def test_an_alias_is_set_and_listed_in_words(cli: CommandLine) -> None:
    cli.answers["PUT", f"/{ID}/aliases/live"] = (200, LIVE)
    said = cli.run(f"aliases set {ID} live 4 --also 5=10%").out
    assert cli.body["also"] == {"version": 5, "weight": 0.1}
    assert said == "live is version 4, and version 5 for 10% of its invocations\n"
    cli.answers["GET", f"/{ID}/aliases"] = (200, {"aliases": [LIVE]})
    head, row = cli.run(f"aliases list {ID}").lines
    assert head == "ALIAS VERSION ALSO DEFAULT CHANGED ROLLED BACK"
    assert row.startswith("live 4 5=10% ")
