"""Room for what is long: who gets it, who waits, and that all of it comes back."""

import asyncio

import pytest

from quiltfn.api import rooms
from quiltfn.api.rooms import SHORT_BYTES, SPARE_BYTES, AnswerRoom, BodyRoom, OutputRoom, UploadRoom
from quiltfn.model.errors import CapacityFull


def test_bodies_of_calls_leave_room_for_others() -> None:
    room = BodyRoom(100)
    room.take(100, is_call=True)
    with pytest.raises(CapacityFull):
        room.take(1, is_call=True)
    room.take(SHORT_BYTES, is_call=False)
    with pytest.raises(CapacityFull):
        room.take(SPARE_BYTES, is_call=False)
    room.give_back(100 + SHORT_BYTES)
    assert room.held == 0


async def test_a_long_answer_waits_for_those_before_it() -> None:
    room, order = AnswerRoom(100), []

    async def answer(name: str, size: int) -> None:
        async with room.making(size):
            order.append(name)
            await asyncio.sleep(0.01)

    await asyncio.gather(answer("a", 60), answer("b", 60), answer("c", 10), answer("d", 500))
    assert order == ["a", "b", "c", "d"]  # none overtakes, and the longest comes to its turn


async def test_what_nobody_reads_keeps_the_next_from_being_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "ANSWER_WAIT_S", 0.05)
    room = AnswerRoom(100)
    room.sent(90)
    with pytest.raises(CapacityFull):
        async with room.making(20):
            pass
    assert not room.is_wanted
    waits = asyncio.ensure_future(room.making(20).__aenter__())
    await asyncio.sleep(0.01)
    assert room.is_wanted
    room.sent(-90)
    await waits


def test_long_output_goes_in_turns_and_gives_its_place_back() -> None:
    room, told = OutputRoom(1), []
    with room.call() as first:
        assert first.take(lambda: told.append("first"))
        with room.call() as gave_up, room.call() as second, room.call():
            assert not gave_up.take(lambda: told.append("gave up"))
            assert not second.take(lambda: told.append("second"))
            gave_up.__exit__()
            assert told == []
            first.__exit__()
            assert told == ["second"]
    with room.call() as last:
        assert last.take(lambda: None)


def test_images_arrive_a_few_at_a_time() -> None:
    room = UploadRoom(1)
    with room, pytest.raises(CapacityFull), room:
        pass
    with room:
        pass
