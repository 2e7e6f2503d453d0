"""A wall clock that jumps: `model/trusted_time.py`, the system clock, and the order of ids."""

import pytest

from promises import promise
from quiltfn.base import ids
from quiltfn.base.clock import SystemClock
from quiltfn.model.trusted_time import EVEN_S, STAND_S, ClockState, TrustedTime
from quiltfn.ports import ClockReading

pytestmark = promise("D11")

HOUR_S, DAY_S = 3600.0, 86_400.0
NOW = 1_760_000_000.0


class JumpingClock(SystemClock):
    """A machine whose wall clock a test sets. `pass_time` advances in steps, since a server reads
    the clock again and again.
    """

    def __init__(self, boot: str = "boot-1", ran_s: float = 5000.0, wall: float = NOW) -> None:
        self.ran_s, self.awake_s, self.wall = ran_s, ran_s, wall
        self._boot_id = boot
        self.resume(None)

    def now(self) -> float:
        return self.awake_s

    def unix(self) -> float:
        return self.wall

    def _ran(self) -> float:  # type: ignore[override]
        return self.ran_s

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            step = min(15.0, seconds)
            seconds -= step
            self.ran_s, self.awake_s, self.wall = (
                self.ran_s + step,
                self.awake_s + step,
                self.wall + step,
            )
            self.observe()

    def sleep(self, seconds: float) -> None:
        """Suspend the whole machine: only its time awake stands still."""
        self.ran_s += seconds
        self.wall += seconds


def test_ten_days_forward_and_back_are_not_followed_and_make_nothing_older() -> None:
    clock = JumpingClock()
    clock.wall -= 2 * DAY_S
    assert clock.timestamp() == clock.trusted() == NOW
    clock.wall += 5 * DAY_S
    assert clock.timestamp() == NOW + 3 * DAY_S
    clock.wall += 7 * DAY_S
    clock.pass_time(HOUR_S - 60)
    assert clock.trusted() == NOW + HOUR_S - 60
    assert clock.jump_s == 10 * DAY_S
    clock.wall -= 10 * DAY_S
    clock.pass_time(2 * HOUR_S)
    assert clock.trusted() == clock.unix()
    assert clock.jump_s == 0


@pytest.mark.parametrize("jump_s", [10 * DAY_S, 600.0, -600.0, -10 * DAY_S])
def test_a_jump_that_has_stood_for_an_hour_is_followed(jump_s: float) -> None:
    clock = JumpingClock()
    clock.wall += jump_s
    clock.pass_time(HOUR_S)
    assert clock.trusted() == NOW + HOUR_S
    clock.pass_time(30)
    assert clock.trusted() == clock.unix() == NOW + jump_s + HOUR_S + 30


def test_a_clock_that_jumps_again_and_again_is_not_followed() -> None:
    clock = JumpingClock()
    for _ in range(40):
        clock.wall += HOUR_S
        clock.pass_time(HOUR_S - 60)
    assert clock.trusted() == NOW + 40 * (HOUR_S - 60)


def test_a_clock_that_is_slewed_is_followed() -> None:
    clock = JumpingClock()
    for _ in range(48):
        clock.pass_time(HOUR_S / 2)
        clock.wall += 5  # more than ntpd or chronyd would slew
    assert abs(clock.trusted() - clock.unix()) < EVEN_S


def test_a_machine_that_was_suspended_has_not_jumped() -> None:
    clock = JumpingClock()
    clock.sleep(10 * DAY_S)
    clock.pass_time(15)
    assert clock.jump_s == 0
    assert clock.trusted() == NOW + 10 * DAY_S + 15


def test_the_hour_of_a_jump_does_not_pass_while_nobody_could_put_it_right() -> None:
    clock = JumpingClock()
    clock.wall += 10 * DAY_S
    clock.pass_time(60)
    clock.sleep(DAY_S)
    clock.pass_time(60)
    assert clock.trusted() == NOW + DAY_S + 120


