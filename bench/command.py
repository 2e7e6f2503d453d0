"""The command line: whole processes of `quiltfn`, each in turns with a start of the same Python
that does nothing; and the three commands from an empty directory to a function's response.
"""
# promise: M4

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

QUILTFN = str(Path(sys.executable).with_name("quiltfn"))
NOTHING = [sys.executable, "-c", "pass"]
COMMANDS = {"version": "--version", "list": "functions list", "invoke": "invoke command"}
PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "deploy-a-project.md"


def main() -> None:
    options = harness.arguments("command", rounds=5)
    with harness.server() as client:
        harness.deployed(client, name="command", handler="echo hello", min_instances=1)
        os.environ["QUILT_BASE_URL"] = str(client.base_url)
        shipped_s()  # packages are downloaded once
        rounds = []
        for _ in range(options.rounds):
            took: dict[str, list[float]] = {name: [] for name in (*COMMANDS, "floor")}
            for _ in range(4 * options.seconds):
                for name, words in COMMANDS.items():
                    took[name].append(process_ms([QUILTFN, *words.split()]))
                took["floor"].append(process_ms(NOTHING))
            figures = {name: harness.percentile(each, 50) for name, each in took.items()}
            rounds.append(figures | {"ship_s": shipped_s()})
    for name in rounds[0]:
        shown = COMMANDS.get(name, {"floor": "python -c pass"}.get(name, "three commands, in s"))
        print(f"{shown}: {harness.spread([one[name] for one in rounds])}")
    harness.save("command", {"rounds": rounds})


def process_ms(command: list[str]) -> float:
    """Milliseconds from the start of a process to its end."""
    began = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    took = time.perf_counter() - began
    assert bool(done.stdout) == (command is not NOTHING), done
    return took * 1000


def shipped_s() -> float:
    """Run the first block of the page unchanged, and then remove what it created."""
    block = re.search(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    variables = {**os.environ, "PATH": f"{Path(QUILTFN).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as directory:

        def typed(text: str) -> str:
            shell = ["/bin/sh", "-ec", text]
            return subprocess.check_output(
                shell, cwd=directory, env=variables, stderr=subprocess.PIPE, text=True
            )

        began = time.perf_counter()
        assert "Hello!" in typed(block[1])
        took = time.perf_counter() - began
        typed("quiltfn destroy * --yes")
    return took


if __name__ == "__main__":
    main()
