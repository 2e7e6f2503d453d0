"""The files of a fleet: their content, what is refused, and that no error shows a secret."""

import os
import ssl
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from promises import promise
from quiltfn.base.setting_files import BadSetting
from quiltfn.fleet import files
from quiltfn.fleet.files import FleetFile, NodeFile, as_text, new_fleet, new_node, parse
from quiltfn.operator import fleet as command
from quiltfn.operator.chosen_settings import secret_files
from quiltfn.operator.serve import read_secrets
from quiltfn.settings import from_everywhere

pytestmark = promise("N2")

NOW, DAY_S = 1_800_000_000.0, 86_400
STORE, PASSWORD = "postgresql://quiltfn@db/quiltfn", 'a "secret"\\of all=nodes'
FLEET = new_fleet(STORE, PASSWORD, NOW)
NODE = new_node(FLEET, "one", ("10.0.0.1:8443", "0.0.0.0:8443"), NOW, 365)


def changed(**fields: Any) -> str:
    return as_text(msgspec.structs.replace(NODE, **fields))


def test_both_files_come_back_and_a_node_has_no_key_of_the_authority() -> None:
    assert parse(FleetFile, as_text(FLEET)) == FLEET
    assert parse(NodeFile, as_text(NODE)) == NODE
    assert FLEET.store_password == NODE.store_password == PASSWORD
    assert FLEET.ca_key not in as_text(NODE)


def test_the_certificate_is_good_for_tls_on_both_sides_for_a_time(tmp_path: Path) -> None:
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose, cadata=NODE.ca_certificate)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        for name, text in (("cert", NODE.certificate), ("key", NODE.key)):
            (tmp_path / name).write_text(text)
        context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    assert 364 < NODE.check_certificate(NOW) <= 365
    for later_s, message in (
        (366 * DAY_S, "certificate has expired at 2028-01-1"),
        (-30 * DAY_S, "certificate is not valid before 2027-01-1"),
    ):
        with pytest.raises(BadSetting, match=message):
            NODE.check_certificate(NOW + later_s)


def test_a_certificate_of_another_name_authority_or_key_is_refused() -> None:
    other = new_node(new_fleet(STORE, "", NOW), "one", ("a:1", "a:1"), NOW, 9)
    two = new_node(FLEET, "two", ("a:1", "a:1"), NOW, 9)
    for fields, message in (
        ({"name": "two"}, "certificate is of one, not of two"),
        ({"ca_certificate": other.ca_certificate}, "was not made by the authority"),
        ({"key": two.key}, "key is not the key of certificate"),
        ({"key": "x"}, "key is no private key in PEM"),
        ({"certificate": "x"}, "certificate is no certificate in PEM"),
        ({"ca_certificate": "x"}, "ca_certificate is no certificate in PEM"),
    ):
        with pytest.raises(BadSetting, match=message):
            parse(NodeFile, changed(**fields)).check_certificate(NOW)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no format"),
        ("format = 2", "has the format 2; this quiltfn supports format 1"),
        ("format = 1\nkind = 'fleet'", "kind must be 'node'"),
        ("format = [", "is not TOML"),
        (changed(name="One"), "name must be 1 to 63 lowercase letters"),
        (changed(name="a" * 64), "name must be"),
        (changed(address="10.0.0.1"), "address must be HOST:PORT"),
        (changed(listen="10.0.0.1:port"), "listen must be HOST:PORT"),
        (changed(listen="a b:1"), "listen must be HOST:PORT"),
        (changed(store="mysql://a@b/c"), "store must be postgresql://"),
        (changed(store="postgresql://a:hidden@b/c"), "store must not contain a password"),
        (changed(store_password="a\tb"), "store_password must contain one line"),
        (changed(signing_key="ab"), "signing_key must be 64 hexadecimal digits"),
        (changed(fleet_id="x" * 32), "fleet_id must be 32 hexadecimal digits"),
        (as_text(NODE) + "more = 1\n", "unknown field `more`"),
        (as_text(NODE).replace("name = ", "n = "), "unknown field `n`|missing required field"),
        (as_text(NODE).replace('name = "one"', "name = 1"), "Expected `str`, got `int`"),
    ],
)
def test_what_cannot_be_used_is_named_and_nothing_else_is_told(text: str, message: str) -> None:
    with pytest.raises(BadSetting, match=message) as refused:
        parse(NodeFile, text)
    said = str(refused.value)
    assert said.startswith(("fleet:", "name ", "address ", "listen ", "store"))
    for secret in (PASSWORD, NODE.signing_key, NODE.key, "hidden"):
        assert secret not in said


