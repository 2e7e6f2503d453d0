"""Cold starts of the keep-alive policies on a trace, at equal idle time.

The trace is not part of this project: `--trace DIR`, else QUILTFN_TRACE, names a directory as
`quiltfn simulate` reads it. Compared at the idle time of a fixed 300 s, in three ways: with calls
at the start of their minute, spread over it, and with every minute that has a call counted as busy;
and in the first way for each half of the functions.
"""
# promise: P16

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import harness
from quiltfn.operator.simulate.command import any_policy, fixed_frontier
from quiltfn.operator.simulate.replay import Placement, TracedFunction, frontier, replay
from quiltfn.operator.simulate.trace import BadTrace, read

AT_S = 300.0
HYBRID_S = (60, 120, 180, 300, 420, 600, 900, 1200, 1800, 3600, 7200, 14_400)
OURS_S = (150, 210, 270, 330, 420)
BUSY_S = 60.0


def main() -> None:
    options = harness.arguments("keepalive", trace=(None, "directory of the trace"))
    trace = options.trace or os.environ.get("QUILTFN_TRACE")
    if not trace:
        print("keepalive: SKIPPED: no trace; give --trace DIR or set QUILTFN_TRACE")
        return
    try:
        functions = read(Path(trace))
    except BadTrace as error:
        sys.exit(f"bench: {error}")
    busy = [dataclasses.replace(one, duration_s=max(one.duration_s, BUSY_S)) for one in functions]
    rounds = [
        {"variant": "start", **compared(functions, Placement.START)},
        {"variant": "even", **compared(functions, Placement.EVEN)},
        {"variant": "busy minutes", **compared(busy, Placement.START)},
        {"variant": "even half of the functions", **compared(functions[::2], Placement.START)},
        {"variant": "odd half of the functions", **compared(functions[1::2], Placement.START)},
    ]
    for line in rounds:
        print(line)
    harness.save("keepalive", {"at_s": AT_S, "rounds": rounds})


def compared(functions: list[TracedFunction], placed: Placement) -> dict[str, Any]:
    """Cold starts of each at the idle time of the fixed rule; None: it cannot idle so little."""
    fixed = replay(functions, any_policy("fixed", AT_S), placed)
    idle = fixed.idle_minutes
    hybrid = frontier(replay(functions, any_policy("hybrid", one), placed) for one in HYBRID_S)
    ours = frontier(replay(functions, any_policy("histogram", one), placed) for one in OURS_S)
    return {
        "idle_minutes": idle,
        "calls": fixed.calls,
        "fixed": fixed_frontier(functions, placed).at(idle),
        # The published policy has a minimum idle time; if that is above `idle`, it is used instead.
        "hybrid": hybrid.at(max(idle, hybrid.hull[0][0])),
        "histogram": ours.at(idle),
    }


if __name__ == "__main__":
    main()
