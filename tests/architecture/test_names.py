"""Pages that are written by hand use the terms of the glossary (docs/glossary.md). The code may
still have the former ones.
"""

import re
from collections.abc import Iterator

import pytest

from architecture.test_documents import DOCUMENTS, ROOT

# By a pattern for a former term, in any case: the term that replaces it.
TERMS = {
    r"\baccepted work\b": "asynchronous invocations",
    r"\bends of calls\b": "outcomes of invocations",
    r"\bof ours\b": "of quiltfn",
    r"\b(last|no|a|each) beats?\b": "heartbeat",
    r"\bprocessor time\b": "CPU time",
    r"stem[\s_-]cells?": "prewarmed sandbox",
    r"\bmoulds?\b": "sandbox template",
    r"\buplinks?\b|\b(its|the) way out\b": "egress proxy",
}
# The pages that are checked. The glossary may have former terms, since it explains where words came
# from; the pages that are left out besides are lists, or generated from code.
PAGES = re.compile(
    r"docs/(architecture|how-to/.*|decisions/.*)\.md|(README|SECURITY|PRINCIPLES|CONTRIBUTING)\.md"
)


def former(text: str) -> Iterator[str]:
    """A sentence for each former term in a text."""
    for pattern, new in TERMS.items():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield f"“{match[0]}” is {new}"


def test_pages_use_the_terms_of_the_glossary() -> None:
    names = {path: path.relative_to(ROOT).as_posix() for path in DOCUMENTS}
    pages = {name: path for path, name in names.items() if PAGES.fullmatch(name)}
    assert len(pages) > 40
    left = {name: list(former(path.read_text())) for name, path in pages.items()}
    assert {name: sentences for name, sentences in left.items() if sentences} == {}


@pytest.mark.parametrize("text", ["Accepted work is lost", "no beat", "the way out", "Stem-cells"])
def test_a_former_term_is_found(text: str) -> None:
    """Negative control: former terms must be found."""
    assert len(list(former(text))) == 1
