"""The tutorial, word for word: its commands are run in order and print what it says they print."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from e2e.server import QUILTFN, Server

pytestmark = pytest.mark.sandbox
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tutorial_does_what_it_says(shared: Server, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{QUILTFN.parent}:{os.environ['PATH']}",
        "QUILT_BASE_URL": shared.url,
        "COLUMNS": "200",
    }
    blocks = BLOCK.findall(TUTORIAL.read_text())
    assert len([kind for kind, _ in blocks if kind == "sh"]) >= 7
    printed, at = "", 0
    for kind, text in blocks:
        if kind == "sh":
            done = subprocess.run(
                ["/bin/bash", "-e", "-c", text],
                cwd=tmp_path,
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
