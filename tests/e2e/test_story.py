"""The stories of `service.story_machine` on a real server with real sandboxes."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from e2e.story_real import RealStories
from service.story_machine import ON_REAL

pytestmark = pytest.mark.sandbox


def test_every_story_keeps_the_promises() -> None:
    run_state_machine_as_test(RealStories, settings=settings(ON_REAL, max_examples=10))
