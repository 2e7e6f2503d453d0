"""Servers that crash behind a proxy: the proxy keeps their connections to PostgreSQL open, so the
sessions survive and hold their locks.
"""

import time
from functools import partial

import pytest

from e2e.server import Server, until
from fleet.database_proxy import proxy_of
from fleet.nodes import Fleet
from postgresql import Cluster
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("N95")]
# Two starts must take less than the reap time.
TIMES = f"--fleet-beat-s 0.2 --fleet-fence-s 1 --fleet-end-s 2 --fleet-reap-s {scaled(8):g}"


# The states of the sessions that hold the lock of servers.
HOLDERS = """
SELECT state FROM pg_stat_activity JOIN pg_locks USING (pid)
WHERE locktype = 'advisory' AND classid = 1903520108 AND objid = 1
"""
# The names of sessions that servers have opened.
SESSIONS = """
SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'quiltfn %'
"""


def epochs_of(cluster: Cluster, node: str) -> set[int]:
    """The node's epochs of which there are sessions."""
    names = [str(row[0]).split() for row in cluster.run(SESSIONS)]
    return {int(epoch) for _, epoch, name in names if name == node}


def has_none_of(cluster: Cluster, epochs: set[int]) -> bool:
    return not epochs & epochs_of(cluster, "two")


def crash(server: Server, cluster: Cluster) -> None:
    """Kills the server while its session has no transaction: PostgreSQL would end a session with an
    open one after 3 s.
    """
    seen: list[object] = []
    for _ in range(10):
        # the start has no transaction open any more
        until(lambda: cluster.run(HOLDERS) == [("idle",)])
        server.kill_launcher()
        server.wait()
        time.sleep(0.2)
        seen.append(cluster.run(HOLDERS))
        if seen[-1] == [("idle",)]:
            return
        time.sleep(4)
        server.start()
    raise AssertionError(f"its session was always in a transaction: {seen}")


def presence(asked: Server, name: str) -> str:
    found = asked.call("GET", "/api/nodes").json()["nodes"]
    return next(str(one["presence"]) for one in found if one["name"] == name)


def test_a_node_starts_elsewhere_after_its_take_over(fleet: Fleet, cluster: Cluster) -> None:
    with proxy_of(fleet, "two", keeps_dead=True):
        second = fleet.node("two", TIMES).start()
        for _ in range(2):
            crash(second, cluster)
            left = epochs_of(cluster, "two")
            second.start()
            assert len(left) == 1
            until(partial(has_none_of, cluster, left), 10)
        crash(second, cluster)
        assert epochs_of(cluster, "two")
        first = fleet.node("one", TIMES).start()
        # Control: without the file `session`, as on another machine, the server does not know its
        # old session.
        (second.data_dir / "session").unlink()
        second.start_without_waiting()
        assert second.wait(30) == 75
        assert "A node named two is serving from this database already" in second.log.read_text()
        until(lambda: presence(first, "two") == "gone", 60)
        until(lambda: not epochs_of(cluster, "two"), 10)
        second.start()
        assert second.deploy("echo hello").invoke()["stdout"] == "hello\n"
        second.stop()
