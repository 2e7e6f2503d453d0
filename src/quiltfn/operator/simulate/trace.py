"""Reads and checks traces of invocations per minute, such as the Azure Functions Trace 2019."""

import csv
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

from quiltfn.operator.simulate.replay import TracedFunction

NAME = "HashFunction"
IDS = ("HashOwner", "HashApp", NAME)


class BadTrace(Exception):
    """A trace is invalid; the message has the file, the position and the expected value."""


def read(path: Path) -> list[TracedFunction]:
    """Reads a directory with invocations.csv and, optionally, durations.csv and memory.csv; or a
    single file like the first. Raises `BadTrace`.

    Without durations, invocations take no time. A function that is missing in one of the optional
    files gets the median of that file.
    """
    if not path.is_dir():
        return [TracedFunction(name[-1], calls) for name, calls in _calls(path)]
    durations = _figures(path / "durations.csv", "Average")
    memory = _figures(path / "memory.csv", "AverageAllocatedMb")
    usual_ms, usual_mib = _usual(durations), _usual(memory)
    return [
        TracedFunction(
            name[-1], calls, durations.get(name, usual_ms) / 1000, _of_app(memory, name, usual_mib)
        )
        for name, calls in _calls(path / "invocations.csv")
    ]


def _of_app(memory: dict[tuple[str, ...], float], name: tuple[str, ...], usual: float) -> float:
    """Returns a function's memory. Published files state it per application, other files per
    function.
    """
    return memory.get(name, memory.get(name[:-1], usual))


def _usual(figures: dict[tuple[str, ...], float]) -> float:
    return median(figures.values()) if figures else 0.0


def _calls(path: Path) -> Iterator[tuple[tuple[str, ...], list[int]]]:
    lines = _lines(path)
    head = next(lines, None)
    if head is None:
        raise BadTrace(f"{path}: the file is empty; expected a first line with column names")
    names = [place for place, column in enumerate(head) if column in IDS]
    minutes = [place for place, column in enumerate(head) if column.isdecimal()]
    if NAME not in head or not minutes:
        raise BadTrace(f"{path}: line 1: expected a column {NAME} and columns of minutes, 1, 2, …")
    numbers = [int(head[place]) for place in minutes]
    for before, number in pairwise(numbers):
        if number != before + 1:
            raise BadTrace(
                f"{path}: line 1: expected minute {before + 1} after {before}, not {number}"
            )
    count = 0
    for count, line in enumerate(lines, 1):
        _check_width(path, count + 1, line, len(head))
        yield (
            tuple(line[place] for place in names),
            [_whole(path, count + 1, head[place], line[place]) for place in minutes],
        )
    if not count:
        raise BadTrace(f"{path}: the file has no functions; expected a line for each")


def _figures(path: Path, column: str) -> dict[tuple[str, ...], float]:
    """Reads one column, by function or by application; empty if the file does not exist."""
    if not path.exists():
        return {}
    lines = _lines(path)
    head = next(lines, [])
    if column not in head:
        raise BadTrace(f"{path}: line 1: expected a column {column}")
    place = head.index(column)
    ids = [head.index(name) for name in IDS if name in head]
    found = {}
    for number, line in enumerate(lines, 2):
        _check_width(path, number, line, len(head))
        figure = _figure(path, number, column, line[place])
        found[tuple(line[one] for one in ids)] = figure
    return found


def _lines(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not CSV text"
        raise BadTrace(f"{path}: cannot be read: {reason}") from None


def _check_width(path: Path, number: int, line: list[str], width: int) -> None:
    if len(line) != width:
        raise BadTrace(f"{path}: line {number}: expected {width} columns, not {len(line)}")


def _whole(path: Path, number: int, column: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise BadTrace(
            f"{path}: line {number}, column {column}: expected a number of invocations, not "
            f"{text!r}"
        )
    return int(text)


def _figure(path: Path, number: int, column: str, text: str) -> float:
    try:
        figure = float(text)
    except ValueError:
        figure = -1.0
    if not 0 <= figure < float("inf"):
        raise BadTrace(
            f"{path}: line {number}, column {column}: expected a number of 0 or more, not {text!r}"
        )
    return figure
