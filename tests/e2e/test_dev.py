"""`quiltfn dev`: edits take effect at once, mistakes are reported, and nothing is left behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.server import QUILTFN, Completed, Server, quiltfn, until
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("M5")]
PYTHON = (
    "import os\n\n\ndef handler(event, context):\n    print('log')\n    return f'WORD {event}'\n"
)
NODE = "exports.handler = (event) => { console.log('log'); return `WORD ${event}` }\n"


SERVER = (
    "import http.server, os\n\n\nclass App(http.server.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n        self.send_response(200)\n        self.end_headers()\n"
    "        self.wfile.write(b'WORD ' + self.path.encode())\n\n    do_POST = do_GET\n\n\n"
    "http.server.HTTPServer(('', int(os.environ['PORT'])), App).serve_forever()\n"
)


class Dev:
    """The running command, and its output so far."""

    def __init__(self, process: subprocess.Popen[bytes], printed: Path) -> None:
        self.process, self._printed = process, printed

    @property
    def text(self) -> str:
        return self._printed.read_text()

    def wait_for(self, words: str) -> str:
        return str(until(lambda: words in self.text and self.text, 30.0))


@contextmanager
def dev(server: Server, directory: Path, *more: str) -> Iterator[Dev]:
    printed = directory.parent / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            [str(QUILTFN), "dev", "--dir", str(directory), "--url", server.url, *more],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A killed command leaves its working files here.
            env={**os.environ, "TMPDIR": str(directory.parent)},
        )
    try:
        yield Dev(process, printed)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGINT)
        process.wait(scaled(20))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    directory = tmp_path / "My App"
    directory.mkdir()
    return directory


@promise("R15")
@pytest.mark.parametrize(("name", "source"), [("main.py", PYTHON), ("main.js", NODE)])
def test_an_edit_is_live_at_once(shared: Server, app: Path, name: str, source: str) -> None:
    (app / name).write_text(source.replace("WORD", "first"))
    with dev(shared, app, "--payload", '"you"') as it:
        it.wait_for("watching")
        assert "first you" in it.text
        assert "log\n" in it.text
        for number in range(3):
            (app / name).write_text(source.replace("WORD", f"edit{number}"))
            began = time.monotonic()
            it.wait_for(f"edit{number} you")
            # An edit takes a fifth of a second on an idle machine.
            assert time.monotonic() - began < scaled(5)
    assert it.process.returncode == 0
    assert not [one for one in runtimes(shared) if one.startswith("dev-")]
    assert "dev-my-app" not in shared.call("GET", "/api/functions").text


def runtimes(server: Server) -> list[str]:
    listed = server.call("GET", "/api/runtimes").json()["runtimes"]
    return [str(one["name"]) for one in listed]


def test_a_mistake_is_told_and_the_next_edit_mends_it(shared: Server, app: Path) -> None:
    (app / "main.py").write_text("def handler(:\n")
    with dev(shared, app) as it:
        it.wait_for("SyntaxError")
        it.wait_for("watching")
        (app / "main.py").write_text(PYTHON.replace("WORD", "mended"))
        it.wait_for("mended None")
        (app / "main.py").write_text("import nosuchmodule\n")
        assert "cannot serve" in it.wait_for("nosuchmodule")
        (app / "main.py").write_text(PYTHON.replace("WORD", "again"))
        it.wait_for("again None")
        (app / "main.py").write_text("def handler(): raise ValueError('at the call')\n")
        it.wait_for("ValueError: at the call")


def test_what_a_killed_session_left_is_gone_on_with(shared: Server, app: Path) -> None:
    (app / "main.py").write_text(PYTHON.replace("WORD", "first"))
    with dev(shared, app) as it:
        it.wait_for("watching")
        os.kill(it.process.pid, signal.SIGKILL)
        it.process.wait(scaled(10))
    # The first version of the next session, which has another handler, can't start.
    (app / "main.py").write_text("1 / 0")
    with dev(shared, app, "--handler", "main:other") as it:
        it.wait_for("ZeroDivisionError")
        (app / "main.py").write_text(
            PYTHON + PYTHON.replace("WORD", "second").replace("handler", "other")
        )
        it.wait_for("second None")
    assert not [one for one in runtimes(shared) if one.startswith("dev-")]


def once(server: Server, directory: Path, *more: str) -> Completed:
    return quiltfn("dev", "--dir", str(directory), "--url", server.url, "--once", *more)


def test_once_fails_where_anything_failed(shared: Server, app: Path) -> None:
    source = app / "main.py"
    source.write_text("def handler(:\n")
    broken = once(shared, app)
    assert (broken.code, broken.stdout) == (1, "")
    assert "SyntaxError" in broken.stderr
    source.write_text("def handler(event): raise ValueError('at the call')\n")
    raised = once(shared, app)
    assert raised.code == 1
    assert "ValueError: at the call" in raised.stderr
    source.write_text("import time\ndef handler(event): time.sleep(60)\n")
    (app / "requirements.txt").write_text("-e .\n")
    refused = once(shared, app)
    assert refused.code == 2
    assert "line 1: -e is refused" in refused.stderr
    assert once(shared, app, "--handler", "main:none", "--kind", "shell").code not in (0, 2)
    assert once(shared, app, "--payload", "a", "--payload-file", "b").code == 2
    assert not [one for one in runtimes(shared) if one.startswith("dev-")]
    assert shared.call("GET", "/api/functions").json()["functions"] == []


def test_once_answers_in_json_and_reads_what_is_piped_in(
    shared: Server, app: Path, tmp_path: Path
) -> None:
    (app / "main.py").write_text(PYTHON.replace("WORD", "first"))
    done = once(shared, app, "-o", "json", "--payload", '"you"')
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["stdout"] == "first you"
    piped = tmp_path / "piped"
    words = ("dev", "--dir", str(app), "--url", shared.url, "--once")
    for content, code in ((b'"you"', 0), (b"\xff", 2)):
        piped.write_bytes(content)
        with piped.open("rb") as given:
            done = quiltfn(*words, stdin=given)
        assert done.code == code, done.stderr
        if code == 0:
            assert done.stdout == "first you"
    assert "standard input is not UTF-8" in done.stderr
    assert "live after" not in done.stderr


def test_equally_named_directories_are_apart(shared: Server, app: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / app.name
    other.mkdir(parents=True)
    (app / "main.py").write_text(PYTHON.replace("WORD", "first"))
    (other / "main.py").write_text(PYTHON.replace("WORD", "second"))
    with dev(shared, app) as session:
        session.wait_for("first None")
        with dev(shared, other) as two:
            two.wait_for("second None")
        assert two.process.returncode == 0
        (app / "main.py").write_text(PYTHON.replace("WORD", "third"))
        session.wait_for("third None")
        # Another command for the same directory would change the same function, so it is refused.
        again = once(shared, app)
        assert again.code == 2
        assert "another `quiltfn dev`" in " ".join(again.stderr.replace("│", " ").split())
    assert not [one for one in runtimes(shared) if one.startswith("dev-")]


def test_a_server_answers_at_its_url_after_every_edit(shared: Server, app: Path) -> None:
    (app / "app.py").write_text(SERVER.replace("WORD", "first"))
    (app / "package.json").write_text("{}")
    with dev(shared, app, "--kind", "server", "--handler", "exec python3 app.py") as it:
        url = it.wait_for("watching").partition("its URL: ")[2].split()[0]
        assert url.startswith(f"{shared.url}/fn/")
        assert shared.call("GET", f"{url.removeprefix(shared.url)}/tea").text == "first /tea"
        (app / "app.py").write_text(SERVER.replace("WORD", "second"))
        it.wait_for("version 2 is live")
        assert shared.call("GET", f"{url.removeprefix(shared.url)}/tea").text == "second /tea"
        # the command prints only the output of the requested function
        assert "/events" not in it.text
    assert not [one for one in runtimes(shared) if one.startswith("dev-")]


def test_once_calls_a_server_if_there_is_a_payload(shared: Server, app: Path) -> None:
    (app / "app.py").write_text(SERVER.replace("WORD", "got"))
    started = ("--kind", "server", "--handler", "exec python3 app.py")
    for more, stdout in (((), ""), (("--payload", "x"), "got /events")):
        done = once(shared, app, *started, *more)
        assert (done.code, done.stdout) == (0, stdout), done.stderr
    for kind in ("server", "shell"):
        done = once(shared, app, "--kind", kind)
        assert (done.code, "needs --handler" in done.stderr) == (2, True)
    (app / "run.sh").write_text("echo from the directory\n")
    done = once(shared, app, "--kind", "shell", "--handler", "sh run.sh")
    assert (done.code, done.stdout) == (0, "from the directory\n"), done.stderr


def test_a_directory_that_tells_nothing(shared: Server, app: Path) -> None:
    done = quiltfn("dev", "--dir", str(app), "--url", shared.url)
    assert done.code == 2
    assert "--kind" in done.stderr
    assert "--watch" not in done.stderr
    (app / "quiltfn.toml").write_text('project = "shop"\n')
    done = quiltfn("dev", "--dir", str(app), "--url", shared.url)
    assert done.code == 2
    assert "quiltfn deploy --watch" in done.stderr
