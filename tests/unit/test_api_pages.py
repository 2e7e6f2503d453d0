"""The pages of the API match the code, and the server and the client library accept their snippets.

These snippets contain placeholders, so they are not run; tests/e2e/test_documents.py runs the
snippets of other pages.
"""

import ast
import inspect
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promises import promise
from quiltfn import Client
from quiltfn.api.routes.table import ROUTES

pytestmark = promise("A78")

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "docs" / "api"
BLOCK = re.compile(r"^`(\w+) (\S+)`[^\n]*\n(.*?)^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BODIES = {(route.method, route.path.replace(":path}", "}")): route.body for route in ROUTES}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    found: dict[str, str] = runpy.run_path(str(ROOT / "scripts" / "api_pages.py"))["pages"]()
    return found


def test_they_are_current_and_describe_every_operation_once(pages: dict[str, str]) -> None:
    assert {one.name: one.read_text() for one in API.glob("*.md")} == pages, "scripts/generate.py"
    listed = [one[:2] for text in pages.values() for one in BLOCK.findall(text)]
    assert len(listed) == len(set(listed))
    assert {one for one in BODIES if one[0] != "*"} <= set(listed)


def test_the_bodies_of_commands_are_taken(pages: dict[str, str]) -> None:
    found = 0
    for text in pages.values():
        for method, path, _, command in BLOCK.findall(text):
            words = shlex.split(command.replace("\\\n", " "))
            assert words[0] == "curl"
            body = BODIES.get((method, path))
            if body is not None:
                given = words[words.index("-d") + 1]
                msgspec.json.decode(given, type=body, strict=True)
                assert json.loads(given) or method == "POST"
                found += 1
    assert found > 15


def test_the_calls_of_the_client_library_fit_its_methods(pages: dict[str, str]) -> None:
    lines = [
        line
        for text in pages.values()
        for block in re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) > 50
    with Client() as client:
        for line in lines:
            call: Any = ast.parse(line, mode="eval").body
            group, method = call.func.value.attr, call.func.attr
            words = [ast.literal_eval(one) for one in call.args]
            named = {one.arg: ast.literal_eval(one.value) for one in call.keywords}
            inspect.signature(getattr(getattr(client, group), method)).bind(*words, **named)
