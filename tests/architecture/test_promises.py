"""Promises, their tests, and the documents that list them agree."""

import pytest

import promise_pages as pages
import promises

TEST = "@promise({ids})\ndef test_something() -> None:\n    pass\n"


def test_every_promise_has_a_test_and_every_marker_a_promise() -> None:
    assert pages.faults(pages.SPECIFICATION.read_text(), pages.proofs(), promises.IDS) == []


def test_the_documents_are_current() -> None:
    assert pages.SPECIFICATION.read_text() == pages.specification(), "run scripts/generate.py"
    assert pages.INDEX.read_text() == pages.index(), "run scripts/generate.py"


@pytest.mark.parametrize(
    ("text", "marked", "fault"),
    [
        ("| C1 | It ends. |  |", [], "C1: no test"),
        ("| C1 | It ends. |  |\n| C1 | It begins. |  |", ["C1"], "C1: two rows"),
        ("| C2 | It ends. |  |", ["C1"], "C2: unknown number"),
        ("", ["C1", "C2"], "C2: unknown number"),
        ("| C1 | It ends. |", ["C1"], "no row with id, promise, and tests: | C1 | It ends. |"),
    ],
)
def test_a_fault_is_noticed(text: str, marked: list[str], fault: str) -> None:
    """Negative control: each fault must be found."""
    assert pages.faults(text, marked, ["C1"]) == [fault]


def test_a_document_that_lacks_a_test_is_noticed() -> None:
    """Negative control: if a promise has one more test, each document must be found outdated."""
    more = {
        one: [*found, pages.Proof("tests/test_new.py")] for one, found in pages.proofs().items()
    }
    assert pages.specification(more) != pages.specification()
    assert pages.index(more) != pages.index()


def test_markers_are_read_from_tests_modules_and_comments() -> None:
    text = f'"""The whole module. More."""\npytestmark = [promise("C1")]\n{TEST}'.format(
        ids='"C2", "C3"'
    )
    something = pages.Proof("test_a.py", "test_something", "Something")
    assert [*pages.markers("test_a.py", text)] == [
        ("C1", pages.Proof("test_a.py", "", "The whole module")),
        ("C2", something),
        ("C3", something),
    ]
    assert [*pages.markers("a.ts", "// promise: C1, C2\n")] == [
        ("C1", pages.Proof("a.ts")),
        ("C2", pages.Proof("a.ts")),
    ]


def test_a_marker_that_pytest_would_not_find_is_refused() -> None:
    """Negative control: a marker in the wrong place must be found."""
    text = TEST.format(ids='"C1"').replace("test_something", "something")
    with pytest.raises(pages.MisplacedMarker, match=r"test_a\.py"):
        [*pages.markers("test_a.py", text)]


def test_an_unknown_number_cannot_be_marked() -> None:
    with pytest.raises(ValueError, match="C999"):
        promises.promise("C1", "C999")
