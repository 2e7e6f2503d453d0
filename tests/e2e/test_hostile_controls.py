"""Negative controls: without a protection, the test of its attack fails; and the oracle finds
planted changes. Numbers such as B9 are cases in security_cases.py.
"""

import ctypes
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e import oracle
from e2e.hostile_setup import Meter, script, serving
from e2e.server import Server, short_dir, status_of, until
from e2e.test_fence import PROBE as WHO
from e2e.test_fence import TRIES, fence, sections
from e2e.test_hostile_handlers import BOMBS, FILL, PIDS_SEEN_MAX
from e2e.test_hostile_handlers import PROBE as DOORS
from e2e.test_hostile_sharing import TAKE
from e2e.weakened import Weakened
from promises import promise
from timeouts import full_wait

pytestmark = pytest.mark.sandbox


# System calls in `closed_doors.py` that only the seccomp filter prevents.
WITHOUT_A_FILTER = {
    *("call setsockopt socket 26", "call setsockopt socket 26, upper half"),
    *(
        "call fcntl F_SETSIG",
        "call fcntl F_NOTIFY",
        "call fadvise64 DONTNEED",
        "call preadv2 8",
        "call madvise 12",
    ),
    *("call netlink 15", "call prctl seccomp", "call openat2", "call sendto MSG_OOB"),
}


@dataclass
class WeakenedServer:
    server: Server
    runtime: Weakened

    def run(self, lacks: str, handler: str, **fields: Any) -> dict[str, Any]:
        self.runtime.lacks(lacks)
        try:
            record = self.server.run(handler, timeout_seconds=20, **fields)
        finally:
            self.runtime.lacks("")
        assert record["status"] == "success", record
        return record


@pytest.fixture(scope="module")
def box() -> Iterator[WeakenedServer]:
    with short_dir() as directory:
        runtime = Weakened(directory)
        with serving(str(runtime.path)) as server:
            yield WeakenedServer(server, runtime)


def tries(box: WeakenedServer, lacks: str) -> set[str]:
    """Attempts of `forbidden.py` that succeed without this protection."""
    record = box.run(lacks, script(TRIES), environment={"PORT": "9"})
    return {name for name, code in json.loads(record["stdout"]).items() if code == 0}


def test_the_whole_fence_fails_no_case(box: WeakenedServer) -> None:
    assert tries(box, "") == set()


@promise("F22")
def test_without_the_filter_forbidden_calls_succeed(box: WeakenedServer) -> None:
    """Control of cases B9 and B22: system calls that must be refused."""
    opened = tries(box, "seccomp")
    assert {"unshare user", "clone user", "AF_ALG", "keyctl"} & opened
    doors = json.loads(box.run("seccomp", script(DOORS))["stdout"])
    opened = {name for name, how in doors.items() if how == "open"}
    assert opened >= WITHOUT_A_FILTER, WITHOUT_A_FILTER - opened
    taken = json.loads(box.run("seccomp", script(TAKE), environment={"HOLDS": "no"})["stdout"])
    assert taken["inotify"][0] > 0
    assert taken["asynchronous I/O"][0] > 0
    # control of case B1
    assert fence(sections(box.run("seccomp", WHO)["stdout"]))["seccomp"] == "0"


def test_without_a_limit_of_processes_a_bomb_grows_beyond_it(box: WeakenedServer) -> None:
    """Control of case B2: too many processes."""
    box.runtime.lacks("pids")
    function = box.server.deploy(BOMBS["vfork"], timeout_seconds=round(full_wait(5)))
    with Meter(box.server) as meter:
        call = box.server.later(function.try_invoke)
        until(lambda: meter.pids > PIDS_SEEN_MAX, 5)
        function.delete()  # deleting the function ends its invocation
        call.result()
    box.runtime.lacks("")


def test_without_masks_secrets_of_the_kernel_are_read(box: WeakenedServer) -> None:
    """Control of cases B10 and B15: files of /proc that must be hidden."""
    assert "interrupts" in tries(box, "masks")


def test_without_uids_of_their_own_two_sandboxes_are_one_user(box: WeakenedServer) -> None:
    """Control of cases B1 and C8: each sandbox has its own uid."""
    server = box.server
    box.runtime.lacks("own uids")
    function = server.deploy(f"exec sleep {full_wait(1)}", max_instances=2)
    calls = [server.later(function.invoke) for _ in range(2)]
    pids = until(lambda: [] if len(server.named("sleep")) < 2 else server.named("sleep"))
    uids = {status_of(pid)["Uid"] for pid in pids}
    box.runtime.lacks("")
    assert len(uids) == 1
    for call in calls:
        call.result()
    function.delete()


def test_with_a_handler_of_the_guests_own_user_the_guest_is_in_reach(box: WeakenedServer) -> None:
    """Control of cases B1 and B17: the guest is out of the handler's reach."""
    box.runtime.lacks("another uid for handlers")
    function = box.server.deploy(script(TRIES), environment={"PORT": "9"})
    answer = function.try_invoke()
    # The handler has lowered the guest's limits, so usually the sandbox ends before the invocation.
    if answer.status_code == 200:
        taken = {name for name, code in json.loads(answer.json()["stdout"]).items() if code == 0}
        assert {"signal pid 1", "limits of pid 1"} <= taken
    else:
        assert answer.json()["error_code"] == "RUNTIME_UNAVAILABLE"
    function.delete()
    seen = fence(sections(box.run("another uid for handlers", WHO)["stdout"]))
    assert seen["uid"] == {0}


def test_with_large_file_systems_a_disk_is_filled_beyond_its_cap(box: WeakenedServer) -> None:
    """Control of case B4: a full disk."""
    only = {"environment": {"PLACES": "/tmp"}, "memory_limit_mb": 1024}
    result = json.loads(box.run("small file systems", script(FILL), **only)["stdout"])
    assert result["/tmp"][0] > 512 << 20


# The oracle's own controls --------------------------------------------------------------------


def test_the_oracle_finds_what_is_planted(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    with oracle.canaries(tmp_path) as planted:
        before = oracle.look(planted)
        assert oracle.difference(before, before) == []
        (canary,) = planted
        canary.write_text("changed")
        left = Path("/tmp") / f"{canary.name}-left"
        left.write_text("of a sandbox")
        os.chown(left, 0x7100_0000 + 1000, -1)
        memory = libc.shmget(0, 4096, 0o1600)
        try:
            found = "\n".join(oracle.difference(before, oracle.look(planted)))
        finally:
            left.unlink()
            libc.shmctl(memory, 0, None)
    assert str(canary) in found
    assert "files of sandboxes" in found
    assert "System V shm" in found
