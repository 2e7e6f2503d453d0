"""`quiltfn simulate`: small traces with a cost calculated by hand, and invalid files."""

import json
from pathlib import Path

import pytest

from quiltfn.model.keepalive import Fixed, Window, policy_maker
from quiltfn.operator.simulate import command
from quiltfn.operator.simulate.replay import (
    Frontier,
    Placement,
    TracedFunction,
    arrivals,
    replay,
    spent,
)

START, EVEN = Placement.START, Placement.EVEN


def at(*minutes: int, length: int = 60) -> TracedFunction:
    return TracedFunction("f", [int(minute in minutes) for minute in range(length)], 6.0, 512.0)


def fixed(traced: TracedFunction, minutes: float) -> tuple[int, float]:
    cost = replay([traced], lambda: Fixed(minutes * 60), START)
    return cost.cold, round(cost.idle_minutes, 6)


def test_fixed_by_hand() -> None:
    # The calls take 6 s each, with gaps of 5 and 20 minutes. The trace ends 35 minutes after the
    # last.
    traced = at(0, 5, 25)
    assert fixed(traced, 0) == (2, 0)
    assert fixed(traced, 4) == (2, 12.0)
    assert fixed(traced, 5) == (1, 4.9 + 5 + 5)
    assert fixed(traced, 20) == (0, 4.9 + 19.9 + 20)
    assert fixed(traced, 500) == (0, 59.7)


def test_memory_weighs_and_some_calls_are_left_out() -> None:
    cost = replay([at(0, 5)], lambda: Fixed(60), START)
    assert (cost.calls, cost.cold) == (1, 1)
    assert cost.gib_minutes == pytest.approx(0.5 * cost.idle_minutes)
    # A call that arrives while another one runs is not cold, and adds no idle time.
    traced = TracedFunction("f", [1, 1, 0, 0], duration_s=90)
    assert replay([traced], lambda: Fixed(0), START).cold == 0


def test_a_prewarm_is_charged_a_minute_and_only_if_it_happened() -> None:
    windows = (Window(0, 60), Window(600, 720))
    assert spent(windows, 0, 660) == (60 + 60 + 60, 1)
    assert spent(windows, 0, 500) == (60, 0)
    assert spent(windows, 0, 600) == (60, 0)


def test_where_calls_are_put_in_their_minute() -> None:
    assert list(arrivals([TracedFunction("f", [2, 1])], EVEN)) == [(15, 0), (45, 0), (90, 0)]
    assert list(arrivals([TracedFunction("f", [2, 1]), TracedFunction("g", [1])], START)) == [
        (0, 0),
        (0, 1),
        (60, 0),
    ]


def test_a_frontier_is_the_lower_hull() -> None:
    it = Frontier([(0, 10), (1, 9), (2, 2), (3, 5), (4, 0)])
    assert it.hull == [(0, 10), (2, 2), (4, 0)]
    assert (it.at(1), it.at(3), it.at(5)) == (6, 1, None)


@pytest.mark.parametrize("placed", [START, EVEN])
def test_a_timer_costs_ours_a_fraction_of_what_it_costs_a_fixed_time(placed: Placement) -> None:
    traced = [at(*range(0, 480, 30), length=480)] * 4
    ours = replay(traced, policy_maker("histogram", 300), placed)
    kept = replay(traced, policy_maker("fixed", 1800), placed)
    assert kept.cold == 0
    assert ours.cold <= 4 * 3
    assert ours.idle_minutes < kept.idle_minutes / 4


def test_the_policy_looks_at_nothing_that_comes_later() -> None:
    # Negative control: two traces that differ only in their last call cost the same up to it.
    first, other = (at(0, 9, 14, 30, last, length=200) for last in (50, 190))
    cut = [list(first.calls[:49]), list(other.calls[:49])]
    costs = [
        replay([TracedFunction("f", calls)], policy_maker("histogram", 300), START) for calls in cut
    ]
    assert costs[0] == costs[1]


TRACE = "HashOwner,HashApp,HashFunction,Trigger,480,481,482\no,a,f,timer,1,0,2\no,a,g,http,0,1,0\n"


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.csv").write_text(text)
    return directory


def test_it_prints_a_line_per_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, invocations=TRACE)
    assert command.main([str(tmp_path), "--idle-s", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["POLICY", "fixed", "hybrid", "histogram"]
    assert command.main([str(tmp_path / "invocations.csv"), "--policy", "fixed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["policies"]
    assert [one["idle_s"] for one in found] == list(command.IDLE_S)
    assert (found[0]["calls"], found[0]["cold_starts"], found[1]["cold_starts"]) == (1, 1, 0)


def test_durations_and_memory_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        tmp_path,
        invocations=TRACE,
        durations="HashOwner,HashApp,HashFunction,Average\no,a,f,30000\n",
        memory="HashOwner,HashApp,AverageAllocatedMb\no,a,1024\n",
    )
    assert command.main([str(tmp_path), "--policy", "fixed", "--idle-s", "3600", "--json"]) == 0
    (policy,) = json.loads(capsys.readouterr().out)["policies"]
    assert policy["idle_minutes"] == policy["idle_gib_minutes"] == 1.5 + 0.5 + 1.5


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "invocations.csv: cannot be read: No such file"),
        ({"invocations": ""}, "the file is empty"),
        ({"invocations": "a,b\n1,2\n"}, "line 1: expected a column HashFunction"),
        ({"invocations": TRACE.replace("482", "490")}, "expected minute 482 after 481, not 490"),
        ({"invocations": TRACE.split("\n", maxsplit=1)[0] + "\n"}, "no functions"),
        ({"invocations": TRACE + "o,a,h\n"}, "line 4: expected 7 columns, not 3"),
        (
            {"invocations": TRACE.replace("1,0,2", "1,-3,2")},
            "line 2, column 481: expected a number",
        ),
        ({"invocations": TRACE, "durations": "x\n"}, "durations.csv: line 1: expected a column"),
        (
            {"invocations": TRACE, "memory": "HashApp,AverageAllocatedMb\na,nan\n"},
            "memory.csv: line 2, column AverageAllocatedMb: expected a number of 0 or more",
        ),
    ],
)
def test_a_wrong_file_is_named_with_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], words: str
) -> None:
    assert command.main([str(write(tmp_path, **files))]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "nan", "-1", "soon", "1e9"])
def test_a_wrong_idle_time_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SystemExit) as end:
        command.main([str(tmp_path), f"--idle-s={text}"])
    assert end.value.code == 2
