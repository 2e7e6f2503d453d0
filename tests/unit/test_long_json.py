"""Long texts are encoded like short ones, but others get a turn before each slice."""

import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltfn.api.http import long_json
from quiltfn.api.http.long_json import JsonList, WithTexts, write
from quiltfn.api.http.response import encode
from quiltfn.api.http.text_size import PIECE_BYTES

OUTPUTS = st.lists(st.sampled_from([b"\0", b"x", b'"', b"\xff", "é中😀".encode(), b"\xf0\x9f"]))


class Counted:
    """Counts the bytes that are encoded between two turns of other tasks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._since = 0
        monkeypatch.setattr(long_json, "encode", self._encode)

    async def turn(self) -> None:
        self._since = 0

    def _encode(self, value: Any) -> bytes:
        text = encode(value)
        self._since += len(text)
        self.most = max(self.most, self._since)
        return text


async def turn() -> None:
    pass


def an_object(out: bytes, error: bytes) -> WithTexts:
    return WithTexts(
        {"a": 'x "out":""', "out": "", "error": "", "z": [1]}, {"out": out, "error": error}
    )


@given(OUTPUTS, OUTPUTS)
async def test_it_is_the_json_of_the_whole(out: list[bytes], error: list[bytes]) -> None:
    filler = b"x" * (PIECE_BYTES - 5)  # so slices end within characters
    long_out, other = filler + b"".join(out), filler + b"".join(error)
    written = io.BytesIO()
    await write(written, an_object(long_out, other), turn)
    texts = {"out": long_out.decode("utf-8", "replace"), "error": other.decode("utf-8", "replace")}
    assert msgspec.json.decode(written.getvalue()) == {"a": 'x "out":""', **texts, "z": [1]}
    assert written.getvalue() == encode({"a": 'x "out":""', **texts, "z": [1]})


@pytest.mark.parametrize("byte", [b"\0", b"\xff", b'"', b"x"])
async def test_others_have_turns_for_slices(byte: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    await write(io.BytesIO(), an_object(byte * (1 << 20), byte), counted.turn)
    assert counted.most <= 7 * PIECE_BYTES


async def test_others_have_a_turn_between_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    found = JsonList("found", counted.turn)
    for entry in ["x" * 1000] * 300 + [1] * 1000:
        await found.add(entry)
    assert counted.most <= 2 * PIECE_BYTES


@pytest.mark.parametrize("entries", [[], [1], ["a", {"b": None}]])
@pytest.mark.parametrize("fields", [{}, {"next": None, "more": 1}])
async def test_a_list_is_an_object(entries: list[Any], fields: dict[str, Any]) -> None:
    found = JsonList("found", turn)
    for entry in entries:
        assert await found.add(entry) == len(encode(entry))
    await found.add("too much")
    found.drop_last()
    response = found.response(fields, [("link", "/")])
    assert response.body == encode({"found": entries, **fields})
    assert response.headers == [("link", "/"), ("content-type", "application/json")]
