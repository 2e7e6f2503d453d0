"""Prints responses: as tables for people, or complete for programs."""

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec

from quiltfn.cli import show
from quiltfn.cli.parsing import Option

T = TypeVar("T")

UNBROKEN = 1_000_000  # line width: no text is broken
UNPLAIN = set("\x85\u2028\u2029\ufeff")


class Output(StrEnum):
    """The format of a printed response."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[
    Output,
    Option(
        ("--output", "-o"),
        help="Output format; json and yaml print the server's full response, secrets masked.",
    ),
]


def print_answer(output: Output, answer: T, body: bytes, print_it: Callable[[T], None]) -> None:
    """Print `answer` with `print_it`, or for programs the response's `body`, which is JSON. An
    empty body is not printed.
    """
    if output is Output.TABLE:
        print_it(answer)
    elif body:
        show.pass_through(_whole(output, body), sys.stdout)


def print_event(output: Output, event: object) -> None:
    """Print one of many events for programs: a line of JSON, or a YAML document."""
    body = show.encoded(event)
    text = f"---\n{_yaml(body)}" if output is Output.YAML else f"{body.decode()}\n"
    show.pass_through(text, sys.stdout)


def _whole(output: Output, body: bytes) -> str:
    if output is Output.YAML:
        return _yaml(body)
    return msgspec.json.format(body, indent=2).decode() + "\n"


def _yaml(body: bytes) -> str:
    import yaml  # noqa: PLC0415 — for YAML alone

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # which has no types
        """Escapes line breaks and byte order marks of YAML that are ordinary characters in JSON."""

        def represent_text(self, text: str) -> Any:
            style = '"' if UNPLAIN & set(text) else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, Dumper.represent_text)
    body_fields = msgspec.json.decode(body)
    options = {"sort_keys": False, "allow_unicode": True, "width": UNBROKEN}
    return str(yaml.dump(body_fields, Dumper=Dumper, **options))
