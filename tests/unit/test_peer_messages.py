"""Messages between nodes may contain more than this version knows, if the sender is newer."""

import msgspec
import pytest

from promises import promise
from quiltfn.fleet.watching import EventLine, Subscription
from quiltfn.model.counts import PoolCounts
from quiltfn.model.forwarded import ForwardedAnswer, ForwardedCall
from quiltfn.model.member import Report
from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.tenant_load import TenantLoad

pytestmark = promise("N83")

POOL = '["f", 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, "new"]'


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (POOL, PoolLoad("f", 1, idle=2)),
        (
            f'{{"running": 1, "pools": [{POOL}], "tenants": [["t", 1, 2, 3.0, "new"]], "new": 1}}',
            Report(running=1, pools=[PoolLoad("f", 1, 2)], tenants=[TenantLoad("t", 1, 2, 3.0)]),
        ),
        ('{"ready": 1, "new": 2}', PoolCounts(ready=1)),
        ('{"client": "c", "version": 2, "new": []}', ForwardedCall(client="c", version=2)),
        (
            f'{{"executed": false, "load": {POOL}, "new": {{}}}}',
            ForwardedAnswer(executed=False, load=PoolLoad("f", 1, 2)),
        ),
        ('{"tenants": {"t": null}, "new": 1}', Subscription({"t": None})),
        ('["t", "1", "x", {}, "new"]', EventLine("t", "1", "x")),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_a_newer_node_says_besides_is_passed_over(said: str, heard: object) -> None:
    assert msgspec.json.decode(said, type=type(heard)) == heard
