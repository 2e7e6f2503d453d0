"""Fuzzes the server by its own OpenAPI document for a short time; `scripts/soak fuzz` does this for
long.
"""

import pytest

from promises import promise
from spec.fuzz import run

pytestmark = [pytest.mark.sandbox, promise("A35")]
REQUESTS = 1000


@promise("A2")
def test_no_answer_breaks_the_document_and_nothing_wrong_is_taken() -> None:
    report = run(REQUESTS, examples=2)
    print(report)
    assert not report.failures, "\n".join(report.failures)
    assert report.requests >= REQUESTS
    assert report.operations >= 30
