"""Asynchronous calls on the command line: what is sent, what is printed, and how it exits."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quiltfn.api.http.errors import error_body
from quiltfn.cli import run, tables
from quiltfn.cli.drawing import drawn
from quiltfn.model.errors import SET_RECORD_POLICY, NotFound
from quiltfn.wire import InstanceList
from unit.canned_server import ID, INVOCATION, Fake, answered_by

Captured = pytest.CaptureFixture[str]
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


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Fake()
    answered_by(one, monkeypatch)
    return one


def test_a_call_is_queued_and_its_id_is_all_that_is_printed(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", "/invoke/hello"] = (202, QUEUED)
    assert run(["invoke", "hello", "--payload", "x", "--async", "--delay", "60"]) == 0
    assert fake.query == "mode=async&delay_seconds=60"
    assert fake.body == {"payload": "x"}
    printed = capsys.readouterr()
    assert printed.out == "i1\n"
    assert "quiltfn wait hello i1" in printed.err


@pytest.mark.parametrize(
    ("said", "seconds"), [("60", 60), ("90s", 90), ("5m", 300), ("2h", 7200), ("1d", 86_400)]
)
def test_a_number_of_seconds_may_have_a_unit(fake: Fake, said: str, seconds: int) -> None:
    fake.answers["POST", "/invoke/hello"] = (202, QUEUED)
    assert run(["invoke", "hello", "--payload", "x", "--async", "--delay", said]) == 0
    assert fake.query == f"mode=async&delay_seconds={seconds}"
    fake.answers["GET", f"/{ID}/async-policy"] = (200, POLICY)
    fake.answers["PUT", f"/{ID}/async-policy"] = (200, POLICY)
    assert run(["functions", "async-policy", "hello", "--max-age-seconds", said]) == 0
    assert fake.body["max_age_seconds"] == seconds


@pytest.mark.parametrize("said", ["m", "5w", "1.5h", "-5m", "five", "\u0665m"])
def test_what_is_no_number_of_seconds_is_refused(fake: Fake, capsys: Captured, said: str) -> None:
    assert run(["invoke", "hello", "--payload", "x", "--async", "--delay", said]) == 2
    assert "a number of seconds, or 90s, 10m, 2h or 1d" in capsys.readouterr().err
    assert fake.asked == []


def test_a_queued_call_that_is_waited_for_ends_like_any_other(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", "/invoke/hello"] = (202, QUEUED)
    fake.answers["GET", ONE] = (200, {**INVOCATION, "status": "failed", "exit_code": 3})
    assert run(["invoke", "hello", "--payload", "x", "--async", "--wait"]) == 3
    assert fake.query == "wait_seconds=60"
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize("mode", [[], ["--async"]])
def test_a_call_has_the_callers_key(fake: Fake, mode: list[str]) -> None:
    fake.answers["POST", "/invoke/hello"] = (202, QUEUED) if mode else (200, INVOCATION)
    words = ["invoke", "hello", "--payload", "x", "--idempotency-key", "order-17", *mode]
    assert run(words) == 0
    assert fake.headers["idempotency-key"] == "order-17"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("--stream --idempotency-key k", "--idempotency-key"),
        ("--stream --async", "--async"),
        ("--async --timing", "--timing"),
    ],
)
def test_useless_options_are_refused(fake: Fake, capsys: Captured, words: str, option: str) -> None:
    assert run(["invoke", "hello", "--payload", "x", *words.split()]) == 2
    assert option in capsys.readouterr().err
    assert fake.asked == []


def test_a_call_that_never_started_was_neither_warm_nor_cold(fake: Fake, capsys: Captured) -> None:
    ended = {**QUEUED, "status": "cancelled", "duration_ms": None}
    fake.answers["GET", ONE] = (200, ended)
    assert run(["wait", "hello", "i1"]) == 1
    assert "cancelled · not started · i1" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--wait"], ["--delay", "3"]])
def test_async_options_need_async_itself(fake: Fake, capsys: Captured, words: list[str]) -> None:
    assert run(["invoke", "hello", "--payload", "x", *words]) == 2
    assert f"{words[0]} goes with --async" in capsys.readouterr().err
    assert fake.asked == []


def test_a_call_that_is_waited_for_here_ends_with_the_command(fake: Fake) -> None:
    assert run(["invoke", "hello", "--payload", "x"]) == 0
    assert fake.headers["x-on-disconnect"] == "cancel"


def test_wait_says_if_the_call_is_not_over_in_time(fake: Fake, capsys: Captured) -> None:
    fake.answers["GET", ONE] = (200, {**INVOCATION, "status": "running"})

    def late(*_: object, **__: object) -> None:
        raise TimeoutError("the call is still running after 1 s")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quiltfn.sdk.work.WorkMethods.wait", late)
        assert run(["wait", "hello", "i1", "--timeout", "1"]) == 1
    assert "still running after 1 s" in capsys.readouterr().err


def test_cancel(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", f"{ONE}/cancel"] = (200, {**INVOCATION, "status": "cancelled"})
    assert run(["cancel", "hello", "i1"]) == 0
    assert capsys.readouterr().out == "i1 is cancelled\n"


def test_replay_here_and_in_the_queue(fake: Fake, capsys: Captured) -> None:
    fake.answers["POST", f"{ONE}/replay"] = (200, {**INVOCATION, "invocation_id": "i2"})
    assert run(["replay", "hello", "i1", "--version", "2"]) == 0
    assert fake.body == {"version": 2, "mode": "sync"}
    assert capsys.readouterr().out == "hello\n"
    fake.answers["POST", f"{ONE}/replay"] = (202, {**QUEUED, "invocation_id": "i2"})
    assert run(["replay", "hello", "i1", "--async", "--payload", "x"]) == 0
    assert fake.body == {"version": None, "mode": "async", "payload": "x"}
    assert capsys.readouterr().out == "i2\n"


def test_queue(fake: Fake, capsys: Captured) -> None:
    counts = {"queued": 3, "delayed": 1, "running": 2, "oldest_age_seconds": 7, "dead_letters": 4}
    fake.answers["GET", f"/{ID}/queue"] = (200, counts)
    assert run(["queue", "hello"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["3", "1", "2", "7", "s", "4"]


def test_dead_letters(fake: Fake, capsys: Captured) -> None:
    letter = {
        "invocation_id": "i1",
        "reason": "attempts",
        "died_at": 1760000000,
        "status": "failed",
        "attempts": 3,
        "error_message": "the handler exited with code 1",
        "source": "async",
    }
    page = {"dead_letters": [letter], "next_cursor": "c2"}
    fake.answers["GET", f"/{ID}/dead-letters"] = (200, page)
    assert run(["dead-letters", "list", "hello", "--limit", "1"]) == 0
    printed = capsys.readouterr()
    assert "i1" in printed.out
    assert "--cursor c2" in printed.err
    again = {"redriven": 1, "invocation_ids": ["i2"], "remaining": 0}
    fake.answers["POST", f"/{ID}/dead-letters/redrive"] = (200, again)
    assert run(["dead-letters", "redrive", "hello", "--id", "i1"]) == 0
    assert fake.body == {"invocation_ids": ["i1"]}
    assert run(["dead-letters", "redrive", "hello", "--all"]) == 0
    assert fake.body == {"all": True}
    printed = capsys.readouterr()
    assert printed.out == "i2\n" * 2, "the new ids alone are for scripts"
    assert "queued 1 call again" in printed.err
    assert "quiltfn wait hello i2" in printed.err
    assert run(["dead-letters", "redrive", "hello"]) == 2
    assert run(["dead-letters", "redrive", "hello", "--id", "i1", "--all"]) == 2
    assert "not both" in capsys.readouterr().err
    assert run(["dead-letters", "redrive", "hello", "--id", "i1", "--id", "i9"]) == 1
    assert "1 id is of no dead letter" in capsys.readouterr().err
    fake.answers["DELETE", f"/{ID}/dead-letters/i1"] = (204, None)
    assert run(["dead-letters", "drop", "hello", "i1"]) == 0


def test_deliveries(fake: Fake, capsys: Captured) -> None:
    path = f"/{ID}/deliveries"
    fake.answers["GET", path] = (200, {"deliveries": [], "next_cursor": None})
    assert run(["deliveries", "list", "hello"]) == 0
    assert "no deliveries" in capsys.readouterr().err
    one = {
        "delivery_id": "d1",
        "function_id": ID,
        "invocation_id": "i1",
        "policy_field": "on_success",
        "status": "waiting",
        "attempts": 2,
        "next_attempt_at": 1760000000,
        "http_status": 500,
        "error_message": None,
        "ended_at": None,
    }
    fake.answers["GET", path] = (200, {"deliveries": [one], "next_cursor": None})
    assert run(["deliveries", "list", "hello"]) == 0
    assert "d1" in capsys.readouterr().out
    fake.answers["POST", f"{path}/d1/retry"] = (200, one)
    assert run(["deliveries", "retry", "hello", "d1"]) == 0
    printed = capsys.readouterr()
    assert "d1 is sent again" in printed.out
    assert "quiltfn deliveries list hello" in printed.err


def test_a_node_without_instances_says_so(capsys: Captured) -> None:
    counts = ("total_count", "prewarmed_count", "waiting_calls", "queued_calls")
    nothing = {"instances": [], "memory": {}, **dict.fromkeys(counts, 0)}
    tables.instances(msgspec.convert(nothing, InstanceList))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no instances" in printed.err


def test_a_table_without_rows_may_have_columns_that_can_go() -> None:
    assert drawn(("NAME", "KIND"), [], drop=("KIND",)).split() == ["NAME", "KIND"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("schedules create x hello", "quiltfn schedules add?"),
        ("schedules delete x", "quiltfn schedules remove?"),
        ("runtimes get x", "quiltfn runtimes show?"),
        ("functions show x", "quiltfn functions get?"),
        ("functions rm x", "quiltfn functions delete?"),
        ("functions invocation x", "quiltfn functions invocations?"),
        ("functions create x --handler y --max-instances 8", "(--max?)"),
        ("invoke x --async --delay-seconds 5", "(--delay?)"),
        ("invoke x --asynch", "(--async?)"),
        ("schedules add x y --every-seconds=60", "(--every?)"),
    ],
)
def test_api_words_are_understood(fake: Fake, capsys: Captured, words: str, meant: str) -> None:
    assert run(words.split()) == 2
    assert meant in capsys.readouterr().err
    assert fake.asked == []


def test_attempts_and_input(fake: Fake, capsys: Captured) -> None:
    attempt = {
        "attempt": 1,
        "status": "failed",
        "started_at": 1760000000,
        "ended_at": 1760000000,
        "duration_ms": 5,
        "exit_code": 3,
        "error_message": "the handler exited with code 3",
        "execution_node_id": "n1",
        "cold_start": False,
        "version": 1,
    }
    fake.answers["GET", f"{ONE}/attempts"] = (200, {"attempts": [attempt]})
    assert run(["functions", "attempts", "hello", "i1"]) == 0
    assert "failed (3)" in capsys.readouterr().out
    given = {
        "payload": "hello",
        "environment": None,
        "version": None,
        "source": "async",
        "caller": "key 1",
        "parent_invocation_id": None,
    }
    fake.answers["GET", f"{ONE}/input"] = (200, given)
    assert run(["functions", "input", "hello", "i1"]) == 0
    assert capsys.readouterr().out == "hello"
    fake.answers["GET", f"{ONE}/input"] = (200, {**given, "caller": "open"})
    assert run(["functions", "input", "hello", "i1"]) == 0
    assert "from a caller without a key" in capsys.readouterr().err


def test_who_has_no_input_is_told_the_command_that_keeps_it(fake: Fake, capsys: Captured) -> None:
    hint = f"{SET_RECORD_POLICY.text} says whose inputs are kept"
    told = json.loads(error_body(NotFound("it is not kept", hint=hint, see=SET_RECORD_POLICY)))
    fake.answers["GET", f"{ONE}/input"] = (404, told)
    assert run(["functions", "input", "hello", "i1"]) == 1
    assert "quiltfn functions record-policy hello says" in capsys.readouterr().err


def test_async_policies_are_shown_and_set(fake: Fake, capsys: Captured, tmp_path: Path) -> None:
    fake.answers["GET", f"/{ID}/async-policy"] = (200, POLICY)
    assert run(["functions", "async-policy", "hello"]) == 0
    assert "at most 600 s" in capsys.readouterr().out
    secret = tmp_path / "secret"
    secret.write_text("whsec_x\n")
    fake.answers["PUT", f"/{ID}/async-policy"] = (200, POLICY)
    words = "--max-attempts 3 --backoff first=5 --backoff most=60 --retry-on failed"
    words += f" --on-success https://example.com/a --secret-file {secret} --on-failure other"
    assert run(["functions", "async-policy", "hello", *words.split()]) == 0
    assert fake.body["max_attempts"] == 3
    assert fake.body["backoff_seconds"] == {"first": 5, "factor": 2, "most": 60, "jitter": 0.2}
    assert fake.body["retry_on"] == ["failed"]
    assert fake.body["on_success"] == {"url": "https://example.com/a", "secret": "whsec_x"}
    assert fake.body["on_failure"] == {"function": "other"}
    fake.answers["DELETE", f"/{ID}/async-policy"] = (204, None)
    assert run(["functions", "async-policy", "hello", "--reset"]) == 0


@pytest.mark.parametrize("words", ["--retry-on failed,oom", "--retry-on failed --retry-on oom"])
def test_retried_ends_are_named_with_commas_or_one_by_one(fake: Fake, words: str) -> None:
    fake.answers["GET", f"/{ID}/async-policy"] = (200, POLICY)
    fake.answers["PUT", f"/{ID}/async-policy"] = (200, POLICY)
    assert run(["functions", "async-policy", "hello", *words.split()]) == 0
    assert fake.body["retry_on"] == ["failed", "oom"]


def test_what_a_policy_change_does_not_name_stays_as_it_is(fake: Fake) -> None:
    signed = {"function": None, "url": "https://example.com/a", "secret": "whsec_x"}
    now = {**POLICY, "max_concurrency": 4, "on_success": signed}
    fake.answers["GET", f"/{ID}/async-policy"] = (200, now)
    fake.answers["PUT", f"/{ID}/async-policy"] = (200, now)
    assert run(["functions", "async-policy", "hello", "--backoff", "first=5"]) == 0
    assert fake.body["backoff_seconds"] == {"first": 5, "factor": 2, "most": 600, "jitter": 0.2}
    assert fake.body["max_attempts"] == 3
    assert fake.body["max_concurrency"] == 4
    assert fake.body["retry_on"] == ["failed"]
    assert fake.body["on_success"]["secret"] == "whsec_x"
    assert fake.body["on_failure"]["function"] == "other"
    words = "--unset-on-success --unset-on-failure --unset-max-concurrency"
    assert run(["functions", "async-policy", "hello", *words.split()]) == 0
    assert fake.body["max_attempts"] == 3
    emptied = ("on_success", "on_failure", "max_concurrency")
    assert [fake.body.get(name) for name in emptied] == [None] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--backoff first=soon", "--backoff first must be a number, not 'soon'"),
        ("--backoff last=1", "--backoff takes first, factor, most, jitter"),
        ("--on-success https://example.com/a", "give --secret-file"),
        ("--reset --max-attempts 3", "give --reset alone"),
        ("--on-failure a --unset-on-failure", "give --on-failure or --unset-on-failure, not both"),
        ("--on-success a --unset-on-success", "give --on-success or --unset-on-success, not both"),
        ("--secret-file /dev/null", "--secret-file goes with a URL"),
        ("--on-failure a --secret-file /dev/null", "--secret-file goes with a URL"),
    ],
)
def test_a_wrong_policy_is_not_sent(fake: Fake, capsys: Captured, words: str, message: str) -> None:
    assert run(["functions", "async-policy", "hello", *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert fake.asked == []


def test_the_record_policy_is_shown_and_set(fake: Fake, capsys: Captured) -> None:
    fake.answers["GET", f"/{ID}/record-policy"] = (200, {"keep_input": "async"})
    fake.answers["PUT", f"/{ID}/record-policy"] = (200, {"keep_input": "all"})
    assert run(["functions", "record-policy", "hello", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"keep_input": "async"}
    assert run(["functions", "record-policy", "hello", "--keep-input", "all"]) == 0
    assert fake.body == {"keep_input": "all"}


def test_a_schedule_says_its_times_in_its_own_time_zone(fake: Fake, capsys: Captured) -> None:
    at_three = 1_795_744_800  # 2026-11-27 02:00:00 UTC
    answer = {
        "id": "s1",
        "name": "nightly",
        "function": "hello",
        "cron": "0 3 * * *",
        "every_seconds": None,
        "timezone": "Europe/Paris",
        "payload": None,
        "environment": None,
        "overlap": "allow",
        "missed": "skip",
        "jitter_seconds": 0,
        "enabled": True,
        "next_runs": [at_three],
        "last_run": None,
        "fired_count": 0,
        "skipped_count": 0,
        "missed_count": 0,
        "created_at": 1_760_000_000,
        "updated_at": 1_760_000_000,
    }
    fake.answers["GET", "/api/schedules/nightly"] = (200, answer)
    assert run(["schedules", "show", "nightly"]) == 0
    assert "2026-11-27 03:00:00 CET" in capsys.readouterr().out
    unknown = {**answer, "timezone": "Europe/Nowhere"}
    fake.answers["GET", "/api/schedules/nightly"] = (200, unknown)
    assert run(["schedules", "show", "nightly"]) == 0
    assert "next" in capsys.readouterr().out


def test_no_option_of_the_command_line_takes_null(capsys: Captured) -> None:
    for words in ("functions async-policy", "schedules add"):
        assert run([*words.split(), "--help"]) == 0
        assert "null" not in capsys.readouterr().out


NODE: dict[str, Any] = {
    "name": "one",
    "state": "ready",
    "presence": "present",
    "is_own": False,
    "epoch": 1,
    "version": "1",
    "address": "h:1",
    "beat_age_seconds": 42,
    "running_calls": 7,
    "waiting_calls": 7,
    "memory_free_mib": 7,
    "ready_instances": 7,
    "busy_instances": 7,
    "lag_seconds": 0.2,
    "sole_images": 0,
    "function_count": 0,
}


@pytest.mark.parametrize(
    ("changed", "cells"),
    [
        ({}, ["ready", "42s", "7", "7", "7", "7"]),
        ({"is_silent": True}, ["silent", "42s", "-", "-", "-", "-", "-"]),
        ({"presence": "gone"}, ["gone", "-", "-", "-", "-", "-", "-"]),
        ({"presence": "gone", "state": "removed"}, ["removed", "-", "-", "-", "-", "-", "-"]),
    ],
)
def test_what_a_node_said_is_shown_while_it_is_heard(
    fake: Fake, capsys: Captured, changed: dict[str, Any], cells: list[str]
) -> None:
    fake.answers["GET", "/api/nodes"] = (200, {"nodes": [{**NODE, **changed}]})
    assert run(["nodes", "list"]) == 0
    assert capsys.readouterr().out.split("\n")[1].split()[1:][: len(cells)] == cells


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"is_silent": True}, "one is silent, its last beat 42 s ago: it hears of this once"),
        ({"presence": "gone"}, "one does not run (gone): it hears of this at its next start"),
    ],
)
@pytest.mark.parametrize("verb", ["drain", "cordon"])
def test_who_drains_a_node_that_does_not_hear_it_is_told_so(
    fake: Fake, capsys: Captured, verb: str, changed: dict[str, Any], said: str
) -> None:
    fake.answers["POST", f"/api/nodes/one/{verb}"] = (200, {**NODE, **changed})
    assert run(["nodes", verb, "one"]) == 0
    err = capsys.readouterr().err
    assert said in err if said else not err


# --- aliases -------------------------------------------------------------------------------------

LIVE = {
    "name": "live",
    "version": 4,
    "also": {"version": 5, "weight": 0.1},
    "updated_at": 1_700_000_000,
}


def test_an_alias_is_set_and_listed_in_words(fake: Fake, capsys: Captured) -> None:
    fake.answers["PUT", f"/{ID}/aliases/live"] = (200, LIVE)
    assert run(["aliases", "set", ID, "live", "4", "--also", "5=10%"]) == 0
    assert fake.body["also"] == {"version": 5, "weight": 0.1}
    said = capsys.readouterr().out
    assert said == "live is version 4, and version 5 for 10% of its calls\n"
    fake.answers["GET", f"/{ID}/aliases"] = (200, {"aliases": [LIVE]})
    assert run(["aliases", "list", ID]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ALIAS", "VERSION", "ALSO", "DEFAULT", "CHANGED", "ROLLED", "BACK"]
    assert row.split()[:3] == ["live", "4", "5=10%"]


@pytest.mark.parametrize("share", ["5", "5=0%", "5=0.09%", "5=99.91%", "5=100%", "5=0.1", "x=5%"])
def test_a_share_that_cannot_be_says_which_can(fake: Fake, capsys: Captured, share: str) -> None:
    assert run(["aliases", "set", ID, "live", "4", "--also", share]) == 2
    told = capsys.readouterr().err
    if share.startswith("5=") and share.endswith("%"):
        assert "--also must be a percentage from 0.1% to 99.9%" in told
    else:
        assert "--also must be" in told
    assert fake.asked == []


@pytest.mark.parametrize("rate", ["0%", "0.05%", "99.95%", "100%"])
def test_a_refused_percentage_is_not_sent(fake: Fake, capsys: Captured, rate: str) -> None:
    assert run(["aliases", "set", ID, "live", "4", "--also", "5=10%", "--error-rate", rate]) == 2
    assert "--error-rate must be a percentage from 0.1% to 99.9%" in capsys.readouterr().err
    assert run(["deploy", "--canary", rate]) == 2
    assert fake.asked == []
