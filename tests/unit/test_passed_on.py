"""Streamed request bodies: how slow a sender may be."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from quiltfn.api.http.connections import LEAST_PROGRESS
from quiltfn.api.http.passed_on import PassedOnBody, bounded
from quiltfn.model.errors import BadRequest, PayloadTooLarge
from quiltfn.ports.streamed_body import BodyCut
from timeouts import full_wait

TIMEOUT_S = full_wait(0.3)
# TIMEOUT_S is many times as long.
SHORT_S = full_wait(0.02)


class Sender:
    """Replaces a request whose body arrives in pieces, with a wait before each."""

    headers: dict[str, str] = {"transfer-encoding": "chunked"}  # noqa: RUF012

    def __init__(self, pieces: Sequence[bytes], wait_s: float) -> None:
        self.pieces, self.wait_s = pieces, wait_s

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            await asyncio.sleep(self.wait_s)
            yield piece


async def received(sender: Sender, reads_for_s: float = 0, limit: int = 1 << 30) -> int:
    size = 0
    async for piece in bounded(cast("Any", sender), limit, TIMEOUT_S):
        size += len(piece)
        await asyncio.sleep(reads_for_s)
    return size


async def test_a_sender_that_trickles_is_given_up_in_the_time_of_a_short_body() -> None:
    """The call that reads the body learns why it ends."""
    began = asyncio.get_running_loop().time()
    body = PassedOnBody(cast("Any", Sender([b"x"] * 500, SHORT_S)), 1 << 20, TIMEOUT_S)
    with pytest.raises(BodyCut, match=r"only [0-9]+ bytes of the body arrived within"):
        async for _ in body.pieces():
            pass
    assert isinstance(body.error, BadRequest)
    assert asyncio.get_running_loop().time() - began < 500 * SHORT_S / 2


async def test_a_slow_sender_that_makes_progress_may_take_long() -> None:
    pieces = [b"x" * (LEAST_PROGRESS // 4)] * 60  # these take several times the timeout
    assert await received(Sender(pieces, SHORT_S)) == 15 * LEAST_PROGRESS
    # The time that the reader takes must not count as the sender's.
    assert await received(Sender([b"x"] * 30, 0), reads_for_s=2 * SHORT_S) == 30


async def test_silence_and_length_are_told_as_before() -> None:
    with pytest.raises(BadRequest, match=r"^nothing more of the body arrived within"):
        await received(Sender([b"x", b"y"], 2 * TIMEOUT_S))
    with pytest.raises(PayloadTooLarge):
        await received(Sender([b"x" * 11], 0), limit=10)
