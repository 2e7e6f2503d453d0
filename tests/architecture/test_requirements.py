"""The requirements of scripts/setup: those of tests include those of a server, in the same
versions.
"""

import re
from pathlib import Path

import pytest

FILES = Path(__file__).parents[2] / "requirements"
PACKAGE = re.compile(r"^([A-Za-z0-9._-]+(?:\[[^]]*\])?==\S+)", re.MULTILINE)


def packages(name: str) -> set[str]:
    return set(PACKAGE.findall((FILES / f"{name}.txt").read_text()))


@pytest.mark.parametrize("name", ["run", "postgresql"])
def test_what_tests_need_holds_what_servers_need_and_more(name: str) -> None:
    """Scripts that need a server's packages can then run beside the tests without another
    installation.
    """
    assert set[str]() < packages(name) < packages("test")
