"""Cold starts from prewarmed sandboxes: fast, within the version's limits, each used once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from e2e import sample_runtimes
from e2e.server import CRUN, Server, until
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("R16")]


def filled(server: Server, wanted: int = 4) -> None:
    until(lambda: server.prewarmed() >= wanted)


@promise("C7")
def test_a_start_from_the_stock_and_a_next_call_start_no_runtime(
    another: Callable[..., Server], tmp_path: Path
) -> None:
    log, wrapper = tmp_path / "starts", tmp_path / "crun"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >>{log}\nexec {CRUN} "$@"\n')
    wrapper.chmod(0o755)
    server = another(crun=str(wrapper)).start()

    def started() -> int:
        return sum(" run " in line for line in log.read_text().splitlines())

    server.deploy("echo one")
    filled(server)
    stock = set(server.guests().values())
    second, begun = server.create('[ "$QUILT_PAYLOAD" ] && sleep 60; echo two'), started()
    assert second.deploy()["state"] == "active"
    answer = server.later(second.invoke, "wait")
    assert server.guest_of("sleep") in stock
    server.wake()
    assert answer.result(scaled(20))["stdout"] == "two\n"
    # A replacement for the used sandbox is only created after the invocation.
    assert started() - begun <= 1
    until(lambda: started() == begun + 1)
    assert {second.invoke()["cold_start"] for _ in range(20)} == {False}
    assert started() == begun + 1


LIMITS = "cat /proc/self/cgroup >/dev/null; python3 -c 'x = bytearray({mib} << 20); print(len(x))'"


def test_it_has_the_limits_of_its_version(shared: Server) -> None:
    shared.deploy("echo first").invoke()
    filled(shared)
    small = shared.run(LIMITS.format(mib=300))
    assert small["status"] == "oom"
    filled(shared)
    large = shared.run(LIMITS.format(mib=300), memory_limit_mb=512)
    assert large["stdout"] == f"{300 << 20}\n"
    filled(shared)
    for percent in (10, 50):
        assert percent not in shared.cpu_percents().values()
        function = shared.deploy("true", cpu_limit_percent=percent)
        assert function.invoke()["status"] == "success"
        assert percent in shared.cpu_percents().values()
        function.delete()
        filled(shared)


PYTHON = """
import os, sys
def handler():
    return [os.environ.get("V"), os.getcwd(), sys.flags.dev_mode]
"""


def test_a_prepared_interpreter_becomes_what_its_version_says(shared: Server) -> None:
    runtime = sample_runtimes.add(shared, "python", {"mod.py": PYTHON})
    shared.deploy("mod:handler", runtime=runtime)
    filled(shared)
    for variables, directory, expected in (
        ({"V": "1"}, None, '["1", "/app", false]'),
        ({"V": "2"}, "/tmp", '["2", "/tmp", false]'),
        # An interpreter reads these variables when it starts, so a prewarmed one cannot be used.
        ({"V": "3", "PYTHONDEVMODE": "1"}, None, '["3", "/app", true]'),
    ):
        function = shared.create(
            "mod:handler", runtime=runtime, environment=variables, working_directory=directory
        )
        function.deploy()
        assert function.invoke()["stdout"] == expected
