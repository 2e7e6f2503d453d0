"""Cold starts of functions that are deployed and have no instance, against `crun run`, in turns.

The server ends instances after a fraction of a second, so that every invocation here is a cold
start, which its record confirms. Invocations are paced, so that the server's prewarmed sandboxes
are replenished; the floor is paced, too, since an idle machine takes longer for both.

The function with 100 ms of imports is on a separate server, which parks idle instances, as is the
default. The other server parks none, so that its cold starts use prewarmed sandboxes.
"""
# promise: S4

from __future__ import annotations

import statistics
import time

import httpx

import harness
from python import add_runtime

IDLE_S, PACE_S = 0.1, 0.45
IMPORTS = "import time\ntime.sleep(0.1)\n"  # what 100 ms of imports cost, without their memory
KINDS = ("shell", "python", "python, 100 ms of imports")


def main() -> None:
    options = harness.arguments("cold")
    each = 8 * options.seconds
    bare = harness.server("--idle-s", str(IDLE_S), "--park-s", "0")
    with bare as client, harness.server("--idle-s", str(IDLE_S)) as parking:
        imports = add_runtime(parking, "imports", IMPORTS)
        places = {
            "shell": (client, deployed(client, "cold-shell", "echo hello", "shell")),
            "python": (
                client,
                deployed(client, "cold-python", "main:handler", add_runtime(client)),
            ),
            "python, 100 ms of imports": (
                parking,
                deployed(parking, "cold-imports", "main:handler", imports),
            ),
        }
        time.sleep(3 * PACE_S)
        rounds = []
        for number in range(options.rounds):
            floor = harness.floor("crun_run", str(each), "echo hello", str(PACE_S))
            round_ms = {"crun run": {"p50_ms": harness.percentile(floor, 50) / 1000}}
            round_ms["crun run"]["p99_ms"] = max(floor) / 1000
            for name, (where, path) in places.items():
                calls = [cold_call(where, path) for _ in range(each)]
                round_ms[name] = {"p50_ms": statistics.median(calls), "p99_ms": max(calls)}
            rounds.append(round_ms)
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    for round_ms, empty in zip(rounds, not_prewarmed(options.rounds, each), strict=True):
        round_ms["shell, not prewarmed"] = empty
    show(rounds)
    harness.save("cold", {"calls_each_round": each, "rounds": rounds})


def not_prewarmed(count: int, each: int) -> list[dict[str, float]]:
    """The same without prewarmed sandboxes; not in turns with the others."""
    found = []
    with harness.server("--idle-s", str(IDLE_S), "--prewarmed", "0") as client:
        path = deployed(client, "cold-shell", "echo hello", "shell")
        for _ in range(count):
            calls = [cold_call(client, path) for _ in range(each)]
            found.append({"p50_ms": statistics.median(calls), "p99_ms": max(calls)})
    return found


def cold_call(client: httpx.Client, path: str) -> float:
    """Milliseconds of an invocation without a ready instance."""
    pool = path.removesuffix("/invoke") + "/pool"
    time.sleep(PACE_S)
    while any(client.get(pool).json()[f"{state}_count"] for state in ("ready", "busy")):
        time.sleep(0.05)
    began = time.perf_counter()
    record = client.post(path, json={}).raise_for_status().json()
    took = (time.perf_counter() - began) * 1000
    assert record["cold_start"], "a warm call among the cold ones"
    assert record["status"] == "success", record
    return took


def deployed(client: httpx.Client, name: str, handler: str, runtime: str) -> str:
    function = harness.deployed(client, name=name, handler=handler, runtime=runtime)
    return f"/api/functions/{function}/invoke"


def show(rounds: list[dict[str, dict[str, float]]]) -> None:
    print(f"{'':28}{'p50, ms':>24}{'worst, ms':>24}{'p50 over crun run':>24}")
    for name in rounds[0]:
        values = [harness.spread([one[name][field] for one in rounds]) for field in rounds[0][name]]
        ratio = harness.spread([one[name]["p50_ms"] / one["crun run"]["p50_ms"] for one in rounds])
        print(f"{name:28}{values[0]:>24}{values[1]:>24}{ratio:>24}")


if __name__ == "__main__":
    main()
