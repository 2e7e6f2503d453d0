"""A fleet is backed up while it runs, and restored: with the same nodes, and as a new fleet."""

import shutil
import subprocess
from pathlib import Path

import pytest

import postgresql
from browser.scene import archive_of
from e2e.server import Function, Server, quiltfn, until
from fleet.nodes import Fleet
from postgresql import PASSWORD, Cluster
from promises import promise
from quiltfn.sdk import Client

pytestmark = [pytest.mark.sandbox, promise("N66")]
HANDLER = "def handler(event):\n    return {'said': event['word']}\n"


def run(program: str, url: str, *arguments: str) -> None:
    """Runs one of PostgreSQL's programs, as an operator does."""
    programs = postgresql.programs()
    assert programs is not None
    command = [str(programs / program), f"--dbname={url}", *arguments]
    done = subprocess.run(
        command, env={"PGPASSWORD": PASSWORD}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def with_files(node: Server, directory: Path) -> Function:
    """Deploys a function with its own files."""
    archive = directory / "files.tar"
    archive.write_bytes(archive_of({"main.py": HANDLER}))
    with Client(node.url) as client:
        image = client.runtimes.upload_image(archive)
        client.runtimes.add(name="own", kind="python", image=image.digest)
    return node.deploy("main:handler", name="says", runtime="own")


def says(node: Server, function: Function, word: str) -> None:
    """Invokes the function at this node. A node that has just started may not be able to fetch the
    files at first.
    """
    answers = []

    def is_run() -> bool:
        answers.append(Function(node, function.id).try_invoke(f'{{"word": "{word}"}}'))
        return answers[-1].status_code == 200

    until(is_run)
    record = answers[-1].json()
    assert (record["status"], word in record["stdout"]) == ("success", True), record


def count_of(node: Server, function: Function) -> int:
    return len(Function(node, function.id).records())


def test_a_fleet_is_restored(fleet: Fleet, cluster: Cluster, database: str, tmp_path: Path) -> None:
    node = fleet.node("one").start()
    function = with_files(node, tmp_path)
    says(node, function, "kept")
    refused = quiltfn("backup", str(tmp_path / "x.tar"), "--data-dir", str(node.data_dir))
    assert refused.code == 74
    assert "pg_dump" in refused.stderr
    settings = tmp_path / "quiltfn.toml"
    settings.write_text(f'fleet = "{tmp_path / "one.toml"}"\n')
    for verb in ("backup", "restore"):
        refused = quiltfn(verb, str(tmp_path / "x.tar"), "--config", str(settings))
        assert refused.code == 74
        assert "a node of a fleet" in refused.stderr
    # The backup is made while the nodes run: first the database, then the files of runtimes.
    dump = tmp_path / "dump"
    run("pg_dump", database, "--format=custom", f"--file={dump}")
    shutil.copytree(node.data_dir / "images", tmp_path / "images")
    says(node, function, "lost")
    node.terminate()
    assert node.wait() == 0
    # The same fleet is restored on new machines: the files of nodes are still valid.
    name = database.rpartition("/")[2].partition("?")[0]
    cluster.drop(name)
    cluster.create(name)
    run("pg_restore", database, "--no-owner", "--exit-on-error", str(dump))
    again = restored(fleet, "one", tmp_path / "images")
    assert count_of(again, function) == 1
    says(again, function, "again")
    again.terminate()
    assert again.wait() == 0
    # Another fleet is restored by an operator who has only the backup.
    done = quiltfn(*init(fleet, database, tmp_path / "new.toml"))
    assert done.code == 74
    assert "is a fleet's already" in done.stderr
    run("psql", database, "--command=DELETE FROM fleet")
    done = quiltfn(*init(fleet, database, tmp_path / "new.toml"))
    assert done.code == 0, done.stderr
    (tmp_path / "new").mkdir()
    another = Fleet(tmp_path / "new", database, fleet.another)
    (tmp_path / "new.toml").rename(another.file)
    only = restored(another, "two", tmp_path / "images")
    assert count_of(only, function) == 2
    says(only, function, "elsewhere")
    assert only.call("GET", "/api/nodes/one").json()["presence"] in ("left", "gone")


def init(fleet: Fleet, url: str, file: Path) -> list[str]:
    secret = str(fleet.directory / "password")
    return ["fleet", "init", "--fleet", str(file), "--store", url, "--store-password-file", secret]


def restored(fleet: Fleet, name: str, kept: Path) -> Server:
    """A new node on a machine that has only the files of runtimes from the backup."""
    node = fleet.node(name)
    node.data_dir.mkdir(parents=True)
    shutil.copytree(kept, node.data_dir / "images")
    return node.start()