def test_a_restart_of_the_server_goes_on_with_what_was_believed() -> None:
    clock = JumpingClock()
    state = clock.state()
    assert state == ClockState(boot_id="boot-1", offset_s=NOW - 5000.0, settled_at=int(NOW))
    trusted = TrustedTime.resumed(state, "boot-1", 6000.0, NOW, 1.0)
    assert (trusted.believed, STAND_S) == (NOW - 5000.0, HOUR_S)
    clock.wall += 10 * DAY_S
    clock.pass_time(HOUR_S / 2)
    again = JumpingClock(ran_s=clock.ran_s + 20, wall=clock.wall + 20)
    again.resume(state)
    assert again.trusted() == NOW + HOUR_S / 2 + 20
    again.pass_time(HOUR_S - 60)  # a restart begins a new hour
    assert again.trusted() == NOW + 1.5 * HOUR_S - 40
    again.pass_time(120)
    assert again.trusted() == again.unix()


@pytest.mark.parametrize("off_s", [60.0, 30 * DAY_S, -30 * DAY_S])
def test_after_a_restart_of_the_machine_time_goes_on_from_where_it_was(off_s: float) -> None:
    state = JumpingClock().state()
    again = JumpingClock(boot="boot-2", ran_s=12.0, wall=NOW + off_s)
    again.resume(state)
    assert again.trusted() == NOW
    assert again.timestamp() == max(NOW, NOW + off_s)
    again.pass_time(HOUR_S + 15)
    assert again.trusted() == again.unix() == NOW + off_s + HOUR_S + 15


def test_the_real_clock_tells_the_same_time_in_all_ways() -> None:
    clock = SystemClock()
    assert abs(clock.trusted() - clock.unix()) < 1
    assert abs(clock.timestamp() - clock.unix()) < 1
    assert not clock.observe()


# Ids -----------------------------------------------------------------------------------------


@pytest.fixture
def fresh_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget all ids, as in a new process."""
    monkeypatch.setattr(ids, "_millisecond", 0)
    monkeypatch.setattr(ids, "_count", 0)


@promise("D12")
@pytest.mark.usefixtures("fresh_ids")
def test_ids_go_on_behind_those_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "unix_ms", lambda: int(NOW * 1000))
    last = ids.new_id()
    for name in ("_millisecond", "_count"):
        monkeypatch.setattr(ids, name, 0)
    monkeypatch.setattr(ids, "unix_ms", lambda: int((NOW - HOUR_S) * 1000))
    ids.continue_behind(last)
    made = [ids.new_id() for _ in range(10_000)]
    assert [last, *made] == sorted([last, *made])
    monkeypatch.setattr(ids, "unix_ms", lambda: int((NOW + 60) * 1000))
    assert ids.new_id() > made[-1]


@pytest.mark.usefixtures("fresh_ids")
def test_an_old_id_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "unix_ms", lambda: int(NOW * 1000))
    ids.new_id()
    ids.continue_behind("01800000-0000-7000-8000-000000000000")
    assert ids._millisecond == int(NOW * 1000)


@promise("N25")
def test_a_clock_that_goes_by_another_machine_s_is_not_moved_by_its_own() -> None:
    clock, wall = SystemClock(), [1_000_000.0]
    clock._wall = lambda: wall[0]

    def reading(unix_s: float, error_s: float = 0.001) -> ClockReading:
        return ClockReading(unix_s=unix_s, at=clock.now(), error_s=error_s)

    clock.go_by(reading(5_000_000.0))
    clock.resume(None)
    wall[0] += 86_400
    for shown in (clock.unix(), clock.trusted(), clock.timestamp()):
        assert shown == pytest.approx(5_000_000.0, abs=1)
    assert clock.jump_s == 0.0
    before = clock.unix()
    # The possible error of this reading is larger than the difference.
    clock.go_by(reading(5_000_000.3, error_s=0.5))
    assert clock.unix() == pytest.approx(before, abs=0.1)
    clock.go_by(reading(5_000_002.0))
    assert clock.unix() == pytest.approx(5_000_002.0, abs=0.1)
