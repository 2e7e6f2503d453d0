"""Constraints on values besides their type. A constraint checks a value, describes the expected
values, and describes itself as JSON Schema.

A constraint is about a single value. Rules about several values, or about a server's objects, are
checked elsewhere, by code that has these.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from msgspec import Struct

Schema = Mapping[str, Any]
NO_NUL = "^[^\\u0000]*$"


class Violation(Struct, frozen=True, kw_only=True):
    """A violated constraint. `expected` completes "… must be"; `received`: the value to show."""

    expected: str
    received: object


class Constraint(Protocol):
    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        """How `value` violates the constraint; None: it satisfies it.

        `server_maximum`: this server's maximum, for a constraint without a fixed maximum.
        """

    def schema(self, server_maximum: float | None) -> Schema:
        """The constraint in JSON Schema keywords, as far as they can express it."""


class Between(Struct, frozen=True):
    """A number from `low` to `high`; without `high`, up to the server's maximum."""

    low: float
    high: float | None = None

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        high = server_maximum if self.high is None else self.high
        if self.low <= value and (high is None or value <= high):
            return None
        low = _plain(self.low)
        span = f"{low} or more" if high is None else f"between {low} and {_plain(high)}"
        return Violation(expected=span, received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        high = server_maximum if self.high is None else self.high
        return {"minimum": self.low} | ({} if high is None else {"maximum": _plain(high)})


def _plain(number: float) -> float:
    """Whole numbers as integers, the way users write them."""
    return int(number) if number == int(number) else number


class Characters(Struct, frozen=True):
    """A text of at most `most` characters."""

    most: int

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        if len(value) <= self.most:
            return None
        return Violation(expected=f"at most {self.most} characters", received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return {"maxLength": self.most}


class Bytes(Struct, frozen=True):
    """A text of `least` to `most` bytes of UTF-8."""

    least: int
    most: int

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        if self.least <= len(value) <= self.most // 4:  # no character takes more than 4 bytes
            return None
        size = len(value.encode("utf-8", "surrogatepass"))
        if self.least <= size <= self.most:
            return None
        span = f"between {self.least} and {self.most} bytes long"
        expected = span if self.least else f"at most {self.most} bytes"
        return Violation(expected=expected, received=f"{size} bytes")

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return ({"minLength": self.least} if self.least else {}) | {"maxLength": self.most}


class Pattern(Struct, frozen=True):
    """A text that the regular expression matches completely. `expected`: the rule in words."""

    pattern: str
    expected: str
    shows_value: bool = True

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        if re.fullmatch(self.pattern, value):
            return None
        return Violation(expected=self.expected, received=value if self.shows_value else None)

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return {"pattern": f"^{self.pattern}$"}


class WithoutNul(Struct, frozen=True):
    """A text without the character that ends a string in C."""

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        return Violation(expected="text without NUL", received=None) if "\0" in value else None

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return {"pattern": NO_NUL}


class NoneOf(Struct, frozen=True):
    """Any text except some reserved words."""

    words: Collection[str]
    expected: str

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        if value not in self.words:
            return None
        return Violation(expected=self.expected, received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return {"not": {"enum": sorted(self.words)}}


class OneOf(Struct, frozen=True):
    """One of some words."""

    words: tuple[str, ...]

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        if value in self.words:
            return None
        return Violation(expected=f"one of: {', '.join(self.words)}", received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return {"enum": list(self.words)}


class Rule(Struct, frozen=True):
    """A constraint checked by a function. `check` returns the expected value in words, or None."""

    check: Callable[[Any], str | None]
    keywords: Schema

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        expected = self.check(value)
        return None if expected is None else Violation(expected=expected, received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return self.keywords


class Documented(Struct, frozen=True):
    """Keywords for documentation only. Their rule involves other values, so it is checked
    elsewhere.
    """

    keywords: Schema

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del value, server_maximum
        return None

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return self.keywords
