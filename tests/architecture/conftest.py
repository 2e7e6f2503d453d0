"""Advice at the end of a run of these tests; it fails no test."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "quiltfn"
LONG = 400


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name long files. A file should follow one idea, in as many lines as that takes. More than 400
    lines are a reason to check whether the file has two ideas, but no reason to split it.
    """
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in sorted(PACKAGE.rglob("*.py"))
        if (count := len(path.read_text().splitlines())) > LONG
    }
    if long:
        listing = ", ".join(f"{name} ({count})" for name, count in long.items())
        terminalreporter.write_line(f"advice: does one of these hold two ideas? {listing}")
