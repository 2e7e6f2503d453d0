"""`quiltfn stats`, `series`, `usage` and `quota` against the fake."""

import json
import time
from typing import Any

import pytest

from quiltfn.cli import run
from unit.canned_server import FUNCTION, ID, Fake, answered_by

Captured = pytest.CaptureFixture[str]
SUMS = {
    "calls": 5,
    "errors": 1,
    "statuses": {"success": 4, "failed": 1},
    "cold_starts": 1,
    "gb_seconds": 41.66,
    "cpu_seconds": 12.94,
    "egress_refused": 2,
    "queued": 3,
}
LIMITS = {
    "calls_in_flight": 50,
    "calls_per_second": 0.0,
    "functions": 10_000,
    "image_bytes": 5 * 1024**3,
    "gb_seconds_per_day": 3600.0,
}
QUOTA = {
    "tenant_id": "acme",
    "known": True,
    **LIMITS,
    "own": ["calls_in_flight", "gb_seconds_per_day"],
    "used": {
        "calls_in_flight": 2,
        "functions": 7,
        "image_bytes": 3 * 1024**2,
        "gb_seconds_today": 12.5,
    },
}
OF_ACME = "/api/tenants/acme/quota"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    one = Fake()
    answered_by(one, monkeypatch)
    one.answers["GET", ""] = (200, {"functions": [FUNCTION], "next_cursor": None})
    return one


def lines(capsys: Captured) -> list[list[str]]:
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_stats_are_told_by_name(fake: Fake, capsys: Captured) -> None:
    counts = {"calls": 12, "errors": 3, "cold_starts": 1, "p50_ms": 1.234, "p99_ms": 1530.4}
    page = {"functions": [{"function_id": ID, **counts}], "next_cursor": None}
    fake.answers["GET", "/stats"] = (200, page)
    assert run(["stats", "--since", "10m"]) == 0
    head, row = lines(capsys)
    assert head == ["NAME", "CALLS", "ERRORS", "COLD", "P50", "P99"]
    assert row == ["hello", "12", "3", "1", "1.23", "ms", "1530", "ms"]
    assert run(["stats", "-o", "json"]) == 0
    assert fake.query == "window=3600"


def test_a_time_that_is_none_is_refused_before_anything_is_asked(fake: Fake) -> None:
    assert run(["stats", "--since", "soon"]) == 2
    assert run(["usage", "--since", "5"]) == 2
    assert fake.asked == []


def test_a_series_is_asked_for_by_its_age(fake: Fake, capsys: Captured) -> None:
    counts = {"calls": 2, "errors": 0, "cold_starts": 0, "p50_ms": None, "p99_ms": None}
    point = {"start": 1_760_000_000, "statuses": {"success": 2}, **counts}
    told = {
        "function_id": ID,
        "start": 0,
        "end": 60,
        "step_seconds": 60,
        "points": [point],
    }
    fake.answers["GET", f"/{ID}/series"] = (200, told)
    assert run(["series", "hello", "--since", "2h", "--step", "60"]) == 0
    start = int(fake.query.partition("from=")[2].partition("&")[0])
    assert abs(time.time() - 7200 - start) < 60
    assert fake.query.endswith("&step=60")
    _, row = lines(capsys)
    assert row[2:] == ["2", "0", "0", "-", "-"]


@pytest.mark.parametrize("by", [None, "function"])
def test_usage_ends_with_the_whole(fake: Fake, capsys: Captured, by: str | None) -> None:
    named: dict[str, Any] = {"function_id": ID, "function_name": "hello"} if by else {}
    row = {"start": 1_760_000_000, "function_id": None, "function_name": None, **SUMS} | named
    told = {"start": 0, "end": 1, "step": "day", "rows": [row], "total": SUMS}
    fake.answers["GET", "/api/usage"] = (200, told)
    assert run(["usage", *(["--by", by] if by else [])]) == 0
    head, first, last = lines(capsys)
    assert head[:2] == (["FROM", "FUNCTION"] if by else ["FROM", "CALLS"])
    assert ("hello" in first) == (by is not None)
    assert last[:2] == ["in", "all"]
    assert last[-6:] == ["5", "1", "41.7", "12.9", "3", "2"]


def test_a_little_usage_does_not_read_as_none(fake: Fake, capsys: Captured) -> None:
    little = SUMS | {"gb_seconds": 0.0693, "cpu_seconds": 0.00612}
    told = {"start": 0, "end": 1, "step": "all", "total": little}
    row = {"start": 0, "function_id": None, "function_name": None, **little}
    fake.answers["GET", "/api/usage"] = (200, told | {"rows": [row]})
    assert run(["usage"]) == 0
    assert lines(capsys)[-1][-4:-2] == ["0.069", "0.0061"]


