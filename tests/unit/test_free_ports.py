"""A port that a test chooses stays free until its program listens there."""

import random
import socket
import subprocess
import sys
from pathlib import Path

from free_ports import RANGE, free_port


def chosen_by_another_process(seed: str) -> int:
    program = f"import random; random.seed({seed!r}); import free_ports as f; print(f.free_port())"
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tests, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_the_kernel_gives_it_to_nobody() -> None:
    first, last = map(int, RANGE.read_text().split())
    assert not first <= free_port() <= last
    # Control: the kernel chooses from its range.
    with socket.create_server(("127.0.0.1", 0)) as anyone:
        assert first <= anyone.getsockname()[1] <= last


def test_another_process_does_not_choose_it() -> None:
    seed = random.randbytes(8).hex()
    # Control: the port is free after the process that chose it.
    before = chosen_by_another_process(seed)
    random.seed(seed)
    mine = free_port()
    random.seed()
    assert mine == before
    assert chosen_by_another_process(seed) != mine
