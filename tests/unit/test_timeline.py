"""The timeline of a call: its phases add up, in whatever order things happened."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.timeline import PHASES, StartTiming, Timeline, of_call

AT = st.floats(0, 100)


def test_a_warm_call_was_queued_and_ran() -> None:
    line = of_call(10.0, 10.000_012, None, ran=0.0009, recorded=0.00003)
    assert line == Timeline(None, 12, 0, 0, 900, 30)
    assert line.total == 942


FIRST = ColdStartReason.FIRST


@pytest.mark.parametrize(
    ("assigned", "began", "phases"),
    [
        (10.026, (10.001, 10.021, 10.025), (2000, 20_000, 4000)),
        # Only the time for which the call waited counts.
        (10.004, (1.0, 9.999, 10.004), (0, 0, 4000)),
        # The sandbox could not be created, and the call waited for it to the end.
        (10.5, (10.0,), (0, 500_000, 0)),
        (10.5, (10.0, 10.1), (0, 100_000, 400_000)),
    ],
)
def test_a_cold_call_waited_for_a_sandbox_and_for_its_specialisation(
    assigned: float, began: tuple[float, ...], phases: tuple[int, int, int]
) -> None:
    line = of_call(10.0, assigned, StartTiming(FIRST, *began))
    assert line == Timeline(FIRST, *phases, 0, 0)


@promise("C11")
@given(accepted=AT, wait=AT, steps=st.lists(st.floats(0, 1), min_size=1, max_size=3), ran=AT)
def test_the_phases_add_up_and_none_is_negative(
    accepted: float, wait: float, steps: list[float], ran: float
) -> None:
    """The steps of the start happened in order, before the call was handed over. Those that had not
    happened until then are missing.
    """
    handed = accepted + wait
    start_timing = StartTiming(FIRST, *(handed * step for step in sorted(steps)))
    line = of_call(accepted, handed, start_timing, ran=ran).recorded_for(0.5)
    assert abs(line.total - 1e6 * (wait + ran + 0.5)) <= 5
    assert all(getattr(line, name) >= 0 for name in PHASES)
    assert line.total == sum(getattr(line, name) for name in PHASES)


def test_it_is_kept_as_a_short_list() -> None:
    line = Timeline(ColdStartReason.SCALED_OUT, 1, 2, 3, 4, 5, 6)
    assert msgspec.json.encode(line) == b'["scaled_out",1,2,3,4,5,6]'
    of_before = msgspec.json.decode(b'["scaled_out",1,2,3,4,5]', type=Timeline)
    assert (of_before.recorded, of_before.started_ms) == (5, 0)
    assert msgspec.json.decode(msgspec.json.encode(line), type=Timeline) == line


def test_the_header_is_what_the_standard_wants() -> None:
    warm = Timeline(None, 12, 0, 0, 900, 30).server_timing()
    assert warm == (
        "queued;dur=0.012, placed;dur=0.000, specialised;dur=0.000, ran;dur=0.900, "
        "recorded;dur=0.030"
    )
    cold = Timeline(ColdStartReason.FIRST, 1, 2, 3, 4, 5).server_timing()
    assert cold.endswith(", cold;desc=first")
    for metric in cold.split(", "):
        assert re.fullmatch(r"[a-z]+(;dur=\d+\.\d{3}|;desc=[a-z_]+)", metric)
