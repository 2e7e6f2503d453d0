"""No test may fail because the machine is busy."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from architecture.syntax import statements

TESTS = Path(__file__).resolve().parents[1]
CLOCKS = {"monotonic", "perf_counter", "boottime", "monotonic_ns", "time_ns"}
# Names of durations that other functions have measured.
TIMES = ("took", "elapsed", "seconds", "slowest", "quickest")


# The words that `is_measured` looks for; most files have none.
MAY_MEASURE = re.compile(rf"\b(?:{'|'.join(CLOCKS)}|duration_ms)\b|\b(?:{'|'.join(TIMES)})")


def names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def is_measured(tree: ast.AST) -> bool:
    """Whether something is subtracted from the reading of a clock."""
    return any(
        isinstance(one, ast.BinOp)
        and isinstance(one.op, ast.Sub)
        and any(
            isinstance(call, ast.Call) and CLOCKS & set(names_in(call.func))
            for call in ast.walk(one.left)
        )
        for one in ast.walk(tree)
    )


def measured(function: ast.AST) -> set[str]:
    """The names that a function gives to times that it measured."""
    found: set[str] = set()
    for node in ast.walk(function):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            targets = [node.func.value] if node.func.attr == "append" else []
        if targets and is_measured(node):
            found |= {name for target in targets for name in names_in(target)}
    return found


def is_elapsed(tree: ast.AST, known: set[str]) -> bool:
    names = set(names_in(tree))
    return (
        is_measured(tree)
        or bool(names & known)
        or any(name.startswith(TIMES) for name in names)
        or any(
            isinstance(one, ast.Constant) and one.value == "duration_ms" for one in ast.walk(tree)
        )
    )


def is_bare(bound: ast.AST) -> bool:
    """Whether a bound consists only of numbers and constants: without `scaled`, and without
    anything that was measured in the same run.
    """
    has_number = any(isinstance(one, ast.Constant | ast.Name) for one in ast.walk(bound))
    return has_number and all(name.isupper() for name in names_in(bound))


def compared(function: ast.AST) -> Iterator[tuple[int, ast.expr, ast.expr]]:
    """The upper bounds that a function asserts: the line, the value, and its bound."""
    asserted = [one.test for one in statements(function) if isinstance(one, ast.Assert)]
    for node in (each for test in asserted for each in ast.walk(test)):
        if isinstance(node, ast.Compare):
            sides = pairwise([node.left, *node.comparators])
            for op, (left, right) in zip(node.ops, sides, strict=True):
                if isinstance(op, ast.Lt | ast.LtE):
                    yield node.lineno, left, right
                elif isinstance(op, ast.Gt | ast.GtE):
                    yield node.lineno, right, left


def bare_bounds(source: str) -> list[int]:
    """The lines that assert that a time is less than a bare number."""
    found: set[int] = set()
    if not MAY_MEASURE.search(source):
        return []
    for function in statements(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            bare = [one for one in compared(function) if is_bare(one[2])]
            known = measured(function) if bare else set()
            found |= {line for line, less, _ in bare if is_elapsed(less, known)}
    return sorted(found)


def test_every_bound_on_a_time_that_passes_is_scaled() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in bare_bounds(path.read_text())
    ]
    assert found == [], "see tests/timeouts.py"


def test_a_bare_bound_is_found() -> None:
    """Negative control: a bound without `scaled` must be found."""
    for bare in (
        "began = time.monotonic()\n    assert time.monotonic() - began < 2",
        "took_s = time.monotonic() - began\n    assert 1 < took_s <= LONGEST_S + 1, took_s",
        "waits.append(perf_counter() - began)\n    assert 0.3 > max(waits)",
        "record, took = timed(f)\n    assert took < 2 and record",
        "record = f.invoke()\n    assert record['duration_ms'] < 900",
    ):
        assert bare_bounds(f"def f(began, waits):\n    {bare}\n") == [3], bare
    for fine in (
        "assert time.monotonic() - began < scaled(2)",
        "assert time.monotonic() - began > 2",
        "took = time.monotonic() - began\n    assert 1 < took < scaled(LONGEST_S)",
        "took = time.monotonic() - began\n    assert took < 2 * alone",
        "assert count() < 2",
    ):
        assert bare_bounds(f"def f(began, alone):\n    {fine}\n") == [], fine
