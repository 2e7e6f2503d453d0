"""What a value must be besides its type. A constraint checks a value, says what was expected, and
describes itself as JSON Schema.

These are the rules about one value. Rules about several values, or about what a server has, are
checked where those are known.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Schema = Mapping[str, Any]
NO_NUL = "^[^\\u0000]*$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A value that does not fit. `expected` completes "… must be"; `received`: what to show."""

    expected: str
    received: object


class Constraint(Protocol):
    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        """What is wrong with `value`; None where it fits.

        `server_maximum`: what this server allows, for a constraint that leaves that to the server.
        """

    def schema(self, server_maximum: float | None) -> Schema:
        """JSON Schema keywords that say the same, as far as JSON Schema can."""


@dataclass(frozen=True, slots=True)
class Between:
    """A number from `low` to `high`; without `high`, to what the server allows."""

    low: float
    high: float | None = None

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        high = server_maximum if self.high is None else self.high
        if self.low <= value and (high is None or value <= high):
            return None
        span = f"{self.low} or more" if high is None else f"between {self.low} and {high}"
        return Violation(expected=span, received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        high = server_maximum if self.high is None else self.high
        return {"minimum": self.low} | ({} if high is None else {"maximum": high})


@dataclass(frozen=True, slots=True)
class Characters:
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


@dataclass(frozen=True, slots=True)
class Bytes:
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


@dataclass(frozen=True, slots=True)
class Pattern:
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


@dataclass(frozen=True, slots=True)
class WithoutNul:
    """A text without the character that ends a string in C."""

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        return Violation(expected="text without NUL", received=None) if "\0" in value else None

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return {"pattern": NO_NUL}


@dataclass(frozen=True, slots=True)
class NoneOf:
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


@dataclass(frozen=True, slots=True)
class OneOf:
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


@dataclass(frozen=True, slots=True)
class Rule:
    """What only a function can check. `check` returns what was expected, or None."""

    check: Callable[[Any], str | None]
    keywords: Schema = field(default_factory=dict)

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del server_maximum
        expected = self.check(value)
        return None if expected is None else Violation(expected=expected, received=value)

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return self.keywords


@dataclass(frozen=True, slots=True)
class Documented:
    """Keywords that only describe: what they say is checked together with other values."""

    keywords: Schema

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        del value, server_maximum
        return None

    def schema(self, server_maximum: float | None) -> Schema:
        del server_maximum
        return self.keywords
