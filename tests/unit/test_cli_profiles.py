"""Profiles: who is asked with which key, the file that they are in, and `login`."""

import io
import json
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from promises import promise
from quiltfn.cli import profiles, run
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.profiles import Profile, Profiles
from unit.canned_server import Fake, Terminal, answered_by

pytestmark = promise("M21")

Captured = pytest.CaptureFixture[str]
WHO: dict[str, Any] = {
    **{"tenant_id": "acme", "scope": "write", "credential": "k1", "expires_at": None},
    **{"needs_credential": True, "version": "1", "node_id": "n1", "offers": []},
}
PROD = Profile(url="https://prod.example", api_key="quilt_sk_prod")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the profiles are; nothing of the environment says which."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("QUILT_BASE_URL", "QUILT_API_KEY", "QUILTFN_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "quiltfn" / "profiles.json"


class Server(Fake):
    """Takes one key, and notes with which it was asked at which address."""

    def __init__(self, key: str = "quilt_sk_good") -> None:
        super().__init__()
        self.asked_with: list[tuple[str, str | None]] = []
        self._key, self.who = key, WHO
        self.answers["GET", ""] = (200, {"functions": [], "next_cursor": None})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("x-api-key")
        self.asked_with.append((f"{request.url.scheme}://{request.url.netloc.decode()}", key))
        if request.url.path == "/api/whoami":
            refusal = {"error": "no such key", "error_code": "UNAUTHORIZED", "hint": None}
            is_good = key == self._key or not self.who["needs_credential"]
            return httpx.Response(200 if is_good else 401, json=self.who if is_good else refusal)
        return super().__call__(request)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    one = Server()
    answered_by(one, monkeypatch)
    return one


def typed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# --- what has more weight ------------------------------------------------------------------------


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


