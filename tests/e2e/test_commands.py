"""A forked command behaves like one that is started normally."""

import subprocess
from pathlib import Path

import pytest

from e2e import commands
from e2e.server import QUILTFN, quiltfn

pytestmark = pytest.mark.sandbox
LINES = [
    "keys create --tenant one --data-dir there",
    "keys --nonsense",
    "backup kept --data-dir there",
    "doctor --sweep --run-dir run",
    "functions list --url http://127.0.0.1:9",
    "invoke --nonsense",
]


def test_a_forked_command_says_and_ends_as_one_that_starts_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for line in LINES[1:]:
        forked, own = (
            quiltfn(*line.split(), cwd=str(tmp_path), env={"PATH": "/usr/bin"}, own_process=one)
            for one in (False, True)
        )
        assert forked == own, line
        assert forked.stdout + forked.stderr, line
    made = quiltfn(*LINES[0].split(), cwd=str(tmp_path))
    assert (made.code, made.stdout.startswith("quilt_sk_")) == (0, True)
    assert (tmp_path / "there" / "quiltfn.db").exists()


@pytest.mark.parametrize("own_process", [False, True])
def test_what_a_terminal_cannot_show_is_escaped(own_process: bool) -> None:
    env = {"PATH": "/usr/bin", "PYTHONIOENCODING": "ascii"}
    shown = quiltfn("backup", "--help", env=env, own_process=own_process)
    assert (shown.code, shown.stderr) == (0, "")
    assert "\\xb7 1 FILE" in shown.stdout


def test_a_forked_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    words = [str(QUILTFN), "keys", "create", "--data-dir", "there"]
    with pytest.raises(subprocess.TimeoutExpired):
        commands.run(words, 0.0, cwd=str(tmp_path), env={})
    assert not (tmp_path / "there" / "quiltfn.db").exists()
    assert commands.run(words, 60.0, cwd=str(tmp_path), env={})[0] == 0
