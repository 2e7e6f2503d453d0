"""A request's body is refused once it is longer than the route allows, whether announced or not."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from quiltfn.api.http.body import read_whole
from quiltfn.model.errors import PayloadTooLarge

LIMIT = 10


def sent_in(pieces: list[int], headers: dict[str, str]) -> Any:
    """A request whose body arrives in pieces of these sizes."""

    async def chunks() -> AsyncIterator[bytes]:
        for size in pieces:
            yield b"x" * size

    return SimpleNamespace(headers=headers, chunks=chunks)


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize(("pieces", "fits"), [([10], True), ([4, 6], True), ([4, 7], False)])
async def test_a_body_may_be_as_long_as_the_limit(
    pieces: list[int], *, fits: bool, is_announced: bool
) -> None:
    """One byte less would break clients that fill a payload to its documented maximum."""
    headers = {"content-length": str(sum(pieces))} if is_announced else {}
    reserved: list[int] = []
    reading = read_whole(sent_in(pieces, headers), LIMIT, 5, reserved.append)
    if fits:
        assert len(await reading) == reserved[-1] == LIMIT
        return
    with pytest.raises(PayloadTooLarge):
        await reading
    assert sum(reserved) <= LIMIT
