"""A tenant's quota of instances on a real server: the number of instances, and who gets errors."""

from __future__ import annotations

import pytest

from e2e.server import watched
from promises import promise
from spec.api_client import Api, make_key, new_name, of

pytestmark = [pytest.mark.sandbox, promise("A32")]
QUOTA = 3


def test_one_tenant_cannot_take_the_machine() -> None:
    """No sandboxes are prewarmed, so all of them are instances."""
    with watched(f"--tenant-instances {QUOTA} --prewarmed 0") as server:
        made = [make_key(server, "--tenant", one, "--scope", "write") for one in "ab"]
        server.start()
        acme, umbrella = (Api(server.url, one["key"]) for one in made)
        kept = [acme.active(min_instances=1) for _ in range(QUOTA)]
        assert len(server.guests()) == QUOTA
        # A deployment and a scaling target beyond the quota are refused with a reason.
        state = acme.good("POST", f"{of(acme.create())}/deploy")
        assert state["state"] == "error"
        assert str(state["error_message"]).startswith("the tenant has 3 instances, its quota")
        body = {"name": new_name(), "handler": "true", "min_instances": QUOTA + 1}
        error = acme.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/functions", body)
        assert error["error"].startswith("min_instances must be at most 3")
        assert acme.invoke(kept[0])["stdout"] == "hello\n"
        assert len(server.guests()) == QUOTA
        # Another tenant has a quota of its own.
        assert umbrella.invoke(umbrella.active())["status"] == "success"
        assert len(server.guests()) == QUOTA + 1
