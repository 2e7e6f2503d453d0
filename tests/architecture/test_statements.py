"""Statements of the documents that a change of the code would make untrue."""

import re
import typing
from pathlib import Path

from quiltfn.launcher import verbs

ROOT = Path(__file__).resolve().parents[2]


def test_security_names_the_verbs_that_the_launcher_takes() -> None:
    taken = {verb.__name__.lower() for verb in typing.get_args(verbs.Verb)}
    text = (ROOT / "SECURITY.md").read_text()
    (told,) = re.findall(r"takes (\w+) verbs \(([\w, ]+)\)", text)
    assert set(told[1].split(", ")) == taken
    assert told[0] == ("", "one", "two", "three", "four", "five", "six", "seven")[len(taken)]
