"""The warm shell call against the bare spawn of the same shell, one caller, in turns."""

from __future__ import annotations

import statistics

import stand

HANDLER = "echo hello"


def main() -> None:
    options = stand.arguments("warm")
    with stand.server() as client:
        function = stand.deployed(client, name="warm", handler=HANDLER)
        path = f"/api/functions/{function}/invoke"
        stand.wrk(client, path, connections=1, seconds=1)
        rounds = []
        for number in range(options.rounds):
            bare = stand.floor("spawn", str(400 * options.seconds), HANDLER)
            call = stand.wrk(client, path, connections=1, seconds=options.seconds)
            rounds.append(
                {
                    "spawn_p50_us": stand.percentile(bare, 50),
                    "spawn_p99_us": stand.percentile(bare, 99),
                    "call_p50_us": call["p50_us"],
                    "call_p99_us": call["p99_us"],
                    "calls_per_second": call["requests"] / call["seconds"],
                }
            )
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
        cold = client.get(f"/api/functions/{function}/invocations", params={"cold_start": "true"})
        assert not cold.json()["invocations"], "a call of this benchmark was a cold start"
    show(rounds)
    stand.keep("warm", {"rounds": rounds})


def show(rounds: list[dict[str, float]]) -> None:
    print(f"{'':24}{'call':>24}{'bare spawn':>24}{'ratio':>22}")
    for percent in ("p50", "p99"):
        call = [one[f"call_{percent}_us"] for one in rounds]
        bare = [one[f"spawn_{percent}_us"] for one in rounds]
        ratio = [a / b for a, b in zip(call, bare, strict=True)]
        print(
            f"warm shell call {percent}, µs{statistics.median(call):>21.0f}"
            f"{statistics.median(bare):>24.0f}{stand.spread(ratio):>22}"
        )
    rate = statistics.median(one["calls_per_second"] for one in rounds)
    print(f"calls per second, one caller: {rate:.0f}")


if __name__ == "__main__":
    main()
