"""How answers are printed: as tables for people, or whole for programs."""

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec

from quiltfn.cli import show
from quiltfn.cli.parsing import Option

T = TypeVar("T")


class Output(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output,
    Option(("--output", "-o"), help="json prints the server's answer, for programs."),
]


def print_answer(output: Output, answer: T, body: bytes, print_it: Callable[[T], None]) -> None:
    """Prints `answer` by `print_it`, or for programs its `body`, which is JSON; an empty one is
    not printed.
    """
    if output is Output.TABLE:
        print_it(answer)
    elif body:
        show.pass_through(msgspec.json.format(body, indent=2).decode() + "\n", sys.stdout)
