"""`quiltfn.toml`: what it may contain, and how errors in it are reported."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.cli import base_images, run
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.project import PROJECT_FILE, file, toml
from quiltfn.cli.project.init import project_name
from quiltfn.wire import NewDestination, NewFunctionUrl, WebhookRule

pytestmark = promise("R44")

Captured = pytest.CaptureFixture[str]
VARIABLES = {"MASKED": "***", "TOKEN": "s3cret", "HOOK": "a-long-random-text", "SHORT": "x"}
VARIABLES |= {"LONG": "x" * 40, "TARGET": "https://a.example/hook"}
CRON, ON_FAILURE = 'cron = "0 3 * * *"', "async_policy.on_failure"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / PROJECT_FILE


def read(place: Path, text: str) -> file.ProjectFile:
    place.write_text(f'project = "shop"\n{text}')
    return file.read(place, VARIABLES, {"memory_limit_mb": 4096})


def wrong(place: Path, text: str) -> list[str]:
    with pytest.raises(BadParameter) as error:
        read(place, text)
    before = f"{place}: "
    lines = error.value.message.splitlines()
    assert all(one.startswith(before) for one in lines)
    return [one.removeprefix(before) for one in lines]


WHOLE = """
[functions.hello]
kind = "python"
code = "."
requirements = "needs.txt"
handler = "main:handler"
description = "says hello"
memory_limit_mb = 512
cpu_limit_percent = 50
timeout_seconds = 9
min_instances = 1
max_instances = 2
network = "egress"
environment = { GREETING = "Hello" }
secrets = ["TOKEN"]

[functions.hello.url]
auth = "webhook"
webhook = { scheme = "github", secret_from = "HOOK" }

[functions.hello.schedules.nightly]
cron = "0 3 * * *"
timezone = "Europe/Paris"

[functions.hello.async_policy]
max_attempts = 3
on_failure = { url = "https://example.com/hook", secret_from = "HOOK" }

[functions.hello.record_policy]
keep_input = "all"

[functions.plain]
handler = "echo plain"