def test_a_profile_that_is_not_there_is_an_error_that_names_the_nearest(
    server: Server, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    assert run(["functions", "list", "--profile", "prdo"]) == 2
    assert capsys.readouterr().err == "error: there is no profile 'prdo'\nhint: is it prod?\n"
    monkeypatch.setenv("QUILTFN_PROFILE", "nothing")
    assert run(["functions", "list"]) == 2
    assert "quiltfn login --profile nothing --url URL makes one" in capsys.readouterr().err
    assert server.asked_with == []


# --- login ---------------------------------------------------------------------------------------


def test_login_stores_a_key_that_the_server_takes_and_commands_use_it(
    server: Server, place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("quilt_sk_good\n", monkeypatch)
    assert run(["login", "--url", "http://10.0.0.7:8080/", "--profile", "lab"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "logged in to http://10.0.0.7:8080: tenant acme, scope write\n"
    assert "profile lab" in printed.err
    assert "quilt_sk_good" not in printed.out + printed.err
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert run(["functions", "list"]) == 0
    assert server.asked_with[-1] == ("http://10.0.0.7:8080", "quilt_sk_good")


def test_login_stores_nothing_of_a_key_that_is_refused(
    server: Server, place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("quilt_sk_wrong\n", monkeypatch)
    assert run(["login"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: no such key\nhint: nothing was stored")
    assert not place.exists()
    assert server.asked_with == [("http://127.0.0.1:8080", "quilt_sk_wrong")]


def test_login_without_a_key_takes_none_of_another_profile(
    server: Server, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Profile(url="http://lab.example", api_key="quilt_sk_good")
    profiles.write(Profiles(current="lab", profiles={"lab": good}))
    typed("", monkeypatch)
    assert run(["login", "--url", "http://lab.example", "--profile", "second"]) == 1
    assert "nothing was stored" in capsys.readouterr().err
    assert server.asked_with == [("http://lab.example", None)]
    assert list(profiles.read().profiles) == ["lab"]


def test_on_a_terminal_the_key_is_asked_for_unseen(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("seen\n"))
    asked: list[str] = []

    def unseen(question: str) -> str:
        asked.append(question)
        return "quilt_sk_good"

    monkeypatch.setattr("getpass.getpass", unseen)
    assert run(["login", "-o", "json"]) == 0
    assert asked == ["API key for http://127.0.0.1:8080: "]
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["has_key"]) == ("default", True)
    assert server.asked_with[0][1] == "quilt_sk_good"


def test_login_again_asks_the_same_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Profile(url="http://lab.example", api_key="quilt_sk_old")
    profiles.write(Profiles(current="prod", profiles={"prod": PROD, "lab": old}))
    typed("quilt_sk_good\n", monkeypatch)
    assert run(["login", "--profile", "lab"]) == 0
    assert server.asked_with == [("http://lab.example", "quilt_sk_good")]
    stored = profiles.read()
    assert stored.current == "lab"
    assert stored.profiles["lab"].api_key == "quilt_sk_good"
    assert stored.profiles["prod"] == PROD


def test_a_server_that_needs_no_key_is_stored_without_one(
    server: Server, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.who = {**WHO, "needs_credential": False}
    typed("quilt_sk_unused\n", monkeypatch)
    assert run(["login"]) == 0
    assert "needs no key yet" in capsys.readouterr().err
    assert profiles.read().profiles["default"].api_key is None


@pytest.mark.usefixtures("server")
def test_login_names_stronger_variables(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_mine")
    typed("quilt_sk_good\n", monkeypatch)
    assert run(["login"]) == 0
    assert "unset QUILT_API_KEY" in capsys.readouterr().err
    typed("", monkeypatch)
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_good")
    assert run(["login"]) == 0, "no key is typed: that of the environment is stored"
    assert profiles.read().profiles["default"].api_key == "quilt_sk_good"
    assert "unset" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 65])
def test_a_name_that_no_profile_can_have_is_refused_before_a_server_is_asked(
    server: Server, place: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("quilt_sk_good\n", monkeypatch)
    assert run(["login", f"--profile={name}"]) == (2 if name else 0)
    assert bool(server.asked_with) is place.exists() is not bool(name)


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_read_or_write_is_refused_with_the_way_to_mend_it(
    server: Server, place: Path, capsys: Captured, mode: int
) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    assert run(["functions", "list"]) == 0, "the control: it is read as it was written"
    place.chmod(mode)
    server.asked_with.clear()
    assert run(["functions", "list"]) == 2
    told = capsys.readouterr().err
    assert "others than its owner" in told
    assert f"hint: chmod 600 {place}" in told
    assert server.asked_with == []


@pytest.mark.parametrize("text", ["", "{", '{"profiles": 1}', '{"profiles": {"a": {}}}'])
def test_a_damaged_file_is_an_error_that_says_so(place: Path, capsys: Captured, text: str) -> None:
    place.parent.mkdir()
    place.write_text(text)
    place.chmod(0o600)
    assert run(["config", "list"]) == 2
    assert f"error: {place} has no profiles that can be read" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_an_error(place: Path) -> None:
    place.parent.write_text("a file where the directory would be")
    with pytest.raises(BadParameter, match="cannot be written"):
        profiles.write(Profiles())


def test_a_link_stays_and_what_it_leads_to_is_replaced(place: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    place.parent.mkdir()
    place.symlink_to(real)
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    assert place.is_symlink()
    assert profiles.read().get("prod") == PROD
    assert sorted(one.name for one in tmp_path.iterdir()) == ["dotfiles.json", "quiltfn"]


# --- config --------------------------------------------------------------------------------------


def test_profiles_are_listed_chosen_and_removed_and_no_key_is_shown(capsys: Captured) -> None:
    assert run(["config", "list"]) == 0
    assert "quiltfn login" in capsys.readouterr().err
    open_one = Profile(url="http://127.0.0.1:8080")
    profiles.write(Profiles(current="prod", profiles={"prod": PROD, "here": open_one}))
    assert run(["config", "use", "here"]) == 0
    assert run(["config", "use", "heer"]) == 2
    assert run(["config", "list"]) == 0
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines()]
    assert rows[-3:] == [
        ["NAME", "SERVER", "KEY"],
        ["prod", PROD.url, "stored"],
        ["*", "here", open_one.url, "none"],
    ]
    assert "is it here?" in told.err
    assert run(["config", "list", "-o", "json"]) == 0
    listed = capsys.readouterr().out
    assert [one["current"] for one in json.loads(listed)["profiles"]] == [False, True]
    assert "quilt_sk_prod" not in listed
    assert run(["config", "remove", "here"]) == 0
    assert profiles.read() == Profiles(current=None, profiles={"prod": PROD})


def test_what_is_used_is_shown_with_where_it_comes_from(
    place: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles.write(Profiles(current="prod", profiles={"prod": PROD}))
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_other")
    assert run(["config", "show", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        **{"url": PROD.url, "url_from": "profile prod"},
        **{"has_key": True, "key_from": "QUILT_API_KEY", "cacert": None, "file": str(place)},
    }
    assert run(["config", "show", "--profile", "prod"]) == 0
    shown = capsys.readouterr().out
    assert "set (profile prod)" in shown
    assert "quilt_sk" not in shown


@pytest.mark.parametrize("words", [["login"], ["config", "show"]])
def test_what_is_no_address_is_an_error_that_shows_no_password(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    monkeypatch.setenv("QUILT_BASE_URL", "ftp://me:canary@there")
    assert run(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: the server's address must look like http://127.0.0.1:8080")
    assert "canary" not in told.out + told.err
