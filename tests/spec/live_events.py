"""A client of event streams: parses fields, comments, and events, each of which ends with an empty
line.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from spec.api_client import Api


@dataclass
class Event:
    """An event. `data`: its parsed JSON."""

    name: str
    data: Any
    id: str | None = None

    @property
    def bytes(self) -> bytes:
        """The bytes that a handler wrote, as in a `stdout` or `stderr` event."""
        if "text" in self.data:
            return self.data["text"].encode()
        return base64.b64decode(self.data["base64"])


def events(lines: Iterable[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            assert name not in fields, f"{name} came twice in an event"
            fields[name] = value
        elif not line and fields:
            yield Event(fields["event"], json.loads(fields["data"]), fields.get("id"))
            fields = {}
    assert not fields, "the stream ended within an event"


@contextlib.contextmanager
def streaming(
    api: Api, method: str, path: str, body: Any = None, **headers: str
) -> Iterator[tuple[httpx.Response, Iterator[Event]]]:
    """Yields the response, and its events as they arrive. `headers`: their names have _ instead of
    -.
    """
    given = {"accept": "text/event-stream"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    with api.http.stream(method, path, json=body, headers=given) as answer:
        if answer.status_code == 200:
            yield answer, events(answer.iter_lines())
        else:
            answer.read()
            yield answer, iter(())


def all_of(api: Api, method: str, path: str, body: Any = None, **headers: str) -> list[Event]:
    with streaming(api, method, path, body, **headers) as (answer, found):
        assert answer.status_code == 200, answer.text
        return list(found)


def output(found: Iterable[Event], stream: str = "stdout") -> bytes:
    """The output in a stream. Checks that each event begins where the previous one ended."""
    whole = b""
    for event in found:
        if event.name == stream:
            assert event.data["offset"] == len(whole)
            whole += event.bytes
    return whole