[functions.web]
handler = "serve"
kind = "server"
"""


def test_a_whole_file(place: Path) -> None:
    (place.parent / "needs.txt").write_text("")
    found = read(place, WHOLE)
    assert (found.project, found.directory) == ("shop", place.parent)
    hello, plain = found.functions["hello"], found.functions["plain"]
    assert hello.new.environment == {"GREETING": "Hello", "TOKEN": "s3cret"}
    assert (hello.new.memory_limit_mb, hello.new.max_instances) == (512, 2)
    assert hello.runtime is not None
    assert (hello.runtime.kind, hello.runtime.network) == ("python", "egress")
    assert hello.files == file.FunctionFiles(code=".", requirements="needs.txt", secrets=["TOKEN"])
    rule = WebhookRule(scheme="github", secret=VARIABLES["HOOK"])
    assert hello.url == NewFunctionUrl(auth="webhook", webhook=rule)
    where = NewDestination(url="https://example.com/hook", secret=VARIABLES["HOOK"])
    assert hello.async_policy.on_failure == where
    assert hello.record_policy.keep_input == "all"
    nightly = hello.schedules["nightly"]
    named = (nightly.name, nightly.function, nightly.timezone)
    assert named == ("nightly", "hello", "Europe/Paris")
    assert (plain.new.runtime, plain.runtime, plain.url) == ("shell", None, None)
    assert plain.new.cleanup_on_exit
    # The default for HTTP servers is another one.
    assert found.functions["web"].new.cleanup_on_exit is False


# Invalid files, by the table that has the error.
WRONG: dict[str, list[tuple[str, str]]] = {
    "": [
        ("memory = 512", "memory is not a field of this table; is it memory_limit_mb?"),
        ("memory_limit_mb = 3", "memory_limit_mb must be between 256 and 4096"),
        ("memory_limit_mb = 99999", "memory_limit_mb must be between 256 and 4096"),
        ('description = ["x"]', "description must be a string or null"),
        ('kind = "perl"', "kind must be one of: shell, python, node, custom, server"),
        ('code = "."', "kind is required"),
        ('kind = "server"\ncleanup_on_exit = true', "cleanup_on_exit must be false with kind"),
        ('kind = "python"\nruntime = "etl"', "runtime cannot be combined with kind, code"),
        ('kind = "python"\ncode = "no"', "code must be a directory, but no is not"),
        ('kind = "python"\nrequirements = "no"', "requirements must be a file"),
        ('cluster_id = "x"', "cluster_id is not a field of this table"),
        ('secrets = ["NOPE"]', "secrets: NOPE is neither in your environment nor in .env"),
        ('secrets = ["A B"]', "secrets must be a list of different variable names"),
        ('secrets = ["LONG"]\nenvironment.LONG = "x"', "LONG is in environment and in secrets"),
        ('environment.A = "***"', "environment.A must be the real value, not ***"),
        ('secrets = ["MASKED"]', "secrets: MASKED must be the real value, not ***"),
    ],
    ".url": [
        ("url = 3", "must be a table"),
        ('url.auth = "all"', "auth must be one of: key, none, webhook"),
        ('url.auth = "webhook"', 'auth = "webhook" requires a webhook'),
        (
            'url = { auth = "webhook", webhook = { scheme = "github", secret_from = "SHORT" } }',
            "webhook.secret must be between 16 and 256 bytes long",
        ),
    ],
    ".url.webhook": [
        (
            'url = { auth = "webhook", webhook = { scheme = "github", secret = "x" } }',
            "secret must not be in this file",
        ),
        ('url = { auth = "webhook", webhook.scheme = "github" }', "secret_from is required"),
        (
            'url = { auth = "webhook", webhook = { scheme = "stripe", secret_from = "LONG" } }',
            "a secret of stripe must begin with whsec_",
        ),
    ],
    ".schedules": [("schedules.s = 3", "s must be a table")],
    ".schedules.s": [
        ("schedules.s = {}", "give one of cron and every_seconds"),
        ('schedules.s.cron = "61 3 * * *"', "cron must be an expression of five fields"),
        (f"schedules.s = {{ {CRON}, every_seconds = 3 }}", "give one of cron and every_seconds"),
        ('schedules.s = { every_seconds = 3, name = "t" }', "name is not a field of this table"),
        (
            f'schedules.s = {{ {CRON}, secrets = ["NOPE"] }}',
            "secrets: NOPE is neither in your environment nor in .env",
        ),
        (
            f'schedules.s = {{ {CRON}, environment.A = "***" }}',
            "environment.A must be the real value, not ***",
        ),
    ],
    ".schedules.s s": [('schedules."s s".every_seconds = 3', "name must be 1 to 64")],
    ".async_policy": [
        ("async_policy.max_attempts = 99", "max_attempts must be between 1 and 10"),
        ('async_policy.backoff_seconds.first = "x"', "backoff_seconds.first must be a number"),
    ],
    ".async_policy.on_failure": [
        (
            f'{ON_FAILURE} = {{ url = "https://a.example/***", secret_from = "HOOK" }}',
            "url must be the real URL, not one with ***",
        ),
        (
            f'{ON_FAILURE} = {{ url_from = "NOPE", secret_from = "HOOK" }}',
            "url_from: NOPE is neither in your environment nor in .env",
        ),
        (
            f'{ON_FAILURE} = {{ url = "http://a", url_from = "X", secret_from = "HOOK" }}',
            "give one of url and url_from",
        ),
        (f'{ON_FAILURE}.url_from = "TARGET"', "secret_from is required"),
    ],
    ".record_policy": [('record_policy.keep_input = "some"', "keep_input must be one of")],
}


@promise("A80")
@pytest.mark.parametrize(
    ("table", "text", "said"), [(table, *row) for table, rows in WRONG.items() for row in rows]
)
def test_a_wrong_field_is_told_by_its_table(place: Path, table: str, text: str, said: str) -> None:
    (sentence,) = wrong(place, f'[functions.f]\nhandler = "x"\n{text}')
    assert sentence.startswith(f"[functions.f{table}] {said}")


@promise("M23")
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("code", "../other", "code must be in the project's directory, not ../other"),
        ("code", "{outside}", "code must be"),
        ("code", "link", "code must be"),
        ("code", "inside/link", "code must be"),
        ("requirements", "../other/needs.txt", "requirements must be"),
        ("requirements", "link/needs.txt", "requirements must be"),
        ("image", "../other/image.tar", "image must be in the project's directory"),
        ("image", "{outside}", "image must be in"),
        ("image", "link/image.tar", "image must be in"),
        *(("image", f"{one}../other:x", "image must be the ref") for one in file.LOCAL_IMAGES),
    ],
)
def test_only_an_option_lets_paths_out(tmp_path: Path, field: str, value: str, said: str) -> None:
    place, outside = tmp_path / "project" / PROJECT_FILE, tmp_path / "other"
    (place.parent / "inside").mkdir(parents=True)
    outside.mkdir()
    for name in ("needs.txt", "image.tar"):
        (outside / name).write_text("")
    for link in (place.parent / "link", place.parent / "inside/link"):
        link.symlink_to(outside)
    kind = 'kind = "python"\nhandler = "main:handler"'
    text = f'[functions.x]\n{kind}\n{field} = "{value.format(outside=outside)}"'
    (sentence,) = wrong(place, text)
    assert f"[functions.x] {said}" in sentence
    assert "to allow it: --allow-outside" in sentence
    file.read(place, VARIABLES, allows_outside=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("code", "."), ("code", "inside"), ("code", "inside/../inside"), ("code", "link")],
        *[("image", "docker.io/library/alpine:3.22"), ("image", "docker://a/b"), ("image", "a/b")],
    ],
)
def test_links_within_the_directory_are_followed(place: Path, field: str, value: str) -> None:
    (place.parent / "inside").mkdir()
    (place.parent / "link").symlink_to("inside")
    read(place, f'[functions.x]\nkind = "python"\nhandler = "a:b"\n{field} = "{value}"')


def test_the_images_of_this_machine_are_those_that_skopeo_can_be_told() -> None:
    names = base_images.TRANSPORT.pattern.removeprefix("(").removesuffix("):").split("|")
    assert {one.removesuffix(":") for one in file.LOCAL_IMAGES} == set(names) - {"docker"}


def test_every_wrong_field_is_told(place: Path) -> None:
    text = '[functions.f]\nhandler = 3\nnope = 1\n[functions.g]\n[functions."h h"]\nhandler = "x"'
    assert [one.partition(";")[0] for one in wrong(place, text)] == [
        "[functions.f] nope is not a field of this table",
        "[functions.f] handler must be a string",
        "[functions.g] handler is required",
        "[functions.h h] name must be 1 to 64 letters, digits, dots, dashes or underscores",
    ]


def test_a_schedule_stands_once(place: Path) -> None:
    table = 'handler = "x"\nschedules = { daily = { cron = "0 3 * * *" } }\n'
    (said,) = wrong(place, f"[functions.f]\n{table}[functions.g]\n{table}")
    assert said.startswith("[functions.g.schedules.daily] names of schedules must be unique")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = ", "cannot be read"),
        ('project = "Shop"', "project must be 1 to 32 lowercase letters"),
        ("", "project is required"),
        ('project = "shop"\nregion = "x"', "region is not a field of this table"),
        ('project = "shop"\nfunctions = 3', "functions must be a table of tables"),
    ],
)
def test_the_head_of_the_file(place: Path, text: str, said: str) -> None:
    place.write_text(text)
    with pytest.raises(BadParameter, match=said):
        file.read(place, VARIABLES)


def test_an_env_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# secrets\n\nA=1\nexport B = 'two words'\nC=\"x=y\"\nD=\n")
    assert file.variables_in(path) == {"A": "1", "B": "two words", "C": "x=y", "D": ""}
    path.write_text("A=1\nnonsense\n")
    with pytest.raises(BadParameter, match="line 2: expected KEY=VALUE"):
        file.variables_in(path)


# --- Writing -------------------------------------------------------------------------------------

leaves = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-9, 9) | st.booleans()
values = leaves | st.lists(leaves, max_size=3)
tables: Any = st.recursive(
    values,
    lambda inner: st.dictionaries(st.text("ab.\"' é\n", min_size=1), inner, min_size=1, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text("ab.-", min_size=1), tables, max_size=4))
def test_a_table_that_was_written_reads_the_same(table: dict[str, Any]) -> None:
    text = "\n".join(toml.table(["functions", "a.b"], table))
    assert tomllib.loads(text)["functions"]["a.b"] == table


@pytest.mark.parametrize("kind", ["--python", "--node", "--shell", "--image"])
def test_init_writes_a_file_that_can_be_read(tmp_path: Path, kind: str, capsys: Captured) -> None:
    where = tmp_path / "My Shop"
    assert run(["init", str(where), kind]) == 0
    found = file.read(where / PROJECT_FILE, {})
    assert found.project == "my-shop"
    assert list(found.functions) == ["my-shop"]
    said = capsys.readouterr()
    assert f"wrote {where}/quiltfn.toml" in said.out
    assert f"quiltfn deploy '{where}'" in said.err


def test_init_overwrites_nothing(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "main.py").write_text("mine")
    assert run(["init", str(tmp_path)]) == 1
    assert "main.py already exists" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["main.py"]
    assert (tmp_path / "main.py").read_text() == "mine"
    (tmp_path / "main.py").unlink()
    (tmp_path / "main.py").symlink_to(tmp_path.parent / "elsewhere.py")
    assert run(["init", str(tmp_path)]) == 1
    assert "main.py already exists" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["main.py"], "neither half a project, nor a file elsewhere"


def test_a_project_is_here_where_no_directory_is_named(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["deploy"], ["destroy"]):
        assert run(words) == 2
        assert "there is no quiltfn.toml" in capsys.readouterr().err
    assert run(["init"]) == 0
    assert {one.name for one in tmp_path.iterdir()} == {"quiltfn.toml", "main.py"}
    assert run(["init"]) == 1
    assert "quiltfn.toml and main.py already exist" in capsys.readouterr().err


def test_init_writes_packages_and_a_schedule(tmp_path: Path, capsys: Captured) -> None:
    where = tmp_path / "report"
    more = ["--package", "jinja2", "--package", "numpy>=2", "--cron", "0 7 * * MON"]
    assert run(["init", str(where), *more]) == 0
    assert (where / "requirements.txt").read_text() == "jinja2\nnumpy>=2\n"
    (function,) = file.read(where / PROJECT_FILE, {}).functions.values()
    assert [one.cron for one in function.schedules.values()] == ["0 7 * * MON"]
    assert run(["init", str(tmp_path / "daily"), "--cron", "@daily"]) == 2
    assert "--cron must be an expression of five fields" in capsys.readouterr().err
    assert not (tmp_path / "daily").exists()
    assert run(["init", str(tmp_path / "js"), "--node", "--package", "jinja2"]) == 2
    assert "--package requires --python" in capsys.readouterr().err
    assert run(["init", str(tmp_path / "js"), "--python", "--node"]) == 2
    assert not (tmp_path / "js").exists()


@pytest.mark.parametrize(
    ("directory", "name"),
    [("My App", "my-app"), ("stats", "hello"), ("---", "hello"), ("a" * 40, "a" * 32)],
)
def test_a_project_is_named_after_its_directory(tmp_path: Path, directory: str, name: str) -> None:
    assert project_name(tmp_path / directory) == name


STAGING = """
[functions.shop]
handler = "echo shop"
memory_limit_mb = 512
environment = { MODE = "live", REGION = "eu" }
secrets = ["TOKEN"]
async_policy = { on_success = { function = "mail" }, on_failure = { function = "elsewhere" } }

