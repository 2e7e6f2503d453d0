"""Pages of a list: whole entries, as many as their bytes allow and at least one, and a cursor."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from quiltfn.api import parse
from quiltfn.api.route import Answer, RequestContext
from quiltfn.model.cursors import to_cursor

# Entries are made into text a piece at a time, so that others have their turn in between.
PIECE_BYTES = 256 * 1024
# Lists that had no cursor before they had pages: where all is there, they are as they were.
WHOLE_AS_A_RULE = frozenset({"versions"})
_encode = msgspec.json.Encoder().encode


def room(context: RequestContext) -> int:
    """Bytes that a page needs while it is made: what was read, its entries, and the whole."""
    return 3 * context.services.limits.page_max


def encoded(value: Any, headers: Mapping[str, str]) -> Answer:
    """An answer that is made into text at once, within the room that there is for it."""
    return Answer(value=_encode(value), headers=headers)


async def answer(
    context: RequestContext,
    name: str,
    shown: Iterable[tuple[str, Any]],
    limit: int,
    cursor: str | None = None,
) -> Answer:
    """The page of the list called `name` that begins with `shown`: entries with their ids.
    `cursor`: where it goes on behind all of them.
    """
    found: list[msgspec.Raw] = []
    size, piece, last, most = 0, 0, "", context.services.limits.page_max
    for key, entry in shown:
        text = _encode(entry)
        if len(found) == limit or (found and size + len(text) > most):
            cursor = to_cursor(last)
            break
        found.append(msgspec.Raw(text))
        size, piece, last = size + len(text), piece + len(text), key
        if piece > PIECE_BYTES:
            piece = 0
            await asyncio.sleep(0)
    page: dict[str, Any] = {name: found}
    if cursor is not None or name not in WHOLE_AS_A_RULE:
        page["next_cursor"] = cursor
    return Answer(
        value=_encode(page),
        headers=parse.next_link(context.url_path, context.query, limit, cursor),
    )