def test_nobody_reaches_a_node_at_any_address_or_at_port_0() -> None:
    for address in ("0.0.0.0:1", "[::]:1", "10.0.0.1:0"):
        with pytest.raises(BadSetting, match="one that others can reach"):
            new_node(FLEET, "one", (address, address), NOW, 9)
    made = new_node(FLEET, "one", ("[fd00::1]:8443", "[::]:8443"), NOW, 9)
    assert files.split_address("address", made.address) == ("fd00::1", 8443)


# The setting ---------------------------------------------------------------------------------


def node_file(tmp_path: Path) -> Path:
    files.write(tmp_path / "node.toml", as_text(NODE))
    return tmp_path / "node.toml"


def test_a_file_is_its_owners_alone_from_the_beginning(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = node_file(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        node_file(tmp_path)
    secrets = read_secrets(secret_files(from_everywhere({"fleet": str(path)}, {})))
    assert parse(NodeFile, secrets["fleet"]) == NODE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_for_others_or_that_is_missing_is_refused(tmp_path: Path, mode: int) -> None:
    path = node_file(tmp_path)
    path.chmod(mode)
    chosen = secret_files(from_everywhere({"fleet": str(path)}, {}))
    with pytest.raises(BadSetting, match=f"fleet: .*its mode is {mode:04o}: chmod 600"):
        read_secrets(chosen)
    path.unlink()
    with pytest.raises(BadSetting, match=r"fleet: .*node.toml cannot be read: No such file"):
        read_secrets(chosen)


@pytest.mark.parametrize("name", ["store", "store_password_file", "node_id"])
def test_what_the_file_says_no_setting_says(tmp_path: Path, name: str) -> None:
    given = {"fleet": str(tmp_path / "f"), name: "postgresql://a@b/c"}
    with pytest.raises(BadSetting, match=f"{name} cannot be combined with fleet"):
        from_everywhere(given, {})
    assert from_everywhere({"fleet": str(tmp_path / "f")}, {}).node_id == ""


# The command ---------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return command.main(arguments)


def test_add_node_writes_a_file_that_serve_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files.write(tmp_path / "fleet.toml", as_text(FLEET))
    assert run("add-node", "one", "--address", "db.example.com:8443") == 0
    said = capsys.readouterr().out
    assert "quiltfn serve --fleet one.toml" in said
    assert "a node that was removed from the fleet cannot start again" in said
    made = parse(NodeFile, (tmp_path / "one.toml").read_text())
    assert made.address == made.listen == "db.example.com:8443"
    assert made.signing_key == FLEET.signing_key
    before = (tmp_path / "one.toml").read_bytes()
    assert run("add-node", "one", "--address", "a:1") == 1, "nothing is overwritten"
    assert "one.toml: the file exists; choose another with --output" in capsys.readouterr().err
    assert (tmp_path / "one.toml").read_bytes() == before
    other = ("--address", "a:1", "--output", "again.toml")
    assert run("add-node", "one", *other) == 0


def test_options_have_the_name_that_help_has(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run()
    output = capsys.readouterr().err
    assert "quiltfn fleet [-h] COMMAND" in output
    assert "required: COMMAND" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("add-node A --address a:1", "name must be"),
        ("add-node a --address a", "address must be HOST:PORT"),
        ("add-node a --address a:1 --listen a", "listen must be HOST:PORT"),
        ("add-node a --address a:1 --days 0", "days must be between 1 and 3650"),
        ("add-node a --address a:1 --fleet none", "fleet: none cannot be read"),
        ("init --store mysql://a@b/c --fleet new", "store must be postgresql"),
        ("init --fleet new", "store is needed: --store"),
    ],
)
def test_a_bad_argument_is_named_and_makes_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    files.write(tmp_path / "fleet.toml", as_text(FLEET))
    assert run(*arguments.split()) == 78
    assert message in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["fleet.toml"]


def test_a_nodes_file_adds_no_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = node_file(tmp_path)
    assert run("add-node", "two", "--address", "a:1", "--fleet", str(path)) == 78
    assert "kind must be 'fleet'" in capsys.readouterr().err