[functions.shop.schedules.nightly]
cron = "0 3 * * *"

[functions.mail]
handler = "echo mail"

[environments.staging.functions.shop]
memory_limit_mb = 256
environment = { MODE = "test" }

[environments.staging.functions.shop.schedules.nightly]
timezone = "Europe/Paris"

[environments.staging.functions.probe]
handler = "echo probe"
secrets = ["HOOK"]
"""


def test_an_environment_is_the_file_with_its_overrides_under_names_of_its_own(place: Path) -> None:
    """A deploy to staging that changed production's functions would be noticed too late."""
    plain = read(place, STAGING)
    assert (plain.project, set(plain.functions)) == ("shop", {"shop", "mail"})
    assert plain.functions["shop"].new.environment["MODE"] == "live"

    staging = file.read(place, VARIABLES, environment="staging")
    assert staging.project == "shop_staging" == file.project_of(place, "staging")
    assert set(staging.functions) == {"staging-shop", "staging-mail", "staging-probe"}
    shop = staging.functions["staging-shop"]
    assert (shop.new.name, shop.new.memory_limit_mb) == ("staging-shop", 256)
    assert shop.new.environment == {"MODE": "test", "REGION": "eu", "TOKEN": "s3cret"}
    nightly = shop.schedules["staging-nightly"]
    assert (nightly.cron, nightly.timezone) == ("0 3 * * *", "Europe/Paris")
    assert (nightly.name, nightly.function) == ("staging-nightly", "staging-shop")
    policy = shop.async_policy
    assert policy.on_success is not None
    assert policy.on_success.function == "staging-mail"
    assert policy.on_failure is not None
    assert policy.on_failure.function == "elsewhere"

    secrets = file.known_secrets(place).variables
    assert secrets["staging-shop", None] == {"TOKEN"}
    assert secrets["staging-probe", None] == {"HOOK"}


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        (STAGING, "prod", "has no environment prod"),
        ("", "prod", "has no environment prod"),
        ("[environments]\nstaging = 1", None, "staging must be a table, as [environments.staging]"),
        ("[environments.Staging]", None, "the name of an environment must be 1 to 16 lowercase"),
        (f"[environments.{17 * 'x'}]", None, "the name of an environment must be 1 to 16"),
        ('[environments.a]\nproject = "b"', None, "project is not a field of this table"),
        (
            f'[functions.{60 * "x"}]\nhandler = "true"\n[environments.staging]',
            "staging",
            "name must be 1 to 64 letters",
        ),
    ],
)
def test_wrong_environments(place: Path, text: str, environment: str | None, said: str) -> None:
    place.write_text(f'project = "shop"\n{text}')
    with pytest.raises(BadParameter, match=re.escape(said)):
        file.read(place, VARIABLES, environment=environment)
