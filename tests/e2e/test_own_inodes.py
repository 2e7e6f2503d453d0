"""No sandbox shares inodes of its files with another one or with the host.

A lock on a shared inode would be visible in other sandboxes, and would prevent others from locking
it.
"""

import fcntl
import json
import os
from collections.abc import Iterator

import pytest

from e2e import sample_runtimes
from e2e.hostile_setup import script, serving
from e2e.server import Server, short_dir, until
from e2e.weakened import Weakened
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("F37")]

# Locks each file that it can open, prints its name, and holds the locks until it is woken.
LOCK = r"""
import fcntl, json, os, subprocess
held, kept = [], []
places = ["/app", "/app/mod.py", "/.guest", "/.runners/python.py", "/.runners/shell.so"]
for top, directories, files in os.walk("/", followlinks=False):
    if top.startswith(("/proc", "/dev", "/tmp", "/usr/")):
        directories[:] = []
        continue
    places += [top, *(os.path.join(top, name) for name in files)]
for name in ("env", "sh", "python3", "ls"):
    places.append(os.path.realpath("/usr/bin/" + name))
for place in sorted(set(map(os.path.realpath, places))):
    try:
        opened = os.open(place, os.O_RDONLY)
    except OSError:
        continue
    kept.append(opened)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(place)
    except BlockingIOError:
        pass
    if len(kept) > 900: break
print(json.dumps([held, len(kept)]), flush=True)
if os.environ["HOLDS"] == "yes": subprocess.run(["sleep", "60"])
"""
HOST = ["/usr", "/usr/bin/env", "/etc/ssl", "/etc/alternatives"]


@pytest.fixture(scope="module")
def weakened() -> Iterator[tuple[Server, Weakened]]:
    with short_dir() as directory:
        runtime = Weakened(directory)
        with serving(str(runtime.path)) as server:
            yield server, runtime


def two_lockers(server: Server) -> tuple[tuple[list[str], int], tuple[list[str], int], set[str]]:
    """Runs two sandboxes at once. Returns what the first one locked, what the second one could lock
    meanwhile, and which files of HOST the host could lock.
    """
    runtime = sample_runtimes.add(server, "shell", {"mod.py": "x = 1\n"})
    first, second = (
        server.deploy(script(LOCK), runtime=runtime, environment={"HOLDS": holds})
        for holds in ("yes", "no")
    )
    call = server.later(first.invoke)
    until(lambda: server.named("sleep"))
    hosts = {place for place in HOST if can_lock(place)}
    theirs = json.loads(second.invoke()["stdout"])
    assert not call.done(), "the first one held its locks meanwhile"
    server.wake()
    mine = json.loads(call.result()["stdout"])
    for function in (first, second):
        function.delete()
    return mine, theirs, hosts


def can_lock(place: str) -> bool:
    opened = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(opened)
    return True


def test_a_lock_is_seen_by_nobody_else(weakened: tuple[Server, Weakened]) -> None:
    server, _ = weakened
    protection = server.call("GET", "/api/functions/health").json()["protections"]["inodes"]
    assert protection == "its own, by overlays"
    (mine, opened), (theirs, _), hosts = two_lockers(server)
    assert {"/", "/usr", "/app/mod.py", "/.guest", "/.runners/python.py", "/etc/passwd"} <= set(
        mine
    )
    assert len(mine) == opened > 30
    assert theirs == mine
    assert hosts == set(HOST)


def test_where_sandboxes_share_binds_it_is_seen(weakened: tuple[Server, Weakened]) -> None:
    """Negative control: if the same image is bind-mounted directly, the locks collide."""
    server, runtime = weakened
    runtime.lacks("own inodes")
    try:
        (mine, _), (theirs, _), hosts = two_lockers(server)
    finally:
        runtime.lacks("")
    assert {"/", "/usr", "/.guest"} <= set(mine)
    assert not {"/", "/usr", "/.guest", "/usr/bin/env"} & set(theirs)
    assert hosts == set()
