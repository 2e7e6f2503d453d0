"""`quiltfn deploy`: afterwards, the server matches the project's file, whatever state it had
before.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e import tiny_root
from e2e.server import QUILTFN, Completed, Server, quiltfn, until
from promises import promise
from quiltfn.cli.project.init import IMAGE
from timeouts import scaled
from unit.sample_archives import a_wheel
from unit.test_root_file_system import oci

pytestmark = [pytest.mark.sandbox, promise("W24")]
TIMEOUT_S = 120.0
HANDLER = "import demo\n\n\ndef handler(event, context):\n    return 'WORD ' + demo.WORD\n"
FILE = """\
project = "shop"

[functions.hello]
kind = "python"
code = "src"
handler = "main:handler"
environment = { PLAIN = "1" }
secrets = ["TOKEN"]

[functions.hello.url]
auth = "none"

[functions.hello.schedules.nightly]
cron = "0 3 * * *"
payload = "{}"

[functions.hello.async_policy]
max_attempts = 3
retry_on = ["oom", "failed"]
backoff_seconds = { first = 2 }
on_failure = { function = "plain" }

[functions.plain]
handler = "echo plain"

[functions.plain.url]
auth = "webhook"
methods = ["POST"]
webhook = { scheme = "github", secret_from = "HOOK_SECRET" }
cors = { allow_origins = ["https://example.com"] }

[functions.plain.record_policy]
keep_input = "all"
"""
SECRETS = "TOKEN=s3cret\nHOOK_SECRET=a-long-random-text\n"


class Shop:
    """A project on a server; its commands run in the project's directory."""

    def __init__(self, server: Server, directory: Path, **more: str) -> None:
        self.server, self.directory = server, directory
        self.env = {**os.environ, "QUILT_BASE_URL": server.url, **more}

    def write(self, word: str = "first", text: str = FILE) -> None:
        (self.directory / "src").mkdir(exist_ok=True)
        (self.directory / "src" / "main.py").write_text(HANDLER.replace("WORD", word, 1))
        (self.directory / "quiltfn.toml").write_text(text)
        (self.directory / ".env").write_text(SECRETS)
        if not (self.directory / "src" / "requirements.txt").exists():
            made = a_wheel(self.directory)
            (self.directory / "src" / "requirements.txt").write_text(f"../{made.name}\n")

    def run(self, command: str, *more: str, own_process: bool = False) -> Completed:
        words = [command, str(self.directory), *more]
        return quiltfn(*words, timeout_s=TIMEOUT_S, env=self.env, own_process=own_process)

    def deploy(self, *more: str) -> dict[str, Any]:
        done = self.run("deploy", "-o", "json", *more)
        assert done.code == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def get(self, path: str) -> Any:
        return self.server.call("GET", path).json()

    def names(self) -> list[str]:
        """The names of the project's functions."""
        found = self.get("/api/functions?cluster_id=project:shop")["functions"]
        return sorted(one["name"] for one in found)

    def runtimes(self) -> list[str]:
        listed = self.get("/api/runtimes")["runtimes"]
        return sorted(one["name"] for one in listed if one["name"].startswith("shop."))

    def answer(self, name: str = "hello") -> str:
        return httpx.get(f"{self.server.url}/fn/{name}", timeout=scaled(30)).text

    def assert_is_whole(self, word: str) -> None:
        assert self.names() == ["hello", "plain"]
        assert self.answer() == f"{word} from the wheel"
        assert len(self.runtimes()) == 1
        hello = self.get("/api/functions/by-name/hello")
        assert hello["environment"] == {"PLAIN": "1", "TOKEN": "s3cret"}
        assert hello["state"] == "active"
        assert self.get("/api/schedules/nightly")["function"] == "hello"
        policy = self.get(f"/api/functions/{hello['id']}/async-policy")
        assert (policy["max_attempts"], policy["on_failure"]) == (3, {"function": "plain"})
        plain = self.get("/api/functions/by-name/plain")["id"]
        assert self.get(f"/api/functions/{plain}/record-policy") == {"keep_input": "all"}
        assert self.get(f"/api/functions/{plain}/url")["methods"] == ["POST"]
        assert self.deploy("--dry-run")["steps"] == []


