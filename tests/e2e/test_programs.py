"""Real programs in a default sandbox: those that need processes, threads, terminals and files.

A program that cannot be installed skips its test, with a reason.
"""

from __future__ import annotations

import base64
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from e2e import sample_runtimes
from e2e.sample_runtimes import python
from e2e.server import Server
from timeouts import scaled

pytestmark = pytest.mark.sandbox


def needs(program: str) -> pytest.MarkDecorator:
    reason = f"needs {program}: that it runs in a sandbox is not shown"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)


def files_in(directory: Path) -> dict[str, str | bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def installed(command: list[str], directory: Path) -> None:
    """Runs an installer; if that fails, the test is skipped with a reason."""
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=scaled(240),
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{command[0]} did not end")
    if done.returncode != 0:
        pytest.skip(f"{Path(command[0]).name} could not install: {done.stderr[-300:]}")


PAGE = "<body style='margin:0;background:rgb(1,2,250)'><script>document.title = 1 + 1</script>"


@needs("chromium-headless-shell")
def test_a_browser_of_many_processes_takes_a_picture(shared: Server) -> None:
    handler = (
        f'echo "{PAGE}" >/tmp/page.html; chromium-headless-shell --no-sandbox '
        "--window-size=320,200 --screenshot=/tmp/page.png file:///tmp/page.html >&2; "
        "base64 -w0 /tmp/page.png"
    )
    record = shared.run(handler, memory_limit_mb=1024, timeout_seconds=round(scaled(60)))
    picture = base64.b64decode(record["stdout"])
    assert picture[:8] == b"\x89PNG\r\n\x1a\n", record
    assert struct.unpack(">II", picture[16:24]) == (320, 200)


HELLO = """
import java.net.InetAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;

public class Hello {
    public static void main(String[] names) throws Exception {
        AtomicInteger sum = new AtomicInteger();
        try (var all = new AutoCloseable() {
            final java.util.concurrent.ExecutorService pool = Executors.newFixedThreadPool(100);
            public void close() { pool.shutdown(); }
        }) {
            for (int i = 0; i < 1000; i++) all.pool.submit(sum::incrementAndGet);
        }
        while (sum.get() < 1000) Thread.sleep(1);
        new java.security.SecureRandom().nextInt();
        System.out.println(sum + " " + InetAddress.getLocalHost().getHostAddress());
    }
}
"""


@needs("javac")
def test_a_jvm_has_its_threads_its_security_and_its_host(shared: Server) -> None:
    handler = f"cat >/tmp/Hello.java <<'END'\n{HELLO}\nEND\njava -Xmx256m /tmp/Hello.java"
    record = shared.run(handler, memory_limit_mb=1024, timeout_seconds=round(scaled(60)))
    assert record["stdout"] == "1000 127.0.1.1\n", record


@needs("tmux")
def test_tmux_runs_programs_in_terminals(shared: Server) -> None:
    handler = (
        "tmux -f /dev/null new-session -d 'tty; stty size; tmux wait-for -S ready; cat'; "
        "tmux split-window 'sleep 60'; tmux wait-for ready; tmux capture-pane -p -t 0; "
        "tmux list-panes | wc -l; tmux kill-server"
    )
    record = shared.run(handler, environment={"TERM": "xterm"})
    words = record["stdout"].split()
    assert words[0].startswith("/dev/pts/"), record
    assert words[-1] == "2"


THREADS = """
import threading
def handler(event):
    gate = threading.Barrier(101)
    threads = [threading.Thread(target=gate.wait) for _ in range(100)]
    for one in threads: one.start()
    alive = threading.active_count()
    gate.wait()
    for one in threads: one.join()
    return alive
"""


def test_a_hundred_threads_run_at_once(shared: Server) -> None:
    assert python(shared, THREADS).invoke()["stdout"] == "101"


POOL = """
from multiprocessing import Pool
from joblib import Parallel, delayed

def handler(event):
    with Pool(8) as pool:
        squares = sum(pool.map(pow_two, range(100)))
    roots = Parallel(n_jobs=4)(delayed(pow_two)(n) for n in range(100))
    return [squares, sum(roots)]

def pow_two(n):
    return n * n
"""


def test_joblib_and_pools_of_processes_work(shared: Server, tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    uv = Path(sys.executable).with_name("uv")
    tool = [str(uv), "pip", "install", "--quiet", "--python", sys.executable, "--target"]
    installed([*tool, str(packages), "joblib==1.5.3"], tmp_path)
    files = files_in(tmp_path) | {"mod.py": POOL}
    runtime = sample_runtimes.add(shared, "python", files)
    function = shared.deploy(
        "mod:handler", runtime=runtime, memory_limit_mb=512, timeout_seconds=round(scaled(30))
    )
    record = function.invoke()
    assert record["status"] == "success", record
    assert json.loads(record["stdout"]) == [328_350, 328_350]
    function.delete()


SQLITE = """
const Database = require('libsql');
exports.handler = () => {
    const data = new Database('/tmp/data.db');
    data.pragma('journal_mode = WAL');
    data.exec('CREATE TABLE IF NOT EXISTS one (n INTEGER)');
    const insert = data.prepare('INSERT INTO one VALUES (?)');
    data.transaction(() => { for (let n = 0; n < 1000; n++) insert.run(n); })();
    const sum = data.prepare('SELECT sum(n) AS sum FROM one').get().sum;
    data.close();
    return sum;
};
"""


@needs("npm")
def test_a_module_of_node_in_c_works(shared: Server, tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text(json.dumps({"name": "wanted", "version": "1.0.0"}))
    npm = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0"]
    # SQLite with the interface of better-sqlite3, compiled by its publisher.
    installed([*npm, f"--cache={tmp_path / '.cache'}", "libsql@0.5.29"], tmp_path)
    for path in [tmp_path / ".cache", *tmp_path.glob("node_modules/@libsql/*-musl")]:
        shutil.rmtree(path, ignore_errors=True)
    assert list(tmp_path.rglob("*.node")), "machine code, which the handler loads"
    runtime = sample_runtimes.add(shared, "node", files_in(tmp_path) | {"index.js": SQLITE})
    function = shared.deploy("index.handler", runtime=runtime)
    for _ in range(2):
        record = function.invoke()
        assert record["stdout"] == "499500", record["error_message"] or record["stderr"]
    function.delete()
