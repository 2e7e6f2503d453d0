"""Every control is within reach even if names have the maximum length."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.layout import misfits
from e2e.server import Function, Server
from promises import promise
from quiltfn.sdk import AliasShare, Client, NewDestination

pytestmark = promise("A52")

LONG = "x" * 63
SECTIONS = (
    "",
    "/settings",
    "/versions?from=1&to=2",
    "/scaling",
    "/async",
    "/schedules",
    "/network",
)


@pytest.fixture
def long_names(site: Server, deployed: Callable[..., Function]) -> Function:
    """A function with a name of the maximum length, and objects with such names."""
    other = deployed("true", name=f"o{LONG}")
    function = deployed(f"echo {LONG * 4} >&2; exit 1", name=f"f{LONG}", description="W" * 1024)
    with Client(site.url) as client:
        functions, name = client.functions, f"f{LONG}"
        failing = NewDestination(function=f"o{LONG}")
        functions.set_async_policy(name, max_attempts=1, on_failure=failing)
        record = functions.submit(name, "")
        functions.wait(name, record.invocation_id)
        functions.update(name, memory_limit_mb=301)
        functions.set_alias(name, f"b{LONG[:31]}", version=2)
        functions.rollback(name, 1)  # the page says that the alias was rolled back
        functions.update(name, environment={LONG.upper(): LONG}, memory_limit_mb=300)
        functions.set_alias(
            name, f"a{LONG[:31]}", version=1, also=AliasShare(version=2, weight=0.5)
        )
        functions.set_url(name, auth="key")
        client.schedules.create(name=f"s{LONG}", function=name, cron="0 3 * * *")
    assert other
    return function


def test_long_names_keep_controls_in_reach(page: Page, site: Server, long_names: Function) -> None:
    found: list[str] = []
    for path in (
        *(f"functions/{long_names.id}/{section}" for section in SECTIONS),
        *(f"functions/?q={LONG}", "invocations", "schedules", f"schedules/s{LONG}", "audit"),
    ):
        page.goto(f"/ui/#/{path}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator("main :is(.card, .empty)").first).to_be_visible()
        found += [f"{path}: {misfit}" for misfit in misfits(page)]
    site.call("DELETE", f"/api/schedules/s{LONG}")
    assert found == [], "\n".join(found)