@pytest.fixture
def shop(shared: Server, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(shared, tmp_path)
    yield shop
    for path in tmp_path.rglob("quiltfn.toml"):
        Shop(shared, path.parent).run("destroy", "--yes")
    assert shop.names() == []
    assert shop.runtimes() == []
    assert shop.get("/api/schedules")["schedules"] == []


def test_three_commands_from_an_empty_directory_to_a_url(shared: Server, tmp_path: Path) -> None:
    there = Shop(shared, tmp_path / "letters")
    assert there.run("init").code == 0
    made = a_wheel(there.directory)
    (there.directory / "requirements.txt").write_text(f"{made.name}\n")
    (there.directory / "main.py").write_text(HANDLER.replace("WORD", "Hello", 1))
    with (there.directory / "quiltfn.toml").open("a") as file:
        file.write('\n[functions.letters.schedules.daily]\ncron = "0 6 * * *"\n')
    done = there.run("deploy")
    assert done.code == 0, done.stderr
    assert f"letters: {shared.url}/fn/default/letters" in done.stdout
    assert "invoke it with: quiltfn invoke letters" in done.stderr
    assert there.answer("letters") == "Hello from the wheel"
    assert there.get("/api/schedules/daily")["next_runs"]
    again = there.run("deploy")
    assert "no changes" in again.stdout
    gone = there.run("destroy", "--yes")
    assert gone.code == 0
    assert there.get("/api/functions/by-name/letters")["error_code"] == "NOT_FOUND"


@pytest.mark.parametrize("kind", ["node", "shell"])
def test_what_init_writes_works(shared: Server, tmp_path: Path, kind: str) -> None:
    there = Shop(shared, tmp_path / kind)
    assert there.run("init", f"--{kind}").code == 0
    assert there.run("deploy").code == 0
    assert "Hello!" in there.answer(kind)
    assert there.run("destroy", "--yes").code == 0


def test_what_init_writes_runs_in_an_image(shared: Server, tmp_path: Path) -> None:
    there = Shop(shared, tmp_path / "box")
    assert there.run("init", "--image").code == 0
    (there.directory / "box.tar").write_bytes(
        oci(tiny_root.packed(tiny_root.make(tmp_path / "root")))
    )
    project = there.directory / "quiltfn.toml"
    project.write_text(project.read_text().replace(IMAGE, "box.tar"))
    done = there.run("deploy")
    assert done.code == 0, done.stderr
    assert "Hello!" in there.answer("box")
    assert there.deploy()["steps"] == []
    assert there.run("destroy", "--yes").code == 0


def test_an_environment_is_deployed_beside_the_project(shop: Shop) -> None:
    """`deploy` and `destroy` would otherwise take functions of the other one for removed ones."""
    shop.write()
    overrides = '\n[environments.staging.functions.hello]\nenvironment = { PLAIN = "2" }\n'
    (shop.directory / "quiltfn.toml").write_text(FILE + overrides)
    (shop.directory / ".env.staging").write_text("TOKEN=of-staging\n")
    shop.deploy()
    try:
        shop.deploy("--env", "staging")
        shop.assert_is_whole("first")
        assert shop.deploy("--env", "staging", "--dry-run")["steps"] == []
        assert shop.answer("staging-hello") == "first from the wheel"
        staging = shop.get("/api/functions/by-name/staging-hello")
        assert staging["environment"] == {"PLAIN": "2", "TOKEN": "of-staging"}
        assert shop.get("/api/schedules/staging-nightly")["function"] == "staging-hello"
        policy = shop.get(f"/api/functions/{staging['id']}/async-policy")
        assert policy["on_failure"] == {"function": "staging-plain"}
    finally:
        assert shop.run("destroy", "--env", "staging", "--yes").code == 0
    shop.assert_is_whole("first")
    wrong = shop.run("deploy", "--env", "prod")
    assert (wrong.code, "has no environment prod" in wrong.stderr) == (2, True)


@promise("R41")
def test_a_plan_is_shown_done_and_then_there_is_nothing_to_do(shop: Shop) -> None:
    shop.write()
    planned = shop.run("deploy", "--dry-run")
    assert planned.code == 0
    assert "+ function hello\n    handler: main:handler\n" in planned.stdout
    assert "s3cret" not in planned.stdout
    assert shop.names() == shop.runtimes() == []
    report = shop.deploy()
    assert (report["outcome"], report["failed"]) == ("done", {})
    assert report["done"] == report["steps"]
    shop.assert_is_whole("first")
    again = shop.deploy()
    assert (again["outcome"], again["steps"]) == ("done", [])
    assert again["urls"]["hello"] == f"{shop.server.url}/fn/default/hello"


@promise("W29")
def test_a_canary_gets_a_part_of_the_calls_and_is_taken_back_where_it_fails(shop: Shop) -> None:
    shop.write()
    shop.deploy("--canary", "10%")
    path = f"/api/functions/{shop.get('/api/functions/by-name/hello')['id']}/aliases/live"
    assert (shop.get(path)["version"], shop.get(path)["also"]) == (1, None)
    assert shop.deploy("--canary", "10%")["steps"] == []
    shop.write("second")
    steps = shop.deploy("--canary", "10%")["steps"]
    assert ["update", "alias"] in [[one["verb"], one["noun"]] for one in steps]
    assert shop.get(path)["also"] == {"version": 2, "weight": 0.1}
    assert shop.get(path)["default"] is True
    answers = [shop.answer() for _ in range(20)]
    assert answers.count("first from the wheel") > answers.count("second from the wheel")
    assert shop.deploy("--canary", "10%")["steps"] == []
    assert shop.deploy()["steps"] == [], "aliases are left alone"
    # The state that a deploy leaves if it is killed between the new version and the alias.
    assert shop.server.call("PUT", path, {"version": 1}).status_code == 200
    (step,) = shop.deploy("--canary", "50%")["steps"]
    assert (step["noun"], shop.get(path)["also"]) == ("alias", {"version": 2, "weight": 0.5})
    assert shop.server.call("PUT", path, {"version": 2}).status_code == 200
    shop.write("third", FILE.replace('environment = { PLAIN = "1" }', ""))
    (shop.directory / "src" / "main.py").write_text("def handler(event, context):\n    1 / 0\n")
    shop.deploy("--canary", "50%")
    for _ in range(100):
        shop.answer()
        if shop.get(path)["also"] is None:
            break
    assert shop.get(path)["version"] == 2
    assert shop.get(path)["rolled_back"].startswith("version 3: 3 of 3 attempts failed")
    for name in ("hello", "hello@live"):
        assert {shop.answer(name) for _ in range(5)} == {"second from the wheel"}
    said = shop.run("deploy")
    assert (said.code, "no changes" in said.stdout) == (1, False)
    why = "hello: version 3 gets no invocations: they run on version 2, by the default alias live"
    assert f"{why}; rolled back: version 3: 3 of 3 attempts failed" in said.stderr
    assert "3 (live: 2)" in quiltfn("functions", "list", env=shop.env).stdout
    output = quiltfn("functions", "get", "hello", env=shop.env).stdout
    assert "version 2, by the default alias live; rolled back: version 3" in output
    dry = shop.run("deploy", "--dry-run")
    assert (dry.code, why in dry.stderr) == (0, True)
    # A deploy that only changes settings must not bring back code that was rolled back; one with
    # new code sends all invocations to it.
    file = shop.directory / "quiltfn.toml"
    file.write_text(
        file.read_text().replace('kind = "python"', 'kind = "python"\nmemory_limit_mb = 310')
    )
    said = shop.run("deploy")
    assert (said.code, "updated function hello" in said.stderr + said.stdout) == (3, True), said
    assert why.replace("version 3", "version 4") in said.stderr
    assert {shop.answer() for _ in range(5)} == {"second from the wheel"}
    shop.write("fourth")
    shop.deploy()
    assert (shop.get(path)["version"], shop.answer()) == (5, "fourth from the wheel")
    rolled_back = quiltfn("functions", "rollback", "hello", "2", env=shop.env)
    assert "live is version 2" in rolled_back.stderr
    for name in ("hello", "hello@live"):
        assert shop.answer(name) == "second from the wheel"
    wrong = shop.run("deploy", "--canary", "much")
    assert (wrong.code, "--canary must be a percentage" in wrong.stderr) == (2, True)


@promise("R44")
def test_files_that_are_no_code_are_not_sent_and_make_no_version(shop: Shop) -> None:
    here = 'code = "."\nrequirements = "src/requirements.txt"'
    text = FILE.replace('code = "src"', here).replace("main:handler", "src/main.handler")
    shop.write(text=text)
    shop.deploy()
    shop.write(text=text.replace("0 3 * * *", "0 4 * * *"))
    assert [one["noun"] for one in shop.deploy()["steps"]] == ["schedule"]
    files = quiltfn("functions", "files", "hello", "-o", "json", env=shop.env).stdout
    assert "src/main.py" in files
    assert ".env" not in files
    assert "quiltfn.toml" not in files


@promise("M23")
def test_nothing_outside_of_the_directory_is_sent_unless_an_option_says_so(shop: Shop) -> None:
    project = shop.directory / "inner"
    project.mkdir()
    inner, listed = Shop(shop.server, project), project / "src" / "requirements.txt"
    inner.write()
    wheel = a_wheel(shop.directory)
    assert inner.run("deploy", "--dry-run").code == 0
    listed.write_text(f"../../{wheel.name}\n")
    refused = inner.run("deploy", "--dry-run")
    assert refused.code == 2
    assert f"[functions.hello] packages must be in the project's directory, not at {wheel}" in (
        refused.stderr
    )
    assert inner.run("deploy", "--dry-run", "--allow-outside").code == 0
    (shop.directory / "others.txt").write_text("")
    listed.unlink()
    listed.symlink_to(shop.directory / "others.txt")
    assert "which leads out of" in inner.run("deploy", "--dry-run").stderr
    listed.unlink()
    # these files are read together with the list of packages
    for name in ("uv.lock", "pyproject.toml"):
        (shop.directory / name).write_text("")
        (project / name).symlink_to(shop.directory / name)
        inner.write(text=FILE.replace('code = "src"', 'code = "src"\nrequirements = "uv.lock"'))
        assert "must be in" in inner.run("deploy", "--dry-run").stderr
        (project / name).unlink()
        (project / name).write_text("")
    inner.write()
    listed.unlink(missing_ok=True)
    listed.symlink_to(shop.directory / "others.txt")
    refused = inner.run("deploy", "--dry-run", "--allow-outside")
    assert f"{listed} is a link to" in refused.stderr
    listed.unlink()
    secrets = (project / ".env").rename(shop.directory / ".env")
    (project / ".env").symlink_to(secrets)
    assert "leads out of the project's directory" in inner.run("deploy", "--dry-run").stderr
    assert inner.run("deploy", "--dry-run", "--env-file", str(secrets)).code == 0


@promise("R42")
def test_a_broken_edit_leaves_the_old_version_serving_and_says_so(shop: Shop) -> None:
    shop.write()
    shop.deploy()
    source = shop.directory / "src" / "main.py"
    source.write_text("def handler(:\n")
    done = shop.run("deploy")
    assert done.code == 1
    assert "hello: version 2 cannot serve" in done.stderr
    assert "SyntaxError" in done.stderr
    assert "hello: http" not in done.stdout
    assert shop.answer() == "first from the wheel"
    # Another function is changed at the same time; meanwhile, nothing may be deleted.
    text = FILE.replace("functions.plain", "functions.other").replace('"plain"', '"other"')
    (shop.directory / "quiltfn.toml").write_text(text)
    assert shop.run("deploy", "--yes").code == 3
    assert shop.names() == ["hello", "other", "plain"]
    shop.write("mended")
    shop.deploy("--yes")
    shop.assert_is_whole("mended")


@promise("R41")
@pytest.mark.parametrize("steps", [0, 2, 5])
def test_a_deploy_that_was_killed_is_gone_on_with(shop: Shop, steps: int) -> None:
    shop.write()
    killed_after(shop, steps)
    shop.deploy()
    shop.assert_is_whole("first")
    renamed = FILE.replace("functions.plain", "functions.other").replace('"plain"', '"other"')
    shop.write("second", renamed)
    killed_after(shop, steps, "--yes")
    shop.write("second")
    shop.deploy("--yes")
    shop.assert_is_whole("second")


def killed_after(shop: Shop, steps: int, *more: str) -> None:
    """Kills the deploy once it has done this many steps; 0: during the first one."""
    process = subprocess.Popen(
        [str(QUILTFN), "deploy", str(shop.directory), *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**shop.env, "TMPDIR": str(shop.directory)},
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.readline()
        for _ in range(steps):
            process.stderr.readline()
        process.send_signal(signal.SIGKILL)


@promise("R43")
def test_several_at_once_end_in_one_state(shop: Shop) -> None:
    """Several deploys of one file at once succeed. Deploys of two files leave the complete state of
    one of them.
    """
    shop.write()
    with ThreadPoolExecutor(3) as threads:
        done = list(threads.map(lambda _: shop.run("deploy", own_process=True), range(3)))
    assert [one.code for one in done] == [0, 0, 0], [one.stderr for one in done]
    shop.assert_is_whole("first")
    other = Shop(shop.server, shop.directory / "elsewhere")
    other.directory.mkdir()
    shop.write("one", FILE.replace('PLAIN = "1"', 'PLAIN = "one"'))
    two = FILE.replace('PLAIN = "1"', 'PLAIN = "two"').replace("echo plain", "echo two")
    other.write("two", two)
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda each: each.run("deploy", own_process=True), (shop, other)))
    assert {one.code for one in done} <= {0, 3}
    assert 0 in [one.code for one in done]
    left = [len(each.deploy("--dry-run")["steps"]) for each in (shop, other)]
    assert 0 in left


