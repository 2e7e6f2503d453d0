"""Warm shell calls against the bare spawn of the same shell: one caller back to back, one caller at
a pace, eight callers, and the CPU time of a call over the whole tree of processes.
"""
# promise: C10, S1, S2

from __future__ import annotations

import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

import harness

HANDLER = "echo hello"
PACE_S = 0.01
ROWS = (
    *("back to back p50, µs", "back to back p99, µs", "at 100 a second p50, µs"),
    *("8 callers, calls/s", "CPU a call, µs"),
)


def main() -> None:
    options = harness.arguments("warm")
    with harness.server() as client:
        function = harness.deployed(client, name="warm", handler=HANDLER, min_instances=2)
        path = f"/api/functions/{function}/invoke"
        harness.wrk(client, path, connections=8, seconds=1)
        rounds = []
        for number in range(options.rounds):
            rounds.append(one_round(client, path, options.seconds))
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
        cold = client.get(f"/api/functions/{function}/invocations", params={"cold_start": "true"})
        assert len(cold.json()["invocations"]) <= 4, "the calls of this benchmark were cold starts"
    show(rounds)
    harness.save("warm", {"rounds": rounds})


def one_round(client: httpx.Client, path: str, seconds: int) -> dict[str, list[float]]:
    """Row → the figures of the invocation and of the floor."""
    launcher = int(client.headers["x-launcher-pid"])
    bare, bare_cpu = spawns(400 * seconds)
    before = harness.ticks(harness.tree(launcher))
    call = harness.wrk(client, path, connections=1, seconds=seconds)
    cpu = (harness.ticks(harness.tree(launcher)) - before) / call["requests"] * 1e6
    paced_floor, _ = spawns(100 * seconds, PACE_S)
    paced = paced_calls(client, path, 100 * seconds)
    two = two_spawners(400 * seconds)
    eight = harness.wrk(client, path, connections=8, seconds=seconds)
    return {
        ROWS[0]: [call["p50_us"], harness.percentile(bare, 50)],
        ROWS[1]: [call["p99_us"], harness.percentile(bare, 99)],
        ROWS[2]: [harness.percentile(paced, 50), harness.percentile(paced_floor, 50)],
        ROWS[3]: [eight["requests"] / eight["seconds"], two],
        ROWS[4]: [cpu, bare_cpu],
    }


def spawns(count: int, pause_s: float = 0) -> tuple[list[float], float]:
    """Durations in µs of bare spawns, and the CPU time of each."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pause = [str(int(pause_s * 1e6))] if pause_s else []
    took = harness.floor("spawn", str(count), HANDLER, *pause)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return took, cpu / count * 1e6


def two_spawners(count: int) -> float:
    """Bare spawns a second by two at a time."""
    began = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: harness.floor("spawn", str(count), HANDLER), range(2)))
    return 2 * count / (time.monotonic() - began)


def paced_calls(client: httpx.Client, path: str, count: int) -> list[float]:
    """Durations in µs of calls on one connection, a pause before each."""
    port = str(client.base_url.port)
    return harness.floor("paced", port, path, str(count), str(int(PACE_S * 1e6)))


def show(rounds: list[dict[str, list[float]]]) -> None:
    print(f"{'':28}{'call':>12}{'bare spawn':>12}{'ratio':>24}")
    for row in ROWS:
        call, floor = (statistics.median(one[row][side] for one in rounds) for side in (0, 1))
        ratio = harness.spread([one[row][0] / one[row][1] for one in rounds])
        print(f"{row:28}{call:>12.0f}{floor:>12.0f}{ratio:>24}")


if __name__ == "__main__":
    main()