@pytest.mark.parametrize("host", [None, "fn.example.com"])
def test_a_url_is_whole_where_it_is_known(fake: Fake, capsys: Captured, host: str | None) -> None:
    rule = {"auth": "key", "webhook": None, "cors": None, "methods": None, "stream": False}
    one = {"function_id": ID, "path": "/fn/default/hello", "host": host, **rule}
    fake.answers["GET", f"/{ID}/url"] = (200, one)
    assert run(["url", "show", "hello", "--url", "http://far.example:81"]) == 0
    told = {row[0]: row[1] for row in lines(capsys)}
    if host is None:
        assert told["url"] == "http://far.example:81/fn/default/hello"
        assert "host" not in told
    else:
        assert (told["path"], told["host"]) == ("/fn/default/hello", host)
        assert "url" not in told


def test_what_a_url_refused_is_told_with_its_total(fake: Fake, capsys: Captured) -> None:
    rule = {"auth": "webhook", "webhook": None, "cors": None, "methods": None, "stream": False}
    refused = {"refused": {"time": 3, "signature": 5}, "last_refused_at": 1}
    one = {"function_id": ID, "path": "/fn/default/hello", "host": None, **rule, **refused}
    fake.answers["GET", f"/{ID}/url"] = (200, one)
    assert run(["url", "show", "hello"]) == 0
    told = " ".join(lines(capsys)[-1])
    assert told.startswith("refused 8 (signature too old or too early 3, signature 5); the last ")


def test_stats_of_one_function(fake: Fake, capsys: Captured) -> None:
    counts = {"errors": 3, "cold_starts": 1, "p50_ms": 1.234, "p99_ms": 1530.4}
    both = [{"function_id": one, "calls": 12, **counts} for one in ("another", ID)]
    fake.answers["GET", "/stats"] = (200, {"functions": both, "next_cursor": None})
    fake.answers["GET", "/by-name/hello"] = fake.answers["GET", f"/{ID}"] = (200, FUNCTION)
    for given in ("hello", ID):
        assert run(["stats", given]) == 0
        _, *rows = lines(capsys)
        assert [row[:2] for row in rows] == [["hello", "12"]]
    assert run(["stats", "hello", "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["function_id"] for one in told["functions"]] == [ID]


def test_a_quota_without_a_tenant_is_one_s_own(fake: Fake, capsys: Captured) -> None:
    who = {"tenant_id": "acme", "scope": "read", "credential": "c", "expires_at": None}
    server = {"needs_credential": True, "version": "0", "node_id": "n1", "offers": []}
    fake.answers["GET", "/api/whoami"] = (200, who | server)
    fake.answers["GET", OF_ACME] = (200, QUOTA)
    assert run(["quota", "show"]) == 0
    assert "calls in flight 50 2 acme" in [" ".join(row) for row in lines(capsys)]


def test_nothing_is_told_as_that(fake: Fake, capsys: Captured) -> None:
    fake.answers["GET", "/stats"] = (200, {"functions": [], "next_cursor": None})
    assert run(["stats"]) == 0
    assert capsys.readouterr().err == "no invocations\n"


def test_a_quota_is_shown_set_and_taken_away(fake: Fake, capsys: Captured) -> None:
    fake.answers["GET", OF_ACME] = (200, QUOTA)
    fake.answers["PUT", OF_ACME] = (200, QUOTA)
    fake.answers["DELETE", OF_ACME] = (204, None)
    assert run(["quota", "show", "acme"]) == 0
    found = [" ".join(row) for row in lines(capsys)]
    assert "calls in flight 50 2 acme" in found
    assert "calls per second - server" in found
    assert "image bytes 5.0 GiB 3.0 MiB server" in found
    assert "gb seconds per day 3600 12.5 acme" in found
    fake.answers["GET", OF_ACME] = (200, QUOTA | dict.fromkeys(LIMITS, 0))
    assert run(["quota", "show", "acme"]) == 0
    found = [" ".join(row) for row in lines(capsys)]
    assert "calls in flight 0 2 acme" in found
    assert "gb seconds per day - 12.5 acme" in found
    words = "--calls-in-flight 50 --gb-seconds-per-day 3600"
    assert run(["quota", "set", "acme", *words.split()]) == 0
    assert fake.body == {"calls_in_flight": 50, "gb_seconds_per_day": 3600.0}
    assert "is the name right" not in capsys.readouterr().err
    fake.answers["PUT", OF_ACME] = (200, QUOTA | {"known": False})
    assert run(["quota", "set", "acme", *words.split()]) == 0
    assert "acme has no key, no function and no invocations yet" in capsys.readouterr().err
    assert run(["quota", "set", "acme"]) == 2
    capsys.readouterr()
    assert run(["quota", "remove", "acme"]) == 0
    assert capsys.readouterr().out == "acme has the server's limits\n"
