"""The statements of Python sources, for tests that check all files."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement, `except` and `case` below `tree`. Skips expressions, which are far more
    numerous and contain no statements.
    """
    waiting = [tree]
    while waiting:
        for value in vars(waiting.pop()).values():
            if isinstance(value, list):
                inner = [
                    one
                    for one in value
                    if isinstance(one, ast.stmt | ast.excepthandler | ast.match_case)
                ]
                yield from inner
                waiting += inner


@functools.cache
def statements_of(path: Path) -> tuple[ast.AST, ...]:
    """The statements of a file, cached because several rules need them."""
    return tuple(statements(ast.parse(path.read_text())))
