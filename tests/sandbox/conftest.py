"""The real guest, compiled once for all tests: as released, and with sanitizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.bare_guest import SANITIZER_EXIT, BareGuest, build_guest


@pytest.fixture(scope="session", params=["shipped", "sanitized"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp(request.param) / "guest"
    return build_guest(target, sanitized=request.param == "sanitized")


@pytest.fixture
def empty(guest: Path) -> Iterator[BareGuest]:
    """A guest that has only sent its hello so far."""
    with BareGuest(guest) as started:
        yield started
        assert started.close() != SANITIZER_EXIT
