"""Progress lines: only on a terminal, and removed at the end."""

import io
import sys
import time
from pathlib import Path

import httpx
import pytest

from quiltfn import wire
from quiltfn.cli import progress, tree
from quiltfn.cli.session import Connection
from quiltfn.sdk import Client
from timeouts import scaled
from unit.canned_server import Canned, Terminal, answered_by, body_of

MIB = 1024**2
IMAGE = body_of(wire.Image, digest="sha256:" + "0" * 64)


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard error a terminal. In a fixture, pytest would undo this before the test."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_a_terminal_sees_what_is_done_and_how_much_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with progress.step("creating a runtime"):
        with progress.counted("uploading", 4 * MIB) as sent:
            sent(MIB)
            sys.stderr.write("a note\n")  # printed above the progress lines
            deadline = time.monotonic() + scaled(5)
            while "1.0/4.0 MiB" not in terminal.getvalue():
                assert time.monotonic() < deadline, terminal.getvalue()
                time.sleep(0.01)
        assert "uploading" in terminal.getvalue()
    shown = terminal.getvalue()
    assert "creating a runtime" in shown
    assert "a note\n" in shown
    assert shown.endswith("\x1b[2K\x1b[?25h\r"), "the last line is emptied"
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor is back"


def test_the_terminal_is_as_it_was_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with pytest.raises(OSError, match="full"), progress.step("packing"):
        raise OSError("the disk is full")
    assert terminal.getvalue().count("\x1b[?25h") == 1
    assert sys.stderr is terminal
    with progress.step("again"):
        pass
    assert "again" in terminal.getvalue()


def test_a_pipe_and_what_is_short_see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    with progress.step("creating"), progress.counted("uploading", 4 * MIB) as sent:
        sent(MIB)
    assert pipe.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)
    with progress.step("creating"):
        pass
    short = Terminal()
    monkeypatch.setattr(sys, "stderr", short)
    with progress.counted("uploading", MIB - 1) as sent:
        sent(5)
    assert short.getvalue() == ""


def test_an_upload_and_packing_tell_of_every_byte(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "below").mkdir(parents=True)
    (files / "a").write_bytes(b"x" * 1000)
    (files / "below" / "b").write_bytes(b"y" * 50_000)
    (files / "link").symlink_to("nowhere")
    packed: list[int] = []
    archive = tmp_path / "archive.tar"
    tree.pack(files, archive, packed.append)
    assert sum(packed) == 51_000

    def answer(request: httpx.Request) -> httpx.Response:
        assert len(request.read()) == archive.stat().st_size
        return httpx.Response(201, json=IMAGE)

    sent: list[int] = []
    with Client("http://x", transport=Canned(answer)) as client:
        client.on_upload = sent.append
        client.runtimes.upload_image(archive)
        assert sum(sent) == archive.stat().st_size
        client.on_upload = None
        client.runtimes.upload_image(archive)
    assert sum(sent) == archive.stat().st_size


def test_a_session_shows_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    archive = tmp_path / "archive.tar"
    archive.write_bytes(bytes(2 * MIB))
    answered_by(lambda _: httpx.Response(201, json=IMAGE), monkeypatch)
    with Connection().session() as at:
        assert at.upload(archive).digest == IMAGE["digest"]
        assert at.client.on_upload is None
    assert "/2.0 MiB" in terminal.getvalue()
