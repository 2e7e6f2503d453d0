"""Operations of root in a data directory that belongs to the server's user, who may create links
there.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from contract.stores import child_environment
from promises import promise
from quiltfn.launcher import confine
from timeouts import scaled

OWNER, OTHER = 0x7000_0000, 1234
SECRET = b"root's own file, which is longer than any word that a lock holds\n"
TOOL = """
import sys
from quiltfn.operator import keys
sys.exit(keys.main([*sys.argv[2:], "--data-dir", sys.argv[1]]))
"""
# How the tools worked before: root works in any directory, and follows any link.
AS_ROOT = (
    """
import os, sys
os.O_NOFOLLOW = 0
from quiltfn.operator import owner
from quiltfn.store.database import database
owner.become_owner = lambda *_: None
"""
    + TOOL
)
pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), promise("D17")]


@pytest.fixture
def ground() -> Iterator[Path]:
    """Two directories: `data`, which belongs to the owner, and `roots`, with a file of root."""
    path = Path(tempfile.mkdtemp(prefix="quiltfn-test-"))
    path.chmod(0o755)
    try:
        (path / "data").mkdir(mode=0o700)
        (path / "roots").mkdir()
        (path / "roots" / "file").write_bytes(SECRET)
        (path / "roots" / "file").chmod(0o644)
        give(path / "data")
        yield path
    finally:
        shutil.rmtree(path)


def give(path: Path, uid: int = OWNER) -> None:
    for file in (path, *path.rglob("*")):
        os.chown(file, uid, uid, follow_symlinks=False)


def run(data: Path, *arguments: str, program: str = TOOL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, str(data), *arguments],
        capture_output=True,
        text=True,
        env=child_environment(),
        check=False,
        timeout=scaled(60),
    )


def seen(path: Path) -> tuple[bytes, int, int, int]:
    found = path.stat()
    return path.read_bytes(), found.st_mode, found.st_uid, found.st_gid


def lay(data: Path, name: str, target: Path) -> None:
    """Create a link with this name in a directory that a server has used."""
    assert run(data, "create").returncode == 0
    (data / name).unlink(missing_ok=True)
    (data / name).symlink_to(target)
    give(data)


@pytest.mark.parametrize("name", ["quiltfn.lock", "quiltfn.db", "quiltfn.db-wal"])
def test_a_tool_of_root_follows_no_link_of_the_server(ground: Path, name: str) -> None:
    file = ground / "roots" / "file"
    before = seen(file)
    lay(ground / "data", name, file)
    done = run(ground / "data", "create")
    assert "Traceback" not in done.stderr
    assert seen(file) == before
    if name != "quiltfn.db-wal":  # SQLite itself either removes or refuses this link
        assert done.returncode == 74


def test_the_same_link_led_the_old_way_to_a_file_of_root(ground: Path) -> None:
    """Negative control of the test above: the former tools destroy a file of root."""
    file = ground / "roots" / "file"
    lay(ground / "data", "quiltfn.lock", file)
    run(ground / "data", "list", program=AS_ROOT)
    assert file.read_bytes() != SECRET


def test_a_tool_of_root_works_in_a_directory_that_only_its_owner_reaches(ground: Path) -> None:
    """The tool must also work below a closed directory, which the owner could not enter."""
    ground.chmod(0o700)
    made = run(ground / "data", "create")
    assert made.returncode == 0, made.stderr
    assert "default  operator" in run(ground / "data", "list").stdout
    owners = {one.stat().st_uid for one in (ground / "data").iterdir()}
    assert owners == {OWNER}


def test_a_directory_of_root_that_others_may_write_in_is_refused(ground: Path) -> None:
    give(ground / "data", 0)
    (ground / "data").chmod(0o777)
    done = run(ground / "data", "create")
    assert done.returncode == 74
    assert "chmod 700" in done.stderr
    assert list((ground / "data").iterdir()) == []


def test_a_start_gives_no_file_of_root_away(ground: Path) -> None:
    """With protected_hardlinks off, anybody can create a second name for a file of root; here, root
    does this for the test.
    """
    file, data = ground / "roots" / "file", ground / "data"
    before = seen(file)
    (data / "quiltfn.db").write_bytes(b"put back by root")
    os.link(file, data / "quiltfn.db-shm")
    (data / "journal-a.spool").symlink_to(file)
    for owner in (OWNER, OTHER, 0):
        os.chown(data, owner, owner)
        confine.prepare_data_dir(data, OWNER)
        assert seen(file) == before
        assert data.stat().st_uid == (data / "quiltfn.db").stat().st_uid == OWNER
        assert data.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_root_has_copied_becomes_the_servers_with_its_images(ground: Path) -> None:
    data = ground / "data"
    give(data, 0)
    (data / "quiltfn.db").write_bytes(b"")
    (data / "images" / "digest" / "lib").mkdir(parents=True)
    (data / "images" / "digest" / "lib" / "a.py").write_text("a")
    (data / "lost+found").mkdir()
    confine.prepare_data_dir(data, OWNER)
    others = {one.name for one in data.rglob("*") if one.stat().st_uid != OWNER}
    assert others == {"lost+found"}


@promise("N66")
@pytest.mark.parametrize("found", [f"images/{'ab' * 32}/a.py", "quiltfn.lock"])
def test_what_root_puts_back_becomes_the_servers(ground: Path, found: str) -> None:
    """The directory lacks quiltfn.db: it has the files of runtimes, or the content of a copied
    directory.
    """
    data = ground / "data"
    give(data, 0)
    (data / found).parent.mkdir(parents=True, exist_ok=True)
    (data / found).write_text("a")
    confine.prepare_data_dir(data, OWNER)
    assert {one.stat().st_uid for one in (data, *data.rglob("*"))} == {OWNER}


@pytest.mark.parametrize("found", ["photo", "images/holiday.jpg", f"images/{'ab' * 31}/a"])
def test_a_directory_of_strangers_is_refused_as_it_is(ground: Path, found: str) -> None:
    """For example, pictures must not be taken for the files of runtimes."""
    (ground / "data" / found).parent.mkdir(parents=True, exist_ok=True)
    (ground / "data" / found).write_bytes(b"mine")
    give(ground / "data", OTHER)
    with pytest.raises(confine.NotReadable, match="is not empty"):
        confine.prepare_data_dir(ground / "data", OWNER)
    assert (ground / "data").stat().st_uid == OTHER
    assert (ground / "data" / found).stat().st_uid == OTHER


def test_a_link_in_place_of_the_database_is_not_followed_by_root_in_its_own(ground: Path) -> None:
    """If the directory belongs to root, root itself does the work."""
    data = ground / "data"
    give(data, 0)
    with closing(sqlite3.connect(ground / "roots" / "other.db")) as other:
        other.execute("CREATE TABLE t (x)")
    (ground / "roots" / "other.db").chmod(0o644)
    (data / "quiltfn.db").symlink_to(ground / "roots" / "other.db")
    done = run(data, "list")
    assert done.returncode == 74
    assert (ground / "roots" / "other.db").stat().st_mode & 0o777 == 0o644


def test_a_key_is_made_where_a_server_is_or_where_it_is_told(ground: Path) -> None:
    """The command refuses a directory without ./data: no server would know the key."""
    here = ground / "roots"
    command = [sys.executable, "-m", "quiltfn", "keys", "create"]
    environment = {name: value for name, value in os.environ.items() if "QUILTFN_" not in name}
    refused = subprocess.run(
        command, cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 74
    assert "There is no database in " in refused.stderr
    assert not (here / "data").exists()
    named = [*command, "--data-dir", str(here / "data")]
    made = subprocess.run(named, env=environment, capture_output=True, text=True, check=False)
    assert made.stdout.startswith("quilt_sk_"), made.stderr
    again = subprocess.run(
        command, cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert again.stdout.startswith("quilt_sk_"), "it is there now"
