"""Profiles: which server gets which key, the file of profiles, and `login`."""

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from promises import promise
from quiltfn import wire
from quiltfn.cli import profiles
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.profiles import Profile, Profiles
from unit.canned_server import Terminal, answered_by, body_of
from unit.command_line import CommandLine, Printed

pytestmark = promise("M21")

WHO = body_of(wire.Whoami, tenant_id="acme", scope="write", needs_credential=True)
PROD = Profile(url="https://prod.example", api_key="quilt_sk_prod")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the file of profiles. No environment variable selects a profile."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("QUILT_BASE_URL", "QUILT_API_KEY", "QUILTFN_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "quiltfn" / "profiles.json"


class Server(CommandLine):
    """A server that accepts one key, and records the keys and addresses of requests."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(capsys)
        self.asked_with: list[tuple[str, str | None]] = []
        self.who = WHO
        self.answers["GET", ""] = (200, {"functions": [], "next_cursor": None})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("x-api-key")
        self.asked_with.append((f"{request.url.scheme}://{request.url.netloc.decode()}", key))
        if request.url.path == "/api/whoami":
            refusal = {"error": "no such key", "error_code": "UNAUTHORIZED", "hint": None}
            is_good = key == "quilt_sk_good" or not self.who["needs_credential"]
            return httpx.Response(200 if is_good else 401, json=self.who if is_good else refusal)
        return super().__call__(request)

    def log_in(self, typed: str, options: str = "", code: int = 0) -> Printed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(typed))
            return self.run(f"login {options}", code=code)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(capsys)
    answered_by(server, monkeypatch)
    return server


# --- precedence ----------------------------------------------------------------------------------


def used(**options: Any) -> tuple[str | None, str | None]:
    found = profiles.target(**options)
    return found.url, found.api_key


def test_options_beat_environment_profile_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert used() == (None, None)
    stage = Profile(url="https://stage.example", api_key="quilt_sk_stage")
    profiles.write(Profiles(current="prod", profiles={"prod": PROD, "stage": stage}))
    assert used() == (PROD.url, PROD.api_key)
    monkeypatch.setenv("QUILTFN_PROFILE", "stage")
    assert used() == (stage.url, stage.api_key)
    monkeypatch.setenv("QUILT_BASE_URL", "https://other.example")
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_other")
    assert used() == ("https://other.example", "quilt_sk_other")
    assert used(profile="prod") == (PROD.url, PROD.api_key)
    assert used(profile="prod", api_key="k") == (PROD.url, "k")
    assert used(url="http://a", api_key="b") == ("http://a", "b")


def test_a_profile_s_key_is_sent_to_its_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    assert used(url="https://prod.example/") == ("https://prod.example/", PROD.api_key)
    assert used(url="https://elsewhere.example") == ("https://elsewhere.example", None)
    assert used(url="https://elsewhere.example", profile="prod")[1] is None
    monkeypatch.setenv("QUILT_BASE_URL", "https://elsewhere.example")
    assert used() == ("https://elsewhere.example", None)


def test_unknown_profiles_name_the_nearest(cli: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    wrong = "error: there is no profile 'prdo'\nhint: is it prod?\n"
    assert cli.run("functions list --profile prdo", code=2).err == wrong
    monkeypatch.setenv("QUILTFN_PROFILE", "nothing")
    hint = "quiltfn login --profile nothing --url URL adds it"
    assert hint in cli.run("functions list", code=2).err
    assert cli.asked_with == []


# --- login ---------------------------------------------------------------------------------------


def test_login_stores_an_accepted_key_and_commands_use_it(cli: Server, place: Path) -> None:
    printed = cli.log_in("quilt_sk_good\n", "--url http://10.0.0.7:8080/ --profile lab")
    assert printed.out == "logged in to http://10.0.0.7:8080: tenant acme, scope write\n"
    assert "profile lab" in printed.err
    assert "quilt_sk_good" not in printed.out + printed.err
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    cli.run("functions list")
    assert cli.asked_with[-1] == ("http://10.0.0.7:8080", "quilt_sk_good")


def test_login_stores_no_refused_key_and_none_of_another_profile(cli: Server, place: Path) -> None:
    printed = cli.log_in("quilt_sk_wrong\n", code=1)
    assert printed.err.startswith("error: no such key\nhint: nothing was stored")
    assert not place.exists()
    good = Profile(url="http://lab.example", api_key="quilt_sk_good")
    profiles.write(Profiles(current="lab", profiles={"lab": good}))
    printed = cli.log_in("", "--url http://lab.example --profile second", code=1)
    assert "nothing was stored" in printed.err
    asked = [("http://127.0.0.1:8080", "quilt_sk_wrong"), ("http://lab.example", None)]
    assert cli.asked_with == asked
    assert list(profiles.read().profiles) == ["lab"]


def test_on_a_terminal_the_key_is_unseen(cli: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("seen\n"))
    asked: list[str] = []

    def unseen(question: str) -> str:
        asked.append(question)
        return "quilt_sk_good"

    monkeypatch.setattr("getpass.getpass", unseen)
    profile = cli.run("login -o json").data
    assert asked == ["API key for http://127.0.0.1:8080: "]
    assert (profile["name"], profile["has_key"]) == ("default", True)
    assert cli.asked_with[0][1] == "quilt_sk_good"


def test_login_again_asks_the_same_server(cli: Server) -> None:
    old = Profile(url="http://lab.example", api_key="quilt_sk_old")
    profiles.write(Profiles(current="prod", profiles={"prod": PROD, "lab": old}))
    cli.log_in("quilt_sk_good\n", "--profile lab")
    assert cli.asked_with == [("http://lab.example", "quilt_sk_good")]
    lab = Profile(url="http://lab.example", api_key="quilt_sk_good")
    assert profiles.read() == Profiles(current="lab", profiles={"prod": PROD, "lab": lab})


def test_login_names_stronger_variables(cli: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_mine")
    assert "unset QUILT_API_KEY" in cli.log_in("quilt_sk_good\n").err
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_good")
    printed = cli.log_in("")  # no key is typed, so the one in the environment is stored
    assert profiles.read().profiles["default"].api_key == "quilt_sk_good"
    assert "unset" not in printed.err
    cli.who = {**WHO, "needs_credential": False}
    assert "requires no key yet" in cli.log_in("").err
    assert profiles.read().profiles["default"].api_key is None


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 65])
def test_invalid_profile_names_send_no_request(cli: Server, place: Path, name: str) -> None:
    cli.log_in("quilt_sk_good\n", f"'--profile={name}'", code=2 if name else 0)
    assert bool(cli.asked_with) is place.exists() is not bool(name)


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_use_is_refused(cli: Server, place: Path, mode: int) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    cli.run("functions list")  # control: the file is accepted with its original mode
    place.chmod(mode)
    cli.asked_with.clear()
    error = cli.run("functions list", code=2).err
    assert "other users can read" in error
    assert f"hint: chmod 600 {place}" in error
    assert cli.asked_with == []


@pytest.mark.parametrize("text", ["", "{", '{"profiles": 1}', '{"profiles": {"a": {}}}'])
def test_a_damaged_or_unwritable_file_is_an_error(cli: Server, place: Path, text: str) -> None:
    place.parent.write_text("a file where the directory would be")
    with pytest.raises(BadParameter, match="cannot be written"):
        profiles.write(Profiles())
    place.parent.unlink()
    place.parent.mkdir()
    place.write_text(text)
    place.chmod(0o600)
    assert f"error: {place} is invalid: " in cli.run("config list", code=2).err


def test_a_link_stays_and_what_it_leads_to_is_replaced(place: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    place.parent.mkdir()
    place.symlink_to(real)
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    assert place.is_symlink()
    assert profiles.read().get("prod") == PROD
    assert sorted(one.name for one in tmp_path.iterdir()) == ["dotfiles.json", "quiltfn"]


# --- config --------------------------------------------------------------------------------------


def test_profiles_are_listed_chosen_and_removed_and_no_key_is_shown(cli: Server) -> None:
    assert "quiltfn login" in cli.run("config list").err
    open_one = Profile(url="http://127.0.0.1:8080")
    profiles.write(Profiles(current="prod", profiles={"prod": PROD, "here": open_one}))
    cli.run("config use here")
    assert "is it here?" in cli.run("config use heer", code=2).err
    assert cli.run("config list").lines == [
        "NAME SERVER KEY",
        f"prod {PROD.url} stored",
        f"* here {open_one.url} none",
    ]
    listed = cli.run("config list -o json").out
    assert [one["current"] for one in json.loads(listed)["profiles"]] == [False, True]
    assert "quilt_sk_prod" not in listed
    cli.run("config remove here")
    assert profiles.read() == Profiles(current=None, profiles={"prod": PROD})


def test_config_names_sources(cli: Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_other")
    assert cli.run("config show -o json").data == {
        **{"url": PROD.url, "url_from": "profile prod"},
        **{"has_key": True, "key_from": "QUILT_API_KEY", "cacert": None, "file": str(place)},
    }
    shown = cli.run("config show --profile prod").out
    assert "set (profile prod)" in shown
    assert "quilt_sk" not in shown


@pytest.mark.parametrize("line", ["login", "config show"])
def test_bad_addresses_are_errors(cli: Server, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    monkeypatch.setenv("QUILT_BASE_URL", "ftp://me:canary@there")
    printed = cli.run(line, code=2)
    assert printed.err.startswith(
        "error: the server's address must look like http://127.0.0.1:8080"
    )
    assert "canary" not in printed.out + printed.err
