"""Settings: their sources, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn import settings
from quiltfn.base.setting_files import BadSetting
from quiltfn.model import keepalive, version
from quiltfn.sandbox import guest
from quiltfn.settings import (
    FLEET_ENDING_S,
    PREFIX,
    RENAMED,
    SETTINGS,
    Setting,
    from_everywhere,
    old_names,
    unknown_variables,
)

NUMBERS = [one for one in SETTINGS if one.low is not None]
# Times that must increase from one to the next, all as short and as long as allowed.
GROWING = [one for one in NUMBERS if one.name.startswith("fleet_")]
SHORTEST = {one.name: str(one.low) for one in GROWING}
LONGEST = {one.name: str(one.high) for one in GROWING}


def config(tmp_path: Path, text: str) -> dict[str, Any]:
    file = tmp_path / "quiltfn.toml"
    file.write_text(text)
    return {"config": str(file)}


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    given = config(tmp_path, "port = 1\nline_max = 1\nkeep_alive_s = 1\n")
    environ = {PREFIX + "PORT": "2", PREFIX + "QUEUE_MAX": "2"}
    found = from_everywhere({**given, "port": "3"}, environ)
    assert (found.port, found.queue_max, found.keep_alive_s) == (3, 2, 1)
    assert found.audit_days == 90
    assert from_everywhere({"port": None}, environ).port == 2  # this option was not given


def test_the_environment_may_name_the_file_and_the_command_line_another(tmp_path: Path) -> None:
    first = tmp_path / "first.toml"
    first.write_text("port = 1")
    environ = {PREFIX + "CONFIG": str(first)}
    assert from_everywhere({}, environ).port == 1
    assert from_everywhere(config(tmp_path, "port = 2"), environ).port == 2


def test_a_variable_that_is_no_setting_is_told() -> None:
    warnings = unknown_variables(
        {PREFIX + "PREWARMD": "3", PREFIX + "PREWARMED": "3", "PATH": "/bin"}
    )
    assert warnings == ["the variable QUILTFN_PREWARMD is ignored: prewarmd is not a setting"]
    assert unknown_variables({PREFIX + old.upper(): "1" for old in RENAMED}) == []
    assert unknown_variables({PREFIX + "CONFIG": "/etc/quiltfn.toml"}) == []


def test_the_variables_of_tests_and_tools_are_known() -> None:
    root = Path(__file__).parents[2]
    tools = [root / "scripts", root / "bench", root / "tests" / "timeouts.py"]
    files = [one for tool in tools for one in (tool.rglob("*") if tool.is_dir() else [tool])]
    ours = [one for one in files if one.is_file() and one.suffix in ("", ".py", ".sh")]
    # "results" contains built programs.
    texts = [one.read_text() for one in ours if "results" not in one.parts]
    named = {name for text in texts for name in re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)}
    assert {PREFIX + "TEST_TIME_FACTOR", PREFIX + "TEST_BUSY_FACTOR"} <= named
    assert unknown_variables(dict.fromkeys(named, "")) == []


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_works_from_everywhere_and_is_told(tmp_path: Path, old: str, new: str) -> None:
    in_file = config(tmp_path, f"{old} = 1\n")
    for given, environ in (({old: "1"}, {}), ({}, {PREFIX + old.upper(): "1"}), (in_file, {})):
        assert getattr(from_everywhere(given, environ), new) == 1
        (sentence,) = old_names(given, environ)
        assert f"{old} is now called {new}" in sentence
    assert old_names({new: "1"}, {PREFIX + new.upper(): "1"}) == []


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_weighs_less_than_the_new_one_in_its_place(old: str, new: str) -> None:
    assert getattr(from_everywhere({old: "1"}, {PREFIX + new.upper(): "2"}), new) == 1
    assert getattr(from_everywhere({new: "1"}, {PREFIX + old.upper(): "2"}), new) == 1
    assert getattr(from_everywhere({old: "1", new: "2"}, {}), new) == 2
    with pytest.raises(BadSetting, match=rf"^{new} must be"):
        from_everywhere({old: "many"}, {})


@promise("N34")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fleet_beat_s": "5.1"}, "fleet_fence_s must be at least twice fleet_beat_s"),
        ({"fleet_fence_s": "3.9"}, "fleet_fence_s must be at least twice fleet_beat_s"),
        ({"fleet_fence_s": "60"}, "fleet_end_s must be more than fleet_fence_s"),
        ({"fleet_end_s": "10"}, "fleet_end_s must be more than fleet_fence_s"),
        ({"fleet_end_s": "94.1"}, "fleet_reap_s must be at least 6 more than fleet_end_s"),
        ({"fleet_reap_s": "65.9"}, "fleet_reap_s must be at least 6 more than fleet_end_s"),
    ],
)
def test_fleet_times_leave_room(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(BadSetting, match=rf"^{message}, which is .*it is [0-9.]+$"):
        from_everywhere(wrong, {})


@pytest.mark.parametrize(
    "right",
    [{"fleet_beat_s": "5"}, {"fleet_fence_s": "4"}, {"fleet_end_s": "94"}, {"fleet_reap_s": "66"}],
)
def test_the_times_of_a_fleet_may_be_as_near_as_that(right: dict[str, str]) -> None:
    from_everywhere(right, {})


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_a_range_includes_its_ends_and_nothing_beyond(field: Setting) -> None:
    low, high = field.low, field.high
    assert low is not None
    assert high is not None
    step = 1 if field.kind is int else 0.01
    for value, others in ((low, SHORTEST), (high, LONGEST)):
        given = others | {field.name: str(value)}
        assert getattr(from_everywhere(given, {}), field.name) == value
    for value in (low - step, high + step):
        with pytest.raises(BadSetting, match=rf"^{field.name} must be between"):
            from_everywhere({field.name: str(value)}, {})


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
@pytest.mark.parametrize("value", ["", "x", "nan", "1e999", "0x10"])
def test_a_value_that_is_no_number_in_range_is_named(field: Setting, value: str) -> None:
    with pytest.raises(BadSetting, match=rf"^{field.name} must be"):
        from_everywhere({}, {PREFIX + field.name.upper(): value})


@pytest.mark.parametrize("field", NUMBERS, ids=lambda field: field.name)
def test_a_truth_value_is_no_number(tmp_path: Path, field: Setting) -> None:
    with pytest.raises(BadSetting, match=rf"^{field.name} must be"):
        from_everywhere(config(tmp_path, f"{field.name} = true"), {})
    with pytest.raises(BadSetting, match=r"^port must be a whole number"):
        from_everywhere(config(tmp_path, "port = 80.5"), {})


def test_a_whole_number_will_do_for_seconds(tmp_path: Path) -> None:
    assert from_everywhere(config(tmp_path, "idle_s = 60"), {}).idle_s == 60.0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("colour = 1", "colour is not a setting"),
        ("[serve]\nport = 1", "serve is not a setting"),
        ("port = ", "cannot be read"),
        ("port = 1\nport = 2", "cannot be read"),
        ("host = 'a.example'", "host must be an IP address or localhost"),
        ("host = ''", "host must be an IP address or localhost"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadSetting, match=sentence):
        from_everywhere(config(tmp_path, text), {})


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="cannot be read"):
        from_everywhere({"config": str(tmp_path / "none")}, {})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSetting, match="cannot be read"):
        from_everywhere({"config": str(tmp_path / "bytes")}, {})


def test_relative_paths_are_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = from_everywhere({"data_dir": "here", "tls_cert": "a", "tls_key": "b"}, {})
    assert found.data_dir == tmp_path / "here"
    assert (found.tls_cert, found.tls_key) == (tmp_path / "a", tmp_path / "b")
    assert from_everywhere({}, {}).data_dir == tmp_path / "data"


def test_loopback_is_recognised() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert settings.is_loopback(host)
    for host in ("0.0.0.0", "::", "10.0.0.1", "fe80::1"):
        assert not settings.is_loopback(host)
        assert from_everywhere({"host": host}, {}).host == host


TAKEN = {
    "egress_dns": ["1.1.1.1", "10.0.0.53", "::1", "2606:4700:4700::1111", ""],
    "durability": ["relaxed", "strict"],
    "store": [
        "postgresql://me@host/base",
        "postgres://me@host:5433/base?sslmode=verify-full&sslrootcert=/etc/ca.crt",
        "postgresql://me@/base?host=/run/postgresql",
        "postgresql://me@one:1,two:2/base?target_session_attrs=read-write",
        "postgresql://me@[::1]:5432/base",
    ],
}
REFUSED = {
    "egress_dns must be an IP address": {
        "egress_dns": ["resolver", "1.1.1.1:53", "1.1.1.1 8.8.8.8", "1.1.1.1\nsearch x"]
    },
    "durability must be relaxed or strict": {"durability": ["", "Strict", "none", "relaxed "]},
    "tls_cert and tls_key must be set together": {
        "tls_cert": ["file.pem"],
        "tls_key": ["file.pem"],
    },
    "store_password_file requires store": {"store_password_file": ["/file"]},
}


@pytest.mark.parametrize(("name", "value"), [(name, one) for name in TAKEN for one in TAKEN[name]])
def test_a_value_that_is_taken(name: str, value: str) -> None:
    assert getattr(from_everywhere({name: value}, {}), name) == value


@pytest.mark.parametrize(
    ("sentence", "name", "value"),
    [(says, name, one) for says, of in REFUSED.items() for name in of for one in of[name]],
)
def test_a_value_that_is_refused(sentence: str, name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=sentence):
        from_everywhere({name: value}, {})


def test_what_settings_may_not_import_they_repeat_rightly() -> None:
    assert settings.POLICIES == keepalive.POLICIES
    assert settings.MEMORY_MIN_MIB == version.MEMORY_MIN_MIB
    # A node must not be taken over while its server waits for the launcher.
    assert FLEET_ENDING_S > guest.LAUNCHER_ANSWERS_S


def test_a_result_has_a_limit_of_its_own_or_counts_as_standard_output() -> None:
    assert from_everywhere({"stdout_max_bytes": "65536"}, {}).output_max == (65_536, 2**20)
    given = {"stderr_max_bytes": "65536", "result_max_bytes": "7"}
    assert from_everywhere(given, {}).output_max == (6 * 2**20, 65_536, 7)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:hidden@host/base", "must not contain a password"),
        ("postgresql://me@host/base?password=hidden", "must not contain a password"),
        ("postgresql://host/hidden", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@host", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@host/", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@host/a/b", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@[::1/base", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@host/base#hidden", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@host/a base", "must be postgresql://USER@HOST/DATABASE"),
        ("host=h password=hidden", "must be postgresql://USER@HOST/DATABASE"),
        ("mysql://me@host/base", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me@host/base?passfile=/x", "not 'passfile'"),
        ("postgresql://me@host/base?options=-c%20x", "not 'options'"),
    ],
)
def test_another_store_is_refused_and_not_repeated(url: str, message: str) -> None:
    with pytest.raises(BadSetting) as refused:
        from_everywhere({"store": url}, {})
    assert message in str(refused.value)
    assert str(refused.value).startswith("store ")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "is_verified"),
    [
        ("", True),
        ("postgresql://me@localhost/base", True),
        ("postgresql://me@127.0.0.1:5432/base", True),
        ("postgresql://me@[::1]/base", True),
        ("postgresql://me@/base?host=/run/postgresql", True),
        ("postgresql://me@db/base", False),
        ("postgresql://me@db/base?sslmode=require", False),
        ("postgresql://me@localhost:1,db:2/base", False),
        ("postgresql://me@/base?host=/run,db", False),
        ("postgresql://me@db/base?sslmode=verify-full", True),
        ("postgresql://me@db/base?sslmode=verify-ca", True),
        ("postgresql://me@db/base?sslrootcert=system", True),
    ],
)
def test_whether_somebody_could_take_the_store_s_place(url: str, is_verified: bool) -> None:
    assert settings.is_store_verified(url) is is_verified


def test_a_password_is_one_line() -> None:
    assert settings.password_in("file", "a b:@/é\r\n") == "a b:@/é"
    for text in ("", "\n", "one\ntwo\n", "\0"):
        with pytest.raises(BadSetting, match="file must contain one line"):
            settings.password_in("file", text)
