"""Advice at the end of a run of these tests; it fails nothing."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "quiltfn"
LONG = 400


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names long files. A file follows one idea, however many lines that takes; more than 400 are a
    reason to ask whether it holds two, and no reason to split one.
    """
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in sorted(PACKAGE.rglob("*.py"))
        if (count := len(path.read_text().splitlines())) > LONG
    }
    if long:
        told = ", ".join(f"{name} ({count})" for name, count in long.items())
        terminalreporter.write_line(f"advice: does one of these hold two ideas? {told}")
