"""What a value must be besides its type. A constraint checks a value, says what was expected, and
describes itself as JSON Schema.

These are the rules about one value. Rules about several values, or about what a server has, are
checked where those are known.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from msgspec import Struct

Schema = Mapping[str, Any]
NO_NUL = "^[^\\u0000]*$"


class Violation(Struct, frozen=True, kw_only=True):
    """A value that does not fit. `expected` completes "… must be"; `received`: what to show."""

    expected: str
    received: object


class Constraint(Protocol):
    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        """What is wrong with `value`; None if it fits.

        `server_maximum`: what this server allows, for a constraint that leaves that to the server.
        """

    def schema(self, server_maximum: float | None) -> Schema:
        """JSON Schema keywords that say the same, as far as JSON Schema can."""


class Between(Struct, frozen=True):
    """A number from `low` to `high`; without `high`, to what the server allows."""

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
    """A whole number without a fraction, as users write it."""
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
    """A text that the regular expression matches as a whole. `expected` says it in words."""

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
    """None of some reserved words."""

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
    """What only a function can check. `check` returns what was expected, or None."""

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
    """Keywords that only describe: what they say is checked together with other values."""

    keywords: Schema

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del value, server_maximum
        return None

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return self.keywords
