"""`quiltfn doctor --fleet FILE` with real nodes and their database."""

import json
import os
import signal
import tomllib
from pathlib import Path
from typing import Any

import psycopg
import pytest

from e2e.server import quiltfn, until
from fleet.nodes import Fleet
from postgresql import PASSWORD, Cluster
from promises import promise
from quiltfn.operator.fleet_doctor import CONNECTIONS_OF_NODE

pytestmark = [pytest.mark.sandbox, promise("N63")]
OF_A_FLEET = (
    *("fleet_file", "certificate", "store", "latency", "schema", "role", "synced", "failover"),
    *("connections", "clock", "node", "version", "times", "peer_port"),
)


def examined(path: Path, *options: str, **how: Any) -> tuple[int, dict[str, Any]]:
    """Runs the doctor; returns its exit code, and its findings by name."""
    done = quiltfn("doctor", "--fleet", str(path), "--output", "json", *options, **how)
    assert PASSWORD not in done.stdout + done.stderr
    # the output must not have keys or certificates of the file
    own = tomllib.loads(path.read_text())
    for field in ("signing_key", "ca_certificate", "certificate", "key"):
        long = [line for line in own[field].splitlines() if len(line) > 50]
        assert long, field
        assert not [line for line in long if line in done.stdout + done.stderr], field
    return done.code, {one["name"]: one for one in json.loads(done.stdout)["findings"]}


def test_the_doctor_examines_node_and_fleet(fleet: Fleet, cluster: Cluster, tmp_path: Path) -> None:
    first, second = fleet.node("one"), fleet.node("two").start()
    file = tmp_path / "one.toml"
    code, found = examined(file)
    assert [name for name in found if name in OF_A_FLEET] == list(OF_A_FLEET)
    assert code == 0, found
    assert found["node"]["sentence"] == "node one has not been started yet"
    assert found["peer_two"]["level"] == "warn"  # node two does not know this node yet
    first.start()
    until(lambda: examined(file)[1]["peer_two"]["level"] == "ok")
    code, found = examined(file, own_process=True)
    expected = {"synced": "warn"}  # the PostgreSQL of the tests runs without syncs
    for name in (*OF_A_FLEET, "peer_two"):
        assert found[name]["level"] == expected.get(name, "ok"), found[name]
    assert found["node"]["sentence"] == "node one is ready, present"
    with psycopg.connect(cluster.admin_url()) as admin:
        name = fleet.url.rpartition("/")[2]
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        row = admin.execute(query, [name]).fetchone()
    assert row is not None
    assert 0 < row[0] <= 2 * CONNECTIONS_OF_NODE
    os.kill(second.pid, signal.SIGSTOP)
    try:
        found = examined(file)[1]
    finally:
        os.kill(second.pid, signal.SIGCONT)
    assert found["peer_two"]["level"] == "warn"
    assert "no answer within 2 s" in found["peer_two"]["sentence"]
    settings = tmp_path / "quiltfn.toml"
    settings.write_text("fleet_reap_s = 200\n")
    found = examined(file, "--config", str(settings))[1]
    assert found["times"]["level"] == "warn"
    assert "two has 2 10 60 100" in found["times"]["sentence"]
    assert first.call("DELETE", "/api/nodes/two").status_code == 204
    assert second.wait() != 0
    code, found = examined(tmp_path / "two.toml")
    assert (code, found["node"]["level"]) == (1, "NO")
    assert "was removed" in found["node"]["sentence"]


def test_the_doctor_refuses_another_fleet_s_node(fleet: Fleet) -> None:
    path = fleet.add("one")
    other = path.with_name("other.toml")
    own = next(line for line in path.read_text().splitlines() if line.startswith("fleet_id"))
    other.write_text(path.read_text().replace(own, f'fleet_id = "{"0" * 32}"'))
    other.chmod(0o600)
    code, found = examined(other)
    assert (code, found["store"]["level"]) == (1, "NO")
    assert "another fleet's" in found["store"]["sentence"]
    assert "peer_port" in found
