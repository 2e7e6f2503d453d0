"""`quiltfn stats`, `series`, `usage`, `quota` and `url`."""

import time

import pytest

from quiltfn import wire
from unit.canned_server import FUNCTION, ID, body_of
from unit.command_line import CommandLine

COUNTS = {"calls": 12, "errors": 3, "cold_starts": 1, "p50_ms": 1.234, "p99_ms": 1530.4}
USED = {"calls": 5, "errors": 1, "gb_seconds": 41.66, "cpu_seconds": 12.94, "queued": 3}
SUMS = body_of(wire.UsageSums, **USED, egress_refused=2)
LIMITS = {
    "calls_in_flight": 50,
    "calls_per_second": 0.0,
    "functions": 10_000,
    "image_bytes": 5 * 1024**3,
    "gb_seconds_per_day": 3600.0,
}
NOW = {"calls_in_flight": 2, "image_bytes": 3 * 1024**2, "gb_seconds_today": 12.5}
QUOTA = body_of(
    wire.Quota,
    tenant_id="acme",
    **LIMITS,
    own=["calls_in_flight", "gb_seconds_per_day"],
    used=body_of(wire.QuotaUse, **NOW),
)
OF_ACME = "/api/tenants/acme/quota"


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.answers["GET", ""] = (200, {"functions": [FUNCTION], "next_cursor": None})
    return cli


def stats_of(*function_ids: str) -> dict[str, object]:
    counts = [body_of(wire.FunctionStats, function_id=one, **COUNTS) for one in function_ids]
    return {"functions": counts, "next_cursor": None}


def test_stats_are_told_by_name(cli: CommandLine) -> None:
    cli.answers["GET", "/stats"] = (200, stats_of(ID))
    assert cli.run("stats --since 10m").lines == [
        "NAME CALLS ERRORS COLD P50 P99",
        "hello 12 3 1 1.23 ms 1530 ms",
    ]
    cli.run("stats -o json")
    assert cli.query == "window=3600"


def test_stats_of_one_function_and_of_none(cli: CommandLine) -> None:
    cli.answers["GET", "/stats"] = (200, stats_of("another", ID))
    for function in ("hello", ID):
        (row,) = cli.run(f"stats {function}").lines[1:]
        assert row.startswith("hello 12 ")
    (counts,) = cli.run("stats hello -o json").data["functions"]
    assert counts["function_id"] == ID
    cli.answers["GET", "/stats"] = (200, stats_of())
    assert cli.run("stats").err == "no invocations\n"


def test_a_series_is_asked_for_by_its_age(cli: CommandLine) -> None:
    point = body_of(wire.SeriesPoint, calls=2, errors=0, cold_starts=0)
    cli.answers["GET", f"/{ID}/series"] = (200, body_of(wire.Series, points=[point]))
    printed = cli.run("series hello --since 2h --step 60")
    start = int(cli.query.partition("from=")[2].partition("&")[0])
    assert abs(time.time() - 7200 - start) < 60
    assert cli.query.endswith("&step=60")
    assert printed.lines[1].endswith(" 2 0 0 - -")


@pytest.mark.parametrize("by", ["", "--by function"])
def test_usage_ends_with_the_whole_and_a_little_is_not_none(cli: CommandLine, by: str) -> None:
    function = {"function_id": ID, "function_name": "hello"} if by else {}
    row = body_of(wire.UsageRow, **SUMS, **function)
    cli.answers["GET", "/api/usage"] = (200, body_of(wire.Usage, rows=[row], total=SUMS))
    head, first, last = cli.run(f"usage {by}").lines
    assert head.startswith("FROM FUNCTION" if by else "FROM CALLS")
    assert ("hello" in first) == bool(by)
    assert last.startswith("in all ")
    assert last.endswith(" 5 1 41.7 12.9 3 2")
    little = SUMS | {"gb_seconds": 0.0693, "cpu_seconds": 0.00612}
    cli.answers["GET", "/api/usage"] = (200, body_of(wire.Usage, rows=[row], total=little))
    assert " 0.069 0.0061 " in cli.run("usage").lines[-1]


@pytest.mark.parametrize(
    ("host", "shown", "hidden"),
    [
        (None, {"url http://far.example:81/fn/default/hello"}, "host"),
        ("fn.example.com", {"path /fn/default/hello", "host fn.example.com"}, "url"),
    ],
)
def test_a_url_is_whole_where_it_is_known(
    cli: CommandLine, host: str | None, shown: set[str], hidden: str
) -> None:
    url = body_of(wire.FunctionUrl, path="/fn/default/hello", host=host)
    cli.answers["GET", f"/{ID}/url"] = (200, url)
    lines = cli.run("url show hello --url http://far.example:81").lines
    assert shown <= set(lines)
    assert hidden not in {line.partition(" ")[0] for line in lines}


def test_what_a_url_refused_is_told_with_its_total(cli: CommandLine) -> None:
    refused = {"refused": {"time": 3, "signature": 5}, "last_refused_at": 1}
    cli.answers["GET", f"/{ID}/url"] = (200, body_of(wire.FunctionUrl, auth="webhook", **refused))
    last = cli.run("url show hello").lines[-1]
    assert last.startswith("refused 8 (signature too old or too early 3, signature 5); the last ")


def test_a_quota_is_shown_set_and_taken_away(cli: CommandLine) -> None:
    cli.answers["GET", OF_ACME] = cli.answers["PUT", OF_ACME] = (200, QUOTA)
    cli.answers["DELETE", OF_ACME] = (204, None)
    shown = {
        "calls in flight 50 2 acme",
        "calls per second - server",
        "image bytes 5.0 GiB 3.0 MiB server",
        "gb seconds per day 3600 12.5 acme",
    }
    cli.answers["GET", "/api/whoami"] = (200, body_of(wire.Whoami, tenant_id="acme"))
    for of_own_tenant in ("", "acme"):
        assert shown <= set(cli.run(f"quota show {of_own_tenant}").lines)
    cli.answers["GET", OF_ACME] = (200, QUOTA | dict.fromkeys(LIMITS, 0))
    shown = {"calls in flight 0 2 acme", "gb seconds per day - 12.5 acme"}
    assert shown <= set(cli.run("quota show acme").lines)
    cli.answers["GET", OF_ACME] = (200, QUOTA)
    line = "quota set acme --calls-in-flight 60 --functions 5"
    assert "no invocations yet" not in cli.run(line).err
    kept = QUOTA["gb_seconds_per_day"]
    assert cli.body == {"calls_in_flight": 60, "functions": 5, "gb_seconds_per_day": kept}
    cli.answers["PUT", OF_ACME] = (200, QUOTA | {"known": False})
    assert "acme has no key, no function and no invocations yet" in cli.run(line).err
    assert cli.run("quota remove acme").out == "acme has the server's limits\n"
