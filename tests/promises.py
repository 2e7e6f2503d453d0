"""`@promise("F1")` marks a test that proves a promise to users.

SPECIFICATION.md has the promises that most users need; docs/reference/promises.md lists all others.
`pytestmark = promise("A1")` marks a module. Files that pytest does not run (benchmarks, scripts,
tests of the dashboard) have a comment, `# promise: S1, S2`; so has a `conftest.py` for its folder.
"""

import re

import pytest

# Letter → subject and the numbers in use. A new promise takes the next number: increase the last
# one. Never use the number of a dropped promise again.
NUMBERS = {
    "F": ("Sandbox isolation", "1-39"),
    "C": ("Invocations", "1-15"),
    "A": ("API, dashboard and commands", "1-58 60-67 70-90"),
    "W": ("Asynchronous invocations, versions and schedules", "1-29"),
    "U": ("URLs", "1-18"),
    "P": ("Pools", "1-21"),
    "R": ("Runtimes and deployment", "1-27 30-46"),
    "D": ("Durability", "1-25 27-42"),
    "N": ("Fleets", "1-8 10-27 30-34 40-47 50-54 60-67 70-77 80-100"),
    "O": ("Telemetry", "1-7"),
    "S": ("Speed", "1-4"),
    "M": ("Installation and clients", "1-11 21-26"),
}


def _in_use(letter: str, numbers: str) -> list[str]:
    spans = re.findall(r"(\d+)(?:-(\d+))?", numbers)
    return [
        f"{letter}{number}"
        for first, last in spans
        for number in range(int(first), int(last or first) + 1)
    ]


IDS = [one for letter, (_, numbers) in NUMBERS.items() for one in _in_use(letter, numbers)]


def promise(*ids: str) -> pytest.MarkDecorator:
    """Mark a test, or by `pytestmark` a module, as proof of these promises."""
    if unknown := set(ids).difference(IDS):
        raise ValueError(f"tests/promises.py has no {', '.join(sorted(unknown))} among NUMBERS")
    return pytest.mark.promise(*ids)
