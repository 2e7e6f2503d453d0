"""The statements of Python sources, for tests that ask all files."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement below `tree`, and each `except` and `case`; no expression, of which there are
    many times as many. An expression has no statement in it.
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
    """Of a file, which several rules ask for."""
    return tuple(statements(ast.parse(path.read_text())))
