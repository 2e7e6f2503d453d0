"""Which paths match a route's path."""

import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltfn.api.http.path_pattern import PathPattern
from quiltfn.api.routes.table import ROUTES

ONE, REST = "/api/functions/{function_id}/invoke", "/fn/{path:path}"


@pytest.mark.parametrize(
    ("route", "path", "parameters"),
    [
        ("/", "/", {}),
        ("/api/functions", "/api/functions", {}),
        ("/api/functions", "/api/functions/", None),
        ("/api/functions", "api/functions", None),
        (ONE, "/api/functions/a b\n/invoke", {"function_id": "a b\n"}),
        (ONE, "/api/functions//invoke", None),
        (ONE, "/api/functions/a/b/invoke", None),
        (ONE, "/api/functions/a/invoked", None),
        (REST, "/fn/", {"path": ""}),
        (REST, "/fn/a//b/", {"path": "a//b/"}),
        (REST, "/fn", None),
        (REST, "/fnord/", None),
    ],
)
def test_a_path_fits_or_does_not(route: str, path: str, parameters: dict[str, str] | None) -> None:
    assert PathPattern(route).parameters_of(path.split("/")) == parameters


def test_a_fixed_segment_comes_before_a_parameter_and_that_before_the_rest() -> None:
    ranked = ["/a/b", "/a/b/{c}", "/a/{b}", "/a/{b}/c", "/a/{b:path}", "/{a}/b"]
    for paths in permutations(ranked):
        assert sorted(paths, key=lambda path: PathPattern(path).rank) == ranked


PATHS = sorted({route.path for route in ROUTES})
WORDS = sorted({word for path in PATHS for word in path.split("/")} | {"", "x", "..", "{", "\n"})


@given(st.sampled_from(PATHS), st.lists(st.sampled_from(WORDS)))
def test_it_fits_what_a_regular_expression_would(route: str, segments: list[str]) -> None:
    parts = re.split(r"\{(\w+(?::path)?)\}", route)
    for n, name in enumerate(parts):
        if n % 2 == 0:
            parts[n] = re.escape(name)
        else:
            kind = ".*" if name.endswith(":path") else "[^/]+"
            parts[n] = f"(?P<{name.removesuffix(':path')}>{kind})"
    for path in ("/".join(segments), re.sub(r"\{\w+(:path)?\}", "a", route)):
        match = re.fullmatch("".join(parts), path, re.DOTALL)
        expected = None if match is None else match.groupdict()
        assert PathPattern(route).parameters_of(path.split("/")) == expected