def test_an_adopted_function_is_changed_and_stays(shop: Shop) -> None:
    made = ["create", "mine", "--handler", "echo old", "--env", "KEY=x", "--memory", "300"]
    assert quiltfn("functions", *made, env=shop.env).code == 0
    assert quiltfn("url", "set", "mine", "--auth", "none", env=shop.env).code == 0
    table = 'project = "shop"\n\n[functions.mine]\nhandler = "echo new"\n'
    (shop.directory / "quiltfn.toml").write_text(table)
    refused = shop.run("deploy")
    assert refused.code == 1
    assert "adopted = true" in refused.stderr
    exported = quiltfn("export", "mine", env=shop.env)
    assert exported.code == 0
    assert "adopted = true" in exported.stdout
    assert 'secrets = ["KEY"]' in exported.stdout
    (shop.directory / "quiltfn.toml").write_text(f'project = "shop"\n{exported.stdout}')
    (shop.directory / ".env").write_text("KEY=x\n")
    assert [one["verb"] for one in shop.deploy()["steps"]] == ["deploy"]
    assert shop.answer("mine") == "old\n"
    changed = exported.stdout.replace("echo old", "echo new").replace("300", "310")
    (shop.directory / "quiltfn.toml").write_text(f'project = "shop"\n{changed}')
    shop.deploy()
    mine = shop.get("/api/functions/by-name/mine")
    assert (mine["memory_limit_mb"], mine["environment"]) == (310, {"KEY": "x"})
    assert shop.answer("mine") == "new\n"
    (shop.directory / "quiltfn.toml").write_text('project = "shop"\n')
    assert shop.deploy()["steps"] == []
    assert shop.answer("mine") == "new\n"
    assert quiltfn("functions", "delete", "mine", "--yes", env=shop.env).code == 0


