"""The stories of `service.story_machine` on a real server with real sandboxes; with --fleet, on
three nodes of a fleet.
"""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from e2e.story_real import FleetStories, RealStories
from promises import promise
from service.story_machine import ON_REAL

pytestmark = [pytest.mark.sandbox, promise("P15", "N26")]


def test_every_story_keeps_the_promises(request: pytest.FixtureRequest) -> None:
    stories = FleetStories if request.config.getoption("--fleet") else RealStories
    run_state_machine_as_test(stories, settings=settings(ON_REAL, max_examples=6))
