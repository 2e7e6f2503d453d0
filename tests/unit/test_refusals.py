"""What a caller gets whose invocation a pool refuses."""

import pytest

from promises import promise
from quiltfn.model.actions import Closed, Full
from quiltfn.model.function import FunctionState
from quiltfn.pool.refusals import refusal

pytestmark = promise("A90")


@pytest.mark.parametrize("why", [*Closed, *Full])
def test_a_state_among_the_details_is_one_of_a_function(why: Closed | Full) -> None:
    state = (refusal(why, 1).details or {}).get("state")
    assert (state is not None) == (why in (Closed.PENDING, Closed.PAUSED, Closed.ERROR))
    assert state is None or state in {*FunctionState}


def test_a_call_that_waited_for_nothing_that_may_start_hears_why() -> None:
    assert str(refusal(Full.WAITED_TOO_LONG, 1, "the store is away")) == "the store is away"
