"""`quiltfn logs`: where a program's output ends and a note about its call begins."""

import subprocess
import sys

import pytest

from quiltfn.cli import logs
from quiltfn.cli.output import Output as Form
from quiltfn.sdk.events import Event, Output, Started
from unit.canned_server import Terminal


def printed(monkeypatch: pytest.MonkeyPatch, *written: Event) -> str:
    """What `quiltfn logs` prints to a terminal for these events."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    logs.write(iter([*written, Started("a-call", cold_start=False)]), Form.TABLE)
    return terminal.getvalue()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_note_begins_a_line(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    note = "\x1b[2ma-call started\x1b[0m\n"
    assert printed(monkeypatch, Output(stream, 0, b"answer")) == f"answer\n{note}"
    assert printed(monkeypatch, Output(stream, 0, b"line\n")) == f"line\n{note}"
    assert printed(monkeypatch, Output(stream, 0, b"")) == note
    assert printed(monkeypatch) == note


PROGRAM = """
from quiltfn.cli import logs
from quiltfn.cli.output import Output as Form
from quiltfn.sdk.events import Output, Started
events = [Output("stdout", 0, b"out"), Output("stderr", 0, b""), Output("stderr", 0, b"err")]
events.append(Started("a-call", cold_start=False))
logs.write(iter(events), Form.TABLE, names=True, head="thumb a-call:")
"""


def test_streams_that_are_seen_together_begin_lines_of_their_own() -> None:
    command = [sys.executable, "-c", PROGRAM]
    merged = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert merged.stdout == b"thumb a-call:\nout\nerr\na-call started\n"
    apart = subprocess.run(command, capture_output=True, check=True)
    assert apart.stdout == b"out", "as it was written"
    assert apart.stderr == b"thumb a-call:\nerr\na-call started\n"
