"""Instance: the five states that the API counts, the final one, and all transitions."""

import pytest

from quiltfn.model.instance import NEXT, Instance, InstanceEvent, InstanceState
from quiltfn.model.state_machine import InvalidTransition
from unit.transition_table import check_table

TABLE = """
warming:     started > ready, stopped > terminating
parked:      unparked > ready, stopped > terminating
ready:       leased > busy, parked > parked, stopped > terminating
busy:        released > recycling, given back unused > ready, stopped > terminating
recycling:   cleaned > ready, stopped > terminating
terminating: vanished > gone
gone:
"""


def test_the_states_are_the_table_and_every_other_event_raises() -> None:
    check_table(NEXT, InstanceState, InstanceEvent, TABLE)


def test_an_instance_remembers_its_last_events_and_when_it_heard_the_last() -> None:
    instance = Instance(1, "a", since=0.0)
    for at, event in enumerate((InstanceEvent.STARTED, InstanceEvent.LEASED), start=1):
        instance.apply(event, float(at))
    assert (instance.state, instance.since) == (InstanceState.BUSY, 2.0)
    with pytest.raises(
        InvalidTransition, match="'started' cannot happen in 'busy'; before: started, l"
    ):
        instance.apply(InstanceEvent.STARTED, 3.0)
    assert instance.since == 2.0, "an event that cannot be changes nothing"
    for _ in range(50):
        for event in (InstanceEvent.UNUSED, InstanceEvent.LEASED):
            instance.apply(event, 0.0)
    assert len(instance.history) == 8
