"""Real nodes of one fleet: what a revoked key can still do at a node that does not reach
PostgreSQL.
"""

import time
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from e2e.server import Server, quiltfn, until
from fleet.database_proxy import DatabaseProxy, proxy_of
from fleet.nodes import PASSWORD_FILE, Fleet
from promises import promise
from timeouts import full_wait

pytestmark = [pytest.mark.sandbox, promise("N94")]
FENCE_S = 3.0
TIMES = f"--fleet-beat-s 0.2 --fleet-fence-s {FENCE_S} --fleet-end-s 40 --fleet-reap-s 60"


def asks_for_a_key(node: Server) -> bool:
    return node.call("GET", "/api/whoami").status_code == 401


class CutOff:
    """Sends requests to a node that is cut off from the database, with a key that another node may
    have revoked.
    """

    def __init__(self, fleet: Fleet, proxy: DatabaseProxy) -> None:
        self.fleet, self.proxy = fleet, proxy
        self.first = fleet.node("one", TIMES).start()
        self.second = fleet.node("two", TIMES).start()
        self.operator = self.key("operator")
        for node in (self.first, self.second):
            until(partial(asks_for_a_key, node))
            node.headers["x-api-key"] = node.http.headers["x-api-key"] = self.operator
        self.function = self.second.deploy("echo hello", name="f", max_instances=2)

    def key(self, scope: str) -> str:
        secret = ("--store-password-file", str(self.fleet.directory / PASSWORD_FILE))
        where = ("--store", self.fleet.url, *secret)
        made = quiltfn("keys", "create", "--tenant", "default", "--scope", scope, *where)
        assert made.code == 0, made.stderr
        return made.stdout.strip()

    def invoke(self, key: str, node: Server | None = None) -> httpx.Response:
        url = f"{(node or self.second).url}{self.function.path}/invoke"
        return httpx.post(url, json={}, headers={"x-api-key": key}, timeout=30, trust_env=False)


@pytest.fixture
def cut_off(fleet: Fleet) -> Iterator[CutOff]:
    with proxy_of(fleet, "two") as proxy:
        it = CutOff(fleet, proxy)
        yield it
        it.second.stop()  # the server must end before its proxy


def test_a_revoked_key_opens_no_node_that_is_cut_off_from_postgresql(cut_off: CutOff) -> None:
    key, kept = cut_off.key("invoke"), cut_off.key("invoke")
    assert cut_off.invoke(key).status_code == cut_off.invoke(kept).status_code == 200
    cut_off.proxy.cut()
    assert cut_off.invoke(key).status_code == 200
    prefix = key.split("_")[2]
    keys = cut_off.first.call("GET", "/api/keys").json()["keys"]
    [found] = [one["id"] for one in keys if prefix in one["prefix"]]
    revoked = cut_off.first.call("DELETE", f"/api/keys/{found}")
    assert revoked.status_code in (200, 204), revoked.text
    until(lambda: cut_off.invoke(key).status_code == 401, 10)
    time.sleep(full_wait(FENCE_S))
    # The other node confirms the key `kept`, which was not revoked, all the time.
    assert (cut_off.invoke(key).status_code, cut_off.invoke(kept).status_code) == (401, 200)
    cut_off.proxy.heal()
    time.sleep(full_wait(2))
    assert (cut_off.invoke(key).status_code, cut_off.invoke(kept).status_code) == (401, 200)


@promise("N98")
def test_a_node_cut_off_runs_nothing_of_a_tenant_that_is_disabled(cut_off: CutOff) -> None:
    key, first, second = cut_off.key("invoke"), cut_off.first, cut_off.second
    assert second.call("PUT", f"{cut_off.function.path}/url", {"auth": "none"}).status_code == 200

    def at_its_url() -> int:
        url = f"{second.url}/fn/default/f"
        return httpx.get(url, timeout=30, trust_env=False).status_code

    assert (cut_off.invoke(key).status_code, at_its_url()) == (200, 200)
    slow = second.deploy("sleep 60", name="slow", timeout_seconds=100)
    running = second.later(slow.try_invoke)
    until(lambda: slow.pool()["busy_count"] == 1, 10)
    cut_off.proxy.cut()
    assert first.call("POST", "/api/tenants/default/disable").status_code == 200
    until(lambda: (cut_off.invoke(key).status_code, at_its_url()) == (403, 503), 10)
    ended = running.result(timeout=full_wait(10)).json()
    assert (ended["status"], ended["execution_node_id"]) == ("cancelled", "two")
    assert first.call("POST", "/api/tenants/default/enable").status_code == 200
    cut_off.proxy.heal()
    until(lambda: (cut_off.invoke(key).status_code, at_its_url()) == (200, 200), 20)
