"""`quiltfn simulate`: the cost of keep-alive policies on a trace of invocations.

The simulated policies are the server's own classes, except `hybrid`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quiltfn.model.keepalive import MINUTE_S, POLICIES, KeepAlive, policy_maker
from quiltfn.operator.simulate.hybrid import Hybrid
from quiltfn.operator.simulate.replay import (
    Cost,
    Frontier,
    Placement,
    TracedFunction,
    frontier,
    replay,
)
from quiltfn.operator.simulate.trace import BadTrace, read

FINE, BAD_TRACE = 0, 2
HYBRID = "hybrid"
ALL = (POLICIES[0], HYBRID, *POLICIES[1:])
IDLE_S = (60.0, 300.0, 600.0, 1200.0)
IDLE_MAX_S = 86_400.0
# The idle times, in minutes, for which the fixed rule is simulated to get its frontier.
FIXED_MINUTES: tuple[float, ...] = (
    *(half / 2 for half in range(13)),
    *range(7, 17),
    *(18, 20, 22, 25, 28, 30, 35, 40, 50, 60, 61, 75, 90, 120, 180, 240, 480),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A policy's cost, and the cold starts of the fixed rule with the same total idle time; None:
    no simulated fixed rule comes near that total.
    """

    policy: str
    idle_s: float
    cost: Cost
    fixed_cold: float | None

    @property
    def fewer_percent(self) -> float | None:
        """By how many percent the policy has fewer cold starts than the fixed rule."""
        return None if not self.fixed_cold else 100 * (1 - self.cost.cold / self.fixed_cold)


def main(arguments: Sequence[str]) -> int:
    """Prints one line for each policy and idle time. Returns the exit code."""
    given = parser().parse_args(arguments)
    try:
        functions = read(given.trace)
    except BadTrace as error:
        print(f"quiltfn: {error}", file=sys.stderr)
        return BAD_TRACE
    placed = Placement(given.placed)
    policies = given.policy or ALL
    found = simulate(functions, policies, given.idle_s or IDLE_S, placed)
    print(as_json(found) if given.output == "json" else as_text(found))
    return FINE


def simulate(
    functions: Sequence[TracedFunction],
    policies: Sequence[str],
    idle_s: Sequence[float],
    placed: Placement,
) -> list[Found]:
    """Simulates each policy with each idle time, and compares it with a fixed rule of the same
    total idle time.
    """
    fixed = fixed_frontier(functions, placed)
    found = []
    for policy in policies:
        for idle in idle_s:
            cost = replay(functions, any_policy(policy, idle), placed)
            found.append(Found(policy, idle, cost, fixed.at(cost.idle_minutes)))
    return found


def fixed_frontier(functions: Sequence[TracedFunction], placed: Placement) -> Frontier:
    """Returns the fewest cold starts of the fixed rule for each total idle time."""
    return frontier(
        replay(functions, any_policy("fixed", minutes * MINUTE_S), placed)
        for minutes in FIXED_MINUTES
    )


def any_policy(policy: str, idle_s: float) -> Callable[[], KeepAlive]:
    """Returns a factory of a policy: one of the server's, or `Hybrid`, a policy from a paper."""
    return (lambda: Hybrid(idle_s)) if policy == HYBRID else policy_maker(policy, idle_s)


def as_text(found: Sequence[Found]) -> str:
    head = ("POLICY", "IDLE_S", "COLD", "OF", "IDLE MIN", "GIB MIN", "PREWARMS", "AGAINST FIXED")
    rows = [head, *(_row(one) for one in found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )


def _row(found: Found) -> tuple[str, ...]:
    cost, fewer = found.cost, found.fewer_percent
    return (
        found.policy,
        f"{found.idle_s:g}",
        f"{cost.cold:,}",
        f"{cost.calls:,}",
        f"{cost.idle_minutes:,.0f}",
        f"{cost.gib_minutes:,.1f}" if cost.gib_s else "-",
        f"{cost.prewarms:,}",
        "-" if fewer is None else f"{0.0 - fewer:+.1f} %",
    )


def as_json(found: Sequence[Found]) -> str:
    listed = [
        {
            "policy": one.policy,
            "idle_s": one.idle_s,
            "calls": one.cost.calls,
            "cold_starts": one.cost.cold,
            "idle_minutes": round(one.cost.idle_minutes, 3),
            "idle_gib_minutes": round(one.cost.gib_minutes, 3),
            "prewarms": one.cost.prewarms,
            "fixed_cold_starts_at_equal_idle_time": one.fixed_cold,
        }
        for one in found
    ]
    return json.dumps({"policies": listed}, indent=2)


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(
        prog="quiltfn simulate",
        description="Replay a trace of invocations per minute with the keep-alive policies.",
        epilog="AGAINST FIXED: cold starts compared with a fixed idle time that has the same total "
        "idle time. A function's first invocation is left out; each pre-warm adds a minute of "
        "idle time. "
        "exit codes: 0 done · 2 the trace or an option is wrong",
    )
    it.add_argument(
        "trace",
        type=Path,
        help="directory with invocations.csv (and optionally durations.csv, memory.csv), or one "
        "such file",
    )
    it.add_argument(
        "--policy",
        action="append",
        choices=ALL,
        help="policy to simulate (default: all); repeatable",
    )
    it.add_argument(
        "--idle-s",
        action="append",
        type=idle_time,
        help=f"idle time to try, 1 to {IDLE_MAX_S:g}; repeatable (default "
        f"{', '.join(f'{one:g}' for one in IDLE_S)}). histogram idles about as long in total as "
        "a fixed rule with this time",
    )
    it.add_argument(
        "--placed",
        choices=[str(one) for one in Placement],
        default=str(Placement.START),
        help="assumed time of an invocation within its minute (default start)",
    )
    it.add_argument("--output", "-o", choices=["table", "json"], default="table")
    it.add_argument(
        "--json", action="store_const", const="json", dest="output", help="the same as -o json"
    )
    return it


def idle_time(text: str) -> float:
    """Parses an option's value in seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 1 <= seconds <= IDLE_MAX_S:
        raise argparse.ArgumentTypeError(f"expected 1 to {IDLE_MAX_S:g} seconds, not {text!r}")
    return seconds
