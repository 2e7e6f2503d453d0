"""The event loop of the tests, and fixtures for the command line and package installers."""

import asyncio
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from unit.canned_server import answered_by
from unit.command_line import CommandLine


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run asynchronous tests on the event loop that a server uses."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line, with canned responses. A module that needs other responses overrides this
    fixture.
    """
    commands = CommandLine(capsys)
    answered_by(commands, monkeypatch)
    return commands


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The program with which commands install Python packages."""
    if request.param == "pip":
        which = shutil.which
        monkeypatch.setattr(
            shutil, "which", lambda word, **more: None if word == "uv" else which(word, **more)
        )
    elif not (Path(sys.executable).parent / "uv").exists():
        pytest.skip("needs uv")
    return str(request.param)
