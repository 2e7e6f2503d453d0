"""Real nodes: the effects of a node's file, and the messages of a server that refuses to start with
it.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from e2e.server import QUILTFN, Server, quiltfn
from fleet.nodes import PASSWORD_FILE, Fleet
from postgresql import PASSWORD
from promises import promise
from quiltfn.base.setting_files import read_private
from quiltfn.fleet import files
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("N2", "N3")]


def refusal(server: Server, code: int) -> str:
    """Starts a server that must refuse to start; returns its message."""
    server.start_without_waiting()
    assert server.wait() == code, server.log.read_text()
    said = server.log.read_text()
    assert "Traceback" not in said
    assert PASSWORD not in said
    return said


def test_two_nodes_share_a_store_and_have_their_names(fleet: Fleet) -> None:
    first, second = fleet.node("one").start(), fleet.node("two").start()
    for node, name in ((first, "one"), (second, "two")):
        node.until_ready()
        record = node.deploy("echo hello", name=f"of-{name}").invoke()
        assert record["execution_node_id"] == name
    assert not list(first.data_dir.glob("quiltfn.db*"))
    first.restart()
    listed = first.call("GET", "/api/functions").json()["functions"]
    assert {each["name"] for each in listed} == {"of-one", "of-two"}
    # Keys are created with the file of the fleet, or with that of a node.
    made = quiltfn("keys", "create", "--tenant", "default", "--fleet", str(fleet.file), cwd="/")
    assert made.code == 0, made.stderr
    node_file = str(fleet.directory / "one.toml")
    listed = quiltfn("keys", "list", "--output", "json", "--fleet", node_file, cwd="/")
    assert [each["scope"] for each in json.loads(listed.stdout)["keys"]] == ["operator"]
    bad = quiltfn("keys", "list", "--fleet", str(fleet.directory / PASSWORD_FILE), cwd="/")
    assert (bad.code, "fleet: " in bad.stderr) == (78, True), bad.stderr


def test_no_secret_of_a_node_is_to_be_read(fleet: Fleet) -> None:
    node = fleet.node("one").start()
    made = files.parse(files.NodeFile, read_private("fleet", fleet.directory / "one.toml"))
    key = made.key.splitlines()[1]
    for pid in (node.launcher, node.pid):
        for name in ("cmdline", "environ"):
            held = Path(f"/proc/{pid}/{name}").read_bytes()
            for secret in (PASSWORD, made.signing_key, key):
                assert secret.encode() not in held
    for kept in node.data_dir.rglob("*"):
        assert kept.is_dir() or key.encode() not in kept.read_bytes()


def test_a_second_node_of_a_name_is_refused_until_the_first_is_killed(fleet: Fleet) -> None:
    first, second = fleet.node("one").start(), fleet.node("one")
    assert "A node named one is serving from this database already" in refusal(second, 75)
    first.until_ready()
    first.kill_server()
    assert first.wait() == 70
    second.start()


def test_a_server_without_the_file_is_refused(fleet: Fleet) -> None:
    options = f"--store {fleet.url} --store-password-file {fleet.directory / 'password'}"
    assert "The database is a fleet's. Start with --fleet FILE" in refusal(
        fleet.another(options=options), 74
    )


def test_a_file_that_cannot_be_used_is_told(fleet: Fleet) -> None:
    """Other refusals are tested in `unit/test_fleet_files.py`."""
    path = fleet.add("one")
    path.chmod(0o644)
    assert "its mode is 0644: chmod 600" in refusal(fleet.node("one"), 78)
    path.chmod(0o600)
    fleet.node("one").start()  # control: the unchanged file is accepted


def test_an_expired_file_is_told_and_a_new_one_serves(fleet: Fleet) -> None:
    made = files.parse(files.FleetFile, read_private("fleet", fleet.file))
    address, month_s = f"127.0.0.1:{1}", 30 * 86_400
    before = files.new_node(made, "one", (address, address), time.time() - 2 * month_s, 30)
    files.write(fleet.directory / "one.toml", files.as_text(before))
    message = refusal(fleet.node("one"), 78)
    assert "fleet: certificate has expired at" in message
    assert "quiltfn fleet add-node" in message
    (fleet.directory / "one.toml").unlink()
    node = fleet.node("one").start()
    assert "expires in" not in node.log.read_text()
    node.stop()
    (fleet.directory / "one.toml").unlink()
    fleet.add("one", "--days", "3")
    assert "expires in 3 days: create a new file" in fleet.node("one").start().log.read_text()


def test_a_fleet_is_made_once_and_leaves_no_file_where_it_cannot(fleet: Fleet) -> None:
    path = fleet.directory / "again.toml"
    secret = str(fleet.directory / "password")
    where = ("--fleet", str(path), "--store-password-file", secret)
    done = quiltfn("fleet", "init", "--store", fleet.url, *where)
    assert done.code == 74
    assert "is a fleet's already" in done.stderr
    done = quiltfn("fleet", "init", "--store", "postgresql://quiltfn@127.0.0.1:1/none", *where)
    assert done.code == 74
    assert "Connection refused" in done.stderr
    assert not path.exists()


def test_on_a_terminal_it_asks_and_hides_the_password(database: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    path = tmp_path / "asked.toml"
    command = ["setsid", "--ctty", "--wait", str(QUILTFN), "fleet", "init", "--fleet", str(path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        for question, answer in ((b"DATABASE): ", database), (b"none): ", PASSWORD)):
            while not said.endswith(question):
                said += os.read(ours, 1024)
            os.write(ours, answer.encode() + b"\n")
        while b"is its file" not in said:
            said += os.read(ours, 1024)
        assert process.wait(scaled(30)) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert PASSWORD.encode() not in said
    made = files.parse(files.FleetFile, read_private("fleet", path))
    assert (made.store, made.store_password) == (database, PASSWORD)
