"""The catalogue of attacks is complete, names existing tests, and matches its page."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from e2e import oracle, security_page
from e2e.security_cases import CASES, Case
from promises import promise

pytestmark = promise("F17")

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "security-tests.md"


def test_every_case_has_one_row() -> None:
    wanted = [f"B{n}" for n in range(1, 29)] + [f"C{n}" for n in range(1, 11)]
    assert [case.id for case in CASES] == wanted


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_row_names_tests_that_exist_or_says_why_there_is_none(case: Case) -> None:
    assert case.tries
    assert case.tests or case.not_run
    assert bool(case.tests) is bool(case.figure), "what a test measured, and nothing else"
    assert case.network in ("none", "none, egress")
    for node in (*case.tests, *case.controls, *case.runsc):
        assert exists(node), node


def exists(node: str) -> bool:
    path, _, name = node.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text())
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return any(isinstance(one, functions) and one.name == name for one in tree.body)


def test_every_test_of_hostile_handlers_is_named_by_a_row() -> None:
    named = {node for case in CASES for node in (*case.tests, *case.controls)}
    for path in sorted((ROOT / "tests" / "e2e").glob("test_hostile_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
            of_the_harness = name in ("test_the_whole_fence_fails_no_case",
                                      "test_the_oracle_finds_what_is_planted")  # fmt: skip
            assert of_the_harness or f"{path.relative_to(ROOT)}::{name}" in named, name


@promise("F12")
def test_a_row_is_run_on_pure_v2_or_says_what_of_it_is_not() -> None:
    """The tests that `scripts/test-v2` runs without arguments count as run on pure v2."""
    script = (ROOT / "scripts" / "test-v2").read_text()
    (listed,) = re.findall(r"tests=\(\n.*?\n\)\n", script, re.DOTALL)
    said = subprocess.run(
        ["bash", "-c", listed + "printf '%s\\n' \"${tests[@]}\""],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert all((ROOT / one).exists() for one in said), said
    for case in CASES:
        paths = {node.partition("::")[0] for node in (*case.tests, *case.controls)}
        left_out = {one for one in paths if not any(Path(one).is_relative_to(two) for two in said)}
        assert not left_out or case.not_on_v2, (case.id, left_out)


def test_the_page_says_what_the_rows_say() -> None:
    assert PAGE.read_text() == security_page.page(CASES)
    assert security_page.TOLERANCE_MS == oracle.TOLERANCE_MS


def test_a_node_that_is_not_there_is_noticed() -> None:
    """Negative control: tests that do not exist must be found."""
    assert not exists("tests/e2e/test_fence.py::test_of_nothing")
    assert not exists("tests/e2e/test_nothing.py::test_identity")
    assert exists("tests/e2e/test_fence.py::test_identity")
