"""SPECIFICATION.md: every promise has a number, and every number names a test or says "pending"."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^\| (?P<id>[A-Z]+\d+) \| (?P<promise>[^|]+) \| (?P<proof>[^|]+) \|$")
PROOF = re.compile(r"`(?P<file>(?:tests|bench|scripts)/[\w/.-]+)(?:::(?P<name>\w+))?`")


def rows() -> list[re.Match[str]]:
    text = (ROOT / "SPECIFICATION.md").read_text()
    table = [line for line in text.splitlines() if re.match(r"\| [A-Z]+\d", line)]
    matches = [LINE.match(line) for line in table]
    assert all(matches), [line for line, match in zip(table, matches, strict=True) if not match]
    return [match for match in matches if match]


def test_numbers_are_given_once_and_there_are_some() -> None:
    ids = [row["id"] for row in rows()]
    assert len(ids) >= 20
    assert len(set(ids)) == len(ids)


def test_every_promise_names_a_proof_that_exists_or_says_pending() -> None:
    for row in rows():
        proofs = list(PROOF.finditer(row["proof"]))
        assert proofs or "pending" in row["proof"], f"{row['id']} names no proof"
        for proof in proofs:
            path = ROOT / proof["file"]
            assert path.exists(), f"{row['id']} names {proof['file']}, which does not exist"
            if proof["name"]:
                assert f"def {proof['name']}(" in path.read_text(), f"{row['id']}: {proof['name']}"
