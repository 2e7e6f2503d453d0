"""The commands that the dashboard shows for a terminal."""

import re
import shlex
from pathlib import Path

import pytest

from quiltfn.cli import run

SOURCE = Path(__file__).parents[2] / "ui/src"
# Commands for the server's machine are handled by another program.
ELSEWHERE = ("quiltfn fleet ", "quiltfn keys ")
SHOWN = re.compile(r"""text=(?:"|\$\{`)(quiltfn [^"`]+)["`]""")
LINES = sorted(
    line
    for line in {n for one in SOURCE.rglob("*.ts") for n in SHOWN.findall(one.read_text("utf-8"))}
    if not line.startswith(ELSEWHERE)
)


def test_lines_are_found() -> None:
    assert {line.split()[1] for line in LINES} >= {"functions", "invoke", "schedules", "runtimes"}


@pytest.mark.parametrize("line", LINES)
def test_shown_lines_are_commands(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"${fn.name}": "hello", "${fn.current_version}": "1"}.items():
        line = line.replace(name, value)
    words = shlex.split(line)[1:]
    assert run([*words, "--help"]) == 0
    output = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in output] == []
