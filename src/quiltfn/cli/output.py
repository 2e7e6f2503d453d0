"""How answers are printed: as tables for people, or whole for programs."""

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec

from quiltfn.cli import show
from quiltfn.cli.parsing import Option

T = TypeVar("T")

UNBROKEN = 1_000_000  # a text is not broken into lines


class Output(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[
    Output,
    Option(("--output", "-o"), help="json and yaml print the server's whole answer."),
]


def print_answer(output: Output, answer: T, body: bytes, print_it: Callable[[T], None]) -> None:
    """Prints `answer` by `print_it`, or for programs its `body`, which is JSON; an empty one is
    not printed.
    """
    if output is Output.TABLE:
        print_it(answer)
    elif body:
        show.pass_through(_whole(output, body), sys.stdout)


def print_event(output: Output, event: object) -> None:
    """Prints one of many for programs, as it comes: a line of JSON, or a document of YAML."""
    body = show.encoded(event)
    text = f"---\n{_yaml(body)}" if output is Output.YAML else f"{body.decode()}\n"
    show.pass_through(text, sys.stdout)


def _whole(output: Output, body: bytes) -> str:
    if output is Output.YAML:
        return _yaml(body)
    return msgspec.json.format(body, indent=2).decode() + "\n"


def _yaml(body: bytes) -> str:
    import yaml  # noqa: PLC0415 — for YAML alone

    told = msgspec.json.decode(body)
    return str(yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=UNBROKEN))
