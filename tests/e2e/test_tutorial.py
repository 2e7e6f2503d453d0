"""Documents, word for word: their commands are run in order and print what is said they print."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from e2e.server import QUILTFN, Server

pytestmark = pytest.mark.sandbox
DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tutorial_does_what_it_says(shared: Server, tmp_path: Path) -> None:
    assert run_as_written(DOCS / "tutorial.md", shared, tmp_path) >= 7


def test_the_page_about_slow_calls_does_what_it_says(shared: Server, tmp_path: Path) -> None:
    assert run_as_written(DOCS / "how-to" / "slow-calls.md", shared, tmp_path) == 3


def run_as_written(document: Path, server: Server, directory: Path) -> int:
    """Returns how many blocks of commands there were."""
    environment = {
        **os.environ,
        "PATH": f"{QUILTFN.parent}:{os.environ['PATH']}",
        "QUILT_BASE_URL": server.url,
        "COLUMNS": "200",
    }
    blocks = BLOCK.findall(document.read_text())
    printed, at = "", 0
    for kind, text in blocks:
        if kind == "sh":
            done = subprocess.run(
                ["/bin/bash", "-e", "-c", text],
                cwd=directory,
                env=environment,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
            printed, at = done.stdout + "\n" + done.stderr, 0
            continue
        for line in text.splitlines():
            # In this order where lines of one stream are shown; an … stands for what differs.
            found = re.compile(re.escape(line).replace("…", r"\S+")).search(printed, at)
            found = found or re.compile(re.escape(line).replace("…", r"\S+")).search(printed)
            assert found, f"{line!r} is not in\n{printed}"
            at = found.end()
    return len([kind for kind, _ in blocks if kind == "sh"])
