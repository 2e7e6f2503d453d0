"""Each server has its own user, which its data directory determines."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from promises import promise
from quiltfn.launcher import confine, server_uid
from quiltfn.launcher.server_uid import InUse, ServerUid
from quiltfn.launcher.state import SERVER_UIDS, SHARED_UID

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), promise("F35")]


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="quiltfn-test-"))
    monkeypatch.setattr(server_uid, "UIDS_DIR", path / "uids")
    try:
        yield path
    finally:
        shutil.rmtree(path)


def served(path: Path) -> int:
    """Run a server once; return its uid."""
    server_uid = ServerUid(path, wait_s=0)
    try:
        assert path.stat().st_uid == path.stat().st_gid == server_uid.uid
        assert path.stat().st_mode & 0o777 == 0o700
        return server_uid.uid
    finally:
        server_uid.close()


def fill(path: Path, owner: int) -> list[Path]:
    """Create a server's files in the directory, all of `owner`."""
    (path / "images" / "digest" / "lib").mkdir(parents=True)
    names = ("quiltfn.db", "quiltfn.lock", "journal-a.spool", "images/digest/lib/a.py")
    for name in names:
        (path / name).write_text(name)
    for file in (path, *path.rglob("*")):
        os.chown(file, owner, owner)
    return [path, *path.rglob("*")]


def test_every_directory_has_a_user_of_its_own_and_keeps_it(ground: Path) -> None:
    directories = [ground / f"data{n}" for n in range(20)]
    uids = [served(one) for one in directories]
    # Two may be equal, since they are chosen at random from some 65,000.
    assert len(set(uids)) >= len(uids) - 1
    assert all(uid in SERVER_UIDS and uid != SHARED_UID for uid in uids)
    assert [served(one) for one in directories] == uids


def test_a_directory_of_the_user_that_all_servers_shared_is_handed_over_whole(ground: Path) -> None:
    files = fill(ground / "data", SHARED_UID)
    uid = served(ground / "data")
    assert uid != SHARED_UID
    assert {one.stat().st_uid for one in files} == {uid}
    assert (ground / "data" / "quiltfn.db").read_text() == "quiltfn.db"


def test_a_copy_that_runs_beside_its_original_gets_another_user(ground: Path) -> None:
    original = ServerUid(ground / "data")
    copies = fill(ground / "copy", original.uid)
    uid = served(ground / "copy")
    assert uid != original.uid
    assert {one.stat().st_uid for one in copies} == {uid}
    original.close()
    assert served(ground / "data") == original.uid


def test_a_directory_that_is_served_is_refused_as_it_is(ground: Path) -> None:
    first = ServerUid(ground / "data")
    with pytest.raises(InUse, match="Another quiltfn is serving from"):
        ServerUid(ground / "data", wait_s=0.05)
    assert (ground / "data").stat().st_uid == first.uid
    first.close()
    assert served(ground / "data") == first.uid


@pytest.mark.parametrize("name", [".", "quiltfn.lock"])
def test_nobody_who_has_the_store_open_loses_it(ground: Path, name: str) -> None:
    """For example, a server of an older version uses only this lock."""
    files = fill(ground / "data", SHARED_UID)
    lock = os.open(ground / "data" / name, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(InUse):
        ServerUid(ground / "data", wait_s=0.05)
    os.close(lock)
    assert {one.stat().st_uid for one in files} == {SHARED_UID}
    served(ground / "data")


def test_the_store_s_own_locks_are_left_to_the_server(ground: Path) -> None:
    fill(ground / "data", SHARED_UID)
    server_uid = ServerUid(ground / "data")
    for name in (".", "quiltfn.lock"):
        lock = os.open(ground / "data" / name, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)
    server_uid.close()


def test_a_start_that_failed_before_there_was_a_database_may_be_repeated(ground: Path) -> None:
    for owner in (SHARED_UID, SERVER_UIDS[9]):
        shutil.rmtree(ground / "data", ignore_errors=True)
        (ground / "data").mkdir()
        (ground / "data" / "quiltfn.lock").touch()
        os.chown(ground / "data", owner, owner)
        served(ground / "data")


def test_a_directory_within_another_server_s_is_refused(ground: Path) -> None:
    served(ground / "data")
    with pytest.raises(confine.NotReadable, match="belongs to another server"):
        ServerUid(ground / "data" / "below")
    assert not (ground / "data" / "below").exists()


def test_a_pipe_in_place_of_the_lock_stops_nobody(ground: Path) -> None:
    fill(ground / "data", SHARED_UID)
    (ground / "data" / "quiltfn.lock").unlink()
    os.mkfifo(ground / "data" / "quiltfn.lock")
    served(ground / "data")
