"""Background tasks continue after a bug, and after an error of the store."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import structlog

from quiltfn.base import store_retry as until_stored
from quiltfn.model.errors import StoreUnavailable
from quiltfn.server import background
from quiltfn.store import SqlStats
from service.platform_harness import open_harness, until


async def test_a_background_task_that_fails_is_logged_and_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.0)
    damage = ValueError("a row that nobody understands")
    prunes = itertools.chain([damage], itertools.repeat(0))
    with (
        structlog.testing.capture_logs() as lines,
        patch.object(SqlStats, "prune_some", side_effect=prunes) as prune,
    ):
        async with open_harness(tmp_path):
            await until(lambda: prune.call_count > 1)
    assert [one["event"] for one in lines if one["log_level"] == "error"] == [
        "a background task has failed and is restarted"
    ]


async def test_work_that_a_full_disk_put_off_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(until_stored, "STORE_AGAIN_S", 0.0)
    tries = 0

    async def recovered() -> bool:
        return tries == 0  # as in the journal, recovery is reported once

    async def start() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreUnavailable("it is busy")

    parts: Any = SimpleNamespace(recovered=recovered, start=start)
    await background.run_recovered(parts, parts)
    assert tries == 3
