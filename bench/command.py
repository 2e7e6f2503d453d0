"""A call from the command line: the whole process of `quiltfn invoke`, for a warm function that
prints a word, in turns with the start of the same Python that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import harness

QUILTFN = str(Path(sys.executable).with_name("quiltfn"))
NOTHING = [sys.executable, "-c", "pass"]


def main() -> None:
    options = harness.arguments("command", rounds=5)
    with harness.server() as client:
        harness.deployed(client, name="command", handler="echo hello", min_instances=1)
        invoke = [QUILTFN, "invoke", "command", "--url", str(client.base_url)]
        rounds = []
        for _ in range(options.rounds):
            took: dict[str, list[float]] = {"invoke": [], "floor": []}
            for _ in range(4 * options.seconds):
                took["invoke"].append(process_ms(invoke, b"hello\n"))
                took["floor"].append(process_ms(NOTHING, b""))
            rounds.append(took)
    figures = [
        {
            "p50_ms": harness.percentile(one["invoke"], 50),
            "floor_p50_ms": harness.percentile(one["floor"], 50),
        }
        for one in rounds
    ]
    print(f"quiltfn invoke, whole process: {harness.spread([one['p50_ms'] for one in figures])} ms")
    print(f"python -c pass: {harness.spread([one['floor_p50_ms'] for one in figures])} ms")
    harness.save("command", {"rounds": figures})


def process_ms(command: list[str], printed: bytes) -> float:
    """From its start to its end."""
    began = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    took = time.perf_counter() - began
    assert done.stdout == printed, done
    return took * 1000


if __name__ == "__main__":
    main()