def test_watch_deploys_after_every_edit(shop: Shop) -> None:
    shop.write()
    printed = shop.directory / "printed.log"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [str(QUILTFN), "deploy", str(shop.directory), "--watch"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=shop.env,
        )
    try:
        until(lambda: "watching" in printed.read_text(), 60.0)
        assert shop.answer() == "first from the wheel"
        source = shop.directory / "src" / "main.py"
        source.write_text("def handler(:\n")
        until(lambda: "SyntaxError" in printed.read_text(), 30.0)
        source.write_text(HANDLER.replace("WORD", "second", 1))
        until(lambda: shop.answer() == "second from the wheel", 30.0)
        (shop.directory / "quiltfn.toml").write_text("x = ")
        until(lambda: "cannot be read" in printed.read_text(), 30.0)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(scaled(20)) == 0
    shop.write("second")


def test_a_key_that_can_write_is_enough(server: Server, tmp_path: Path) -> None:
    keys = {}
    for scope in ("write", "read"):
        words = ["keys", "create", "--tenant", "shop", "--scope", scope, "-o", "json"]
        made = quiltfn(*words, *server.key_options)
        assert made.code == 0, made.stderr
        keys[scope] = json.loads(made.stdout)["key"]
    server.restart()
    there = Shop(server, tmp_path, QUILT_API_KEY=keys["write"])
    there.write()
    assert there.run("deploy").code == 0
    assert there.deploy()["steps"] == []
    reads = Shop(server, tmp_path, QUILT_API_KEY=keys["read"]).run("deploy")
    assert reads.code == 1
    assert "the key has scope read, but projects need scope write" in reads.stderr
    # If the project needs an operator, the deploy is refused with a reason before anything changes.
    there.write(text=FILE.replace('code = "src"', 'code = "src"\nnetwork = "egress"', 1))
    refused = there.run("deploy")
    assert refused.code == 1
    assert "an operator can add the runtime" in refused.stderr
    there.write()
    assert there.deploy()["steps"] == []
    assert there.run("destroy", "--yes").code == 0
