"""`quiltfn backup` and `quiltfn restore`: acknowledged data is saved and restored."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from contract.stores import files_at_most
from e2e import sample_runtimes, tiny_root
from e2e.server import QUILTFN, Server, children, is_alive, quiltfn, short_dir, until
from promises import promise
from timeouts import scaled

FILES = ["quiltfn.db", "journal-a.spool", "journal-b.spool"]


def backup(server: Server, file: Path, *more: str, **how: Any) -> str:
    done = quiltfn("backup", str(file), "--data-dir", str(server.data_dir), *more, **how)
    assert (done.code, done.stderr) == (0, "")
    return done.stdout


def restore(file: Path, data_dir: Path, *more: str, **how: Any) -> None:
    done = quiltfn("restore", str(file), "--data-dir", str(data_dir), *more, **how)
    assert (done.code, done.stderr) == (0, "")


def refused(*arguments: str) -> str:
    done = quiltfn(*arguments)
    assert done.code == 74, (done.code, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@promise("D21")
def test_what_was_acknowledged_before_a_backup_is_in_it(
    server: Server, another: Callable[..., Server], tmp_path: Path
) -> None:
    """Clients invoke and create functions during the backup, and then the server is killed. A
    server that restores the backup must have everything that was acknowledged before the backup.
    """
    function = server.deploy("cat", max_instances=4)
    # the id and the output of each invocation that got a response
    answered: list[tuple[str, str]] = []
    made: list[str] = []
    stop = threading.Event()

    def call() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            payload = f"{threading.get_ident()}-{number}"
            answer = function.try_invoke(payload)
            if answer.status_code == 200:
                answered.append((answer.json()["invocation_id"], answer.json()["stdout"]))

    def create() -> None:
        while not stop.is_set():
            made.append(server.create("echo").id)

    work = [server.later(one) for one in (call, call, call, create)]
    until(lambda: len(answered) > 50 and len(made) > 5, 30)
    calls_before, made_before = list(answered), list(made)
    backup(server, tmp_path / "kept")
    os.kill(server.pid, signal.SIGKILL)
    stop.set()
    server.wait(20)
    for future in work:
        assert future.exception() is not None or future.result() is None
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    other = another()
    restore(tmp_path / "kept", other.data_dir)
    other.start()
    function.server = other
    records = function.records()
    for invocation_id, stdout in calls_before:
        assert (records[invocation_id]["status"], records[invocation_id]["stdout"]) == (
            "success",
            stdout,
        )
    for function_id in made_before:
        assert other.call("GET", f"/api/functions/{function_id}").status_code == 200
    assert {one["status"] for one in records.values()} <= {"success", "interrupted"}
    assert function.invoke("again")["stdout"] == "again"
    uids = {one.stat().st_uid for one in other.data_dir.rglob("*")}
    assert uids == {other.data_dir.stat().st_uid}
    assert 0 not in uids


def an_image(server: Server, tmp_path: Path) -> str:
    """Uploads an image with files; returns its digest."""
    (tmp_path / "app" / "lib").mkdir(parents=True)
    (tmp_path / "app" / "run.sh").write_text("echo from the image\n")
    (tmp_path / "app" / "run.sh").chmod(0o755)
    (tmp_path / "app" / "lib" / "link").symlink_to("../run.sh")
    (tmp_path / "app" / ("long" * 40)).write_bytes(os.urandom(5000))
    with tarfile.open(tmp_path / "app.tar", "w") as archive:
        archive.add(tmp_path / "app", ".")
    answer = server.http.post(
        "/api/runtimes/images",
        content=(tmp_path / "app.tar").read_bytes(),
        headers={"content-type": "application/x-tar"},
    )
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["digest"])


def test_images_keys_and_settings_of_a_stopped_server_come_back(
    server: Server, another: Callable[..., Server], tmp_path: Path
) -> None:
    """There is an image with code, a base image that a version uses, and one that only a runtime
    names. The first base image has a link that files for /app must not have; restoring must accept
    it.
    """
    digest = an_image(server, tmp_path)
    kept = server.deploy("echo hello", name="kept")
    policy = {"max_attempts": 7, "backoff_seconds": {"first": 5.0}}
    assert server.call("PUT", f"{kept.path}/async-policy", policy).status_code == 200
    settings = server.call("GET", f"{kept.path}/async-policy").json()
    root = tiny_root.make(tmp_path / "root", {"srv/word": "from the base\n"})
    (root / "etc/mtab").symlink_to("/proc/mounts")
    used, named = (upload(server, tiny_root.packed(root)) for root in (root, (root / "usr")))
    body: dict[str, Any] = {"name": "tiny", "kind": "shell", "base_image": used}
    assert server.call("POST", "/api/runtimes", body).status_code == 201
    server.deploy("cat /srv/word", name="of-base", runtime="tiny")
    body = {"name": "tiny", "kind": "custom", "command": ["/x"], "base_image": named}
    assert server.call("POST", "/api/runtimes", body).status_code == 201
    server.stop()
    key = quiltfn("keys", "create", *server.key_options).stdout.strip()
    backup(server, tmp_path / "kept", own_process=True)
    images = sorted((digest, used, named))
    with tarfile.open(tmp_path / "kept") as archive:
        names = archive.getnames()
        assert names == [*FILES, *(f"images/{one}.tar" for one in images), "manifest.json"]
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert (manifest["functions"], manifest["images"]) == (2, 3)
    other = another()
    restore(tmp_path / "kept", other.data_dir, own_process=True)
    image = other.data_dir / "images" / digest
    assert (image / "lib" / "link").readlink() == Path("../run.sh")
    assert sorted(one.name for one in image.parent.iterdir()) == images
    other.start()
    assert other.call("GET", "/api/functions").status_code == 401
    other.http.headers["authorization"] = f"Bearer {key}"
    assert other.call("GET", f"{kept.path}/async-policy").json() == settings
    for name, stdout in (("kept", "hello\n"), ("of-base", "from the base\n")):
        answer = other.call("POST", f"/api/functions/invoke/{name}", {})
        assert answer.json()["stdout"] == stdout
    assert image.stat().st_uid == other.data_dir.stat().st_uid != 0
    server.start()


def upload(server: Server, archive: bytes) -> str:
    answer = server.http.post(
        "/api/runtimes/images?contents=rootfs",
        content=archive,
        headers={"content-type": "application/x-tar"},
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["digest"])


def damaged(file: Path, target: Path, at: float) -> Path:
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 1
    target.write_bytes(content)
    return target


@promise("D22")
def test_a_restore_needs_a_whole_archive_and_an_empty_place(server: Server, tmp_path: Path) -> None:
    server.create("echo", name="kept")
    file, empty = tmp_path / "kept", tmp_path / "empty"
    backup(server, file)
    assert "Another quiltfn" in refused("restore", str(file), "--data-dir", str(server.data_dir))
    server.create("echo", name="later")
    server.kill_server()
    server.wait(20)
    into = ("--data-dir", str(server.data_dir))
    before = {one.name: one.read_bytes() for one in server.data_dir.iterdir() if one.is_file()}
    assert "not empty" in refused("restore", str(file), *into)

    # An archive that is damaged anywhere must change nothing.
    for at in (0.0002, 0.6):
        broken = damaged(file, tmp_path / "broken", at)
        assert str(broken) in refused("restore", str(broken), "--data-dir", str(empty))
        assert not empty.exists()
    (tmp_path / "broken").write_bytes(file.read_bytes()[:-20_000])
    assert "is incomplete" in refused("restore", str(tmp_path / "broken"), *into, "--replace")
    after = {one.name: one.read_bytes() for one in server.data_dir.iterdir() if one.is_file()}
    assert after == before

    restore(file, server.data_dir, "--replace")
    (aside,) = server.data_dir.glob("replaced-*")
    assert (aside / "quiltfn.db").read_bytes() == before["quiltfn.db"]
    # both may happen in the same second, and must not overwrite directories that were moved aside
    for _ in range(2):
        restore(file, server.data_dir, "--replace")
    assert len(list(server.data_dir.glob("replaced-*/quiltfn.db"))) == 3
    server.start()
    names = {one["name"] for one in server.call("GET", "/api/functions").json()["functions"]}
    assert names == {"kept"}


@promise("D22")
def test_a_restore_cut_off_is_not_served_and_is_repeatable(server: Server, tmp_path: Path) -> None:
    server.create("echo", name="kept")
    backup(server, tmp_path / "kept")
    server.stop()
    with short_dir() as root:
        other = Server(root)
        restore(tmp_path / "kept", other.data_dir)
        (other.data_dir / "restore.unfinished").touch()
        (other.data_dir / "quiltfn.db").unlink()
        other.start_without_waiting()
        assert other.wait() == 74
        assert "quiltfn restore" in other.log.read_text()
        restore(tmp_path / "kept", other.data_dir)
        other.start()
        assert len(other.call("GET", "/api/functions").json()["functions"]) == 1
        other.close()
    server.start()


@promise("D21")
def test_a_backup_appears_whole_or_not_at_all(shared: Server, tmp_path: Path) -> None:
    server = shared
    server.create("echo")
    where = ("--data-dir", str(server.data_dir))
    (tmp_path / "there").write_text("mine")
    done = quiltfn("backup", str(tmp_path / "there"), *where)
    assert (done.code, (tmp_path / "there").read_text()) == (1, "mine")
    assert "--replace" in done.stderr
    nowhere = tmp_path / "nowhere"
    done = quiltfn("backup", str(nowhere / "b.tar"), *where)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr == f"quiltfn: {nowhere}: No such file or directory\n"
    assert "choose another place" in refused("backup", str(server.data_dir / "kept"), *where)
    assert "no database" in refused("backup", str(tmp_path / "x"), "--data-dir", str(tmp_path))
    with files_at_most(50_000):
        done = quiltfn("backup", str(tmp_path / "kept"), *where, own_process=True)
    assert done.code in (1, 74)
    assert "Traceback" not in done.stderr
    backup(server, tmp_path / "there", "--replace")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["there"]


@promise("D21")
@pytest.mark.parametrize("damage", ["database", "image"])
def test_damage_is_found_when_it_is_backed_up(shared: Server, tmp_path: Path, damage: str) -> None:
    server = shared
    broken = server.data_dir / "images" / an_image(server, tmp_path) / "run.sh"
    server.stop()
    if damage == "database":
        broken = server.data_dir / "quiltfn.db"
    intact = broken.read_bytes()
    if damage == "database":
        with closing(sqlite3.connect(broken)) as connection:
            (page,) = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'invocation'"
            ).fetchone()
        with broken.open("r+b") as file:
            file.seek(4096 * (page - 1))
            file.write(os.urandom(4096))
    else:
        broken.write_text("echo something else\n")
    said = refused("backup", str(tmp_path / "kept"), "--data-dir", str(server.data_dir))
    assert ("does not match its name" in said) == (damage == "image")
    assert not (tmp_path / "kept").exists()
    broken.write_bytes(intact)
    server.start()


def test_a_backup_that_is_ended_leaves_nothing(shared: Server, tmp_path: Path) -> None:
    server = shared
    long = server.data_dir / "images" / ("ab" * 32)
    long.mkdir(mode=0o755)
    (long / "file").touch()
    os.truncate(long / "file", 4 << 30)  # a sparse file, which takes long to read
    command = [str(QUILTFN), "backup", str(tmp_path / "kept"), "--data-dir", str(server.data_dir)]
    process = subprocess.Popen(command)
    try:
        work = until(lambda: next(iter(tmp_path.glob(".kept-*/archive")), None))
        (writer,) = until(lambda: work.stat().st_size and children(process.pid))
        process.terminate()
        assert process.wait(scaled(20)) == 128 + signal.SIGTERM
        assert list(tmp_path.iterdir()) == []
        assert not is_alive(writer)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(long)


def test_an_image_without_its_files_is_told_and_comes_back_by_an_upload(shared: Server) -> None:
    server = shared
    files: dict[str, str | bytes] = {"mod.py": "def handler(event, context):\n    return 7\n"}
    runtime = sample_runtimes.add(server, "python", files)
    digest = str(server.call("GET", f"/api/runtimes/{runtime}").json()["image"])

    def finding() -> tuple[str, bool]:
        found = server.call("GET", "/api/system/doctor").json()["findings"]
        (check,) = (one for one in found if one["name"] == "images")
        return check["level"], digest in check["sentence"]

    assert finding() == ("ok", False)
    server.stop()
    shutil.rmtree(server.data_dir / "images" / digest)
    server.start()
    assert finding() == ("warn", True)
    function = server.create("mod:handler", runtime=runtime)
    failed = function.deploy()
    assert (failed["state"], digest in failed["error_message"]) == ("error", True)
    assert sample_runtimes.upload(server, files) == digest
    assert finding() == ("ok", False)
    assert function.deploy()["state"] == "active"
    assert function.invoke("{}")["stdout"] == "7"
