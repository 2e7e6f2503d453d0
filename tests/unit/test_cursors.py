"""Cursors of pages: the only codec for them, and the header with the next page's address."""

import base64
import uuid

import pytest

from quiltfn.api.http.parse import next_link
from quiltfn.model.cursors import AFTER_EVERY_ID, BEFORE_EVERY_ID, first_id, from_cursor, to_cursor
from quiltfn.model.errors import Unprocessable

ID = "0192f3a4-5b6c-7d8e-9f01-23456789abcd"


def test_a_cursor_comes_back_as_the_id_that_it_was_made_of() -> None:
    cursor = to_cursor(ID)
    assert ID not in cursor
    assert from_cursor(cursor, BEFORE_EVERY_ID) == from_cursor(cursor, AFTER_EVERY_ID) == ID
    assert from_cursor(None, BEFORE_EVERY_ID) < ID < from_cursor(None, AFTER_EVERY_ID)


@pytest.mark.parametrize(
    "text",
    ["", "x", "x" * 48, "ä", "\ud800", ID, to_cursor(ID) + "A", to_cursor(ID)[:-1]]
    + [to_cursor(one) for one in ("", "a", ID.upper(), ID + "\n", "g")]
    + [base64.urlsafe_b64encode(b"\xff" * 36).decode()],
)
@pytest.mark.parametrize("start", [BEFORE_EVERY_ID, AFTER_EVERY_ID])
def test_what_no_page_gave_is_refused(text: str, start: str) -> None:
    with pytest.raises(Unprocessable, match="cursor"):
        from_cursor(text, start)


def test_the_first_id_of_a_second_sorts_between_those_before_and_those_of_it() -> None:
    for second in (0, 1, 1_760_000_000, 2**33):
        before, of_it = (
            f"{one:012x}7fffbfff{'f' * 12}" for one in (second * 1000 - 1, second * 1000)
        )
        if second:
            assert dashed(before) < first_id(second)
        assert first_id(second) < dashed(of_it)


def dashed(digits: str) -> str:
    return str(uuid.UUID(hex=digits))


def test_the_next_page_is_one_of_the_same_query() -> None:
    asked = {"limit": "9", "cursor": "old", "state": "active", "cluster_id": "a b"}
    link = '</x?limit=2&cursor=new&state=active&cluster_id=a+b>; rel="next"'
    assert next_link("/x", asked, 2, "new") == {"link": link}
    assert next_link("/x", asked, 2, None) == {}
