"""A second version in use: its cost for callers who name no version, the split of an alias's
invocations, and the number of invocations that an always failing version gets before its rollback.
"""

from __future__ import annotations

import statistics
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

import harness
from url import opened, request, timed

CALLS, CALLERS, WEIGHT = 10_000, 4, 0.1
# Chi-square with one degree of freedom: a correct split exceeds this once in 1,000 times.
CHI_SQUARE_MAX = 10.83
COST = "a call beside a version in use, over one alone, p50"
FAILED = "failed calls of a version at 10 % that always fails"


def main() -> None:
    options = harness.arguments("canary")
    with harness.server() as client:
        alone, beside = (two_versions(client, name) for name in ("alone", "beside"))
        keep_in_use(client, beside)
        costs = []
        for number in range(options.rounds):
            costs.append(cost(client, alone, beside, 200 * options.seconds))
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
        print(f"{COST:56}{harness.spread(costs):>24}")
        split = chi_square(client, beside)
        print(
            f"{CALLS} calls by an alias at {WEIGHT:.0%}: chi-square {split:.2f} ({CHI_SQUARE_MAX})"
        )
        assert split <= CHI_SQUARE_MAX
        failed = [until_taken_back(client, f"bad-{n}") for n in range(options.rounds)]
        print(f"{FAILED:56}{harness.spread([float(one) for one, _ in failed]):>24}")
        print("calls until then:", [calls for _, calls in failed])
    harness.save("canary", {"costs": costs, "failed": [one for one, _ in failed]})


def two_versions(client: httpx.Client, name: str, handler: str = "echo two") -> str:
    function = harness.deployed(client, name=name, handler="echo one", max_instances=8)
    path = f"/api/functions/{function}"
    client.put(path, json={"handler": handler}).raise_for_status()
    return function


def keep_in_use(client: httpx.Client, function: str) -> None:
    """Invoke both versions once, so that each has an instance."""
    for version in (1, 2):
        path = f"/api/functions/{function}/invoke?version={version}"
        client.post(path, json={}).raise_for_status()


def cost(client: httpx.Client, alone: str, beside: str, count: int) -> float:
    """The duration of an invocation if another version has an instance, over that without one;
    measured in turns.
    """
    plain, other = (invoke(function) for function in (alone, beside))
    took: dict[bytes, list[float]] = {plain: [], other: []}
    client.post(f"/api/functions/{beside}/invoke?version=1", json={}).raise_for_status()
    with opened(client) as first, opened(client) as second:
        for _ in range(20):
            timed(first, plain), timed(second, other)
        for number in range(count):
            turn = [(first, plain), (second, other)]
            for connection, data in turn if number % 2 else reversed(turn):
                took[data].append(timed(connection, data))
    return statistics.median(took[other]) / statistics.median(took[plain])


def invoke(function: str, query: str = "") -> bytes:
    return request(f"POST /api/functions/{function}/invoke{query}", "application/json", b"{}")


def chi_square(client: httpx.Client, function: str) -> float:
    """Chi-square of the split of an alias's invocations, compared with its weight."""
    body = {"version": 2, "also": {"version": 1, "weight": WEIGHT}}
    client.put(f"/api/functions/{function}/aliases/split", json=body).raise_for_status()

    def some(count: int) -> Counter[str]:
        with httpx.Client(base_url=client.base_url, timeout=60) as http:
            path = f"/api/functions/{function}/invoke?alias=split"
            return Counter(
                http.post(path, json={}).raise_for_status().json()["stdout"].strip()
                for _ in range(count)
            )

    with ThreadPoolExecutor(CALLERS) as threads:
        seen = sum(threads.map(some, [CALLS // CALLERS] * CALLERS), Counter[str]())
    wanted = {"one": CALLS * WEIGHT, "two": CALLS * (1 - WEIGHT)}
    assert seen.keys() == wanted.keys(), seen
    return sum((seen[name] - count) ** 2 / count for name, count in wanted.items())


def until_taken_back(client: httpx.Client, name: str) -> tuple[int, int]:
    """The numbers of failed invocations and of all until an always failing version was rolled back;
    after that, none fails.
    """
    function = two_versions(client, name, "exit 1")
    base = f"/api/functions/{function}"
    client.post(f"{base}/rollback", json={"version": 1}).raise_for_status()
    rule = {"error_rate": 0.05, "within_s": 300}
    body = {"version": 1, "also": {"version": 2, "weight": WEIGHT}, "rollback_on": rule}
    client.put(f"{base}/aliases/live", json=body).raise_for_status()
    failed = calls = 0
    while client.get(f"{base}/aliases/live").json()["also"] is not None:
        record = client.post(f"{base}/invoke?alias=live", json={}).raise_for_status().json()
        failed, calls = failed + (record["status"] != "success"), calls + 1
    for _ in range(100):
        record = client.post(f"{base}/invoke?alias=live", json={}).raise_for_status().json()
        assert record["status"] == "success"
    return failed, calls


if __name__ == "__main__":
    main()
