"""The command on systems other than Linux, which lack some of Linux's features."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from promises import promise
from quiltfn.cli import tools, tree, watching
from quiltfn.cli.parsing import BadParameter
from timeouts import scaled


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes Windows for quiltfn's modules. Python's own modules determined the platform when they
    were imported.
    """
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "killpg")
    monkeypatch.setitem(sys.modules, "fcntl", None)


@pytest.mark.usefixtures("windows")
def test_a_program_is_ended_where_there_are_no_groups_of_processes(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    began = time.monotonic()
    with tools.time_limit(0.5), pytest.raises(BadParameter, match="was ended after"):
        tools.run(["/bin/sh", "-c", f"echo $$ >{noted}; exec sleep 60"])
    assert time.monotonic() - began < scaled(20)
    with pytest.raises(ProcessLookupError):
        os.kill(int(noted.read_text()), 0)


@pytest.mark.usefixtures("windows")
def test_a_directory_is_watched_where_it_cannot_be_locked(tmp_path: Path) -> None:
    with watching.alone(tmp_path, "quiltfn dev"), watching.alone(tmp_path, "quiltfn dev"):
        pass


def test_where_it_can_be_locked_it_is(tmp_path: Path) -> None:
    """Negative control: if locks exist, a directory is watched only once."""
    with watching.alone(tmp_path, "quiltfn dev"), pytest.raises(BadParameter, match="another"):
        with watching.alone(tmp_path, "quiltfn dev"):
            pass


@promise("M26")
def test_no_link_in_a_watched_directory_is_followed(tmp_path: Path) -> None:
    watched, outside = tmp_path / "watched", tmp_path / "outside"
    for place in (watched / "own", watched / "node_modules", outside / "a", outside / "b"):
        place.mkdir(parents=True)
    (watched / "link").symlink_to(outside)
    (outside / "file").touch()
    (watched / "file").symlink_to(outside / "file")
    before = watching.stamp(watched)
    os.utime(outside / "file", ns=(1, 1))
    assert watching.stamp(watched) == before, "an edit outside of the directory"
    watches: list[int] = []

    def turn() -> None:
        """The first turn edits a file. The edit causes the second turn, in which the watches are
        counted.
        """
        if (watched / "own" / "file").exists():
            for number in os.listdir("/proc/self/fdinfo"):
                # The descriptor of the listing itself is closed by now.
                with suppress(FileNotFoundError):
                    watches.append(Path("/proc/self/fdinfo", number).read_text().count("wd:"))
            raise InterruptedError
        (watched / "own" / "file").touch()

    with pytest.raises(InterruptedError):
        watching.watch(watched, turn)
    assert sum(watches) == 2, "the directory and `own`"


def test_files_come_in_the_order_of_their_names_wherever_they_are(tmp_path: Path) -> None:
    """Windows sorts paths case-insensitively, but a tree must have one digest on all systems."""
    for name in ("b", "A", "a", "B"):
        (tmp_path / name).touch()
    assert [one.name for one in tree.walk(tmp_path)] == ["A", "B", "a", "b"]
