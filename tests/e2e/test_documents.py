"""Runs the documentation word for word, as a newcomer does: every block of commands and of Python
on every page, one after the other in one directory. Each must print what its page says.

A block that cannot be run says why in a comment before it: `<!-- not run: REASON -->`. The snippets
of docs/api are not run, since they contain variables; tests/unit/test_api_pages.py checks what they
send. tests/architecture/test_documents.py checks blocks of data and of programs.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from e2e.server import QUILTFN, is_alive, short_dir, until
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("A83", "M7")]
ROOT = Path(__file__).parents[2]
# The order of these pages matters: each page finds the results of earlier ones.
FIRST = "README.md"
PAGES = [
    "docs/tutorial.md",
    "docs/tutorial-python-client.md",
    "docs/reference/python-client.md",
    "docs/how-to/deploy-a-project.md",
    "docs/how-to/runtimes.md",
    "docs/how-to/base-images.md",
    "docs/reference/handlers.md",
    "docs/how-to/custom-runtime.md",
    "docs/how-to/gvisor.md",
    "docs/how-to/egress.md",
    "docs/how-to/asynchronous-calls.md",
    "docs/how-to/webhooks-out.md",
    "docs/how-to/urls-and-webhooks-in.md",
    "docs/how-to/web-servers.md",
    "docs/how-to/schedules.md",
    "docs/how-to/versions-and-aliases.md",
    "docs/how-to/change-under-load.md",
    "docs/how-to/watch-calls.md",
    "docs/how-to/dashboard.md",
    "docs/how-to/look-around.md",
    "docs/how-to/monitoring.md",
    "docs/how-to/records.md",
    "docs/how-to/usage.md",
    "docs/how-to/slow-calls.md",
    "docs/reference/keep-alive.md",
    "docs/how-to/keys.md",
    "docs/how-to/command-line.md",
    "docs/how-to/backup.md",
    "docs/how-to/postgresql.md",
    "docs/how-to/fleet.md",
    "docs/how-to/size-a-fleet.md",
    "docs/how-to/install.md",
    "docs/how-to/test-v2.md",
    "docs/how-to/release.md",
    "deploy/kubernetes/README.md",
    "CONTRIBUTING.md",
]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<kind>sh|python|text)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# The variables that a newcomer has, too; not our settings or a proxy.
KEPT = ("HOME", "LANG", "TERM", "SSL_CERT_FILE", "UV_CACHE_DIR", "TMPDIR")


def blocks(page: str) -> list[dict[str, str | None]]:
    return [found.groupdict() for found in BLOCK.finditer((ROOT / page).read_text())]


def not_run() -> Iterator[tuple[str, str]]:
    for page in [FIRST, *PAGES]:
        for block in blocks(page):
            if block["why"]:
                yield page, block["why"]


@dataclass
class Terminal:
    """A newcomer's terminal, with its own directory and network, in which port 8080 is free."""

    directory: Path
    network: int
    state: Path

    def run(self, page: str) -> int:
        """Runs all blocks of the page in one shell; returns their number. Exported variables are
        passed on to the next page.
        """
        parts, expected = [f". {self.state}"], list[Any]()
        for number, block in enumerate(blocks(page)):
            if block["kind"] != "text" and not block["why"]:
                mark = f"printf '\\n@@ {number}\\n'"
                parts += [mark, f"{mark} >&2", command_of(block)]
                expected.append((number, str(block["text"]), []))
            elif block["kind"] == "text" and expected:
                expected[-1][2].extend(str(block["text"]).splitlines())
        parts += [f"export -p >{self.state}", f"jobs -p >>{self.state}.pids"]
        out, err = self.shell("\n".join(parts), page)
        for number, text, lines in expected:
            printed = part_of(out, number) + "\n" + part_of(err, number)
            check(text, lines, printed)
        return len(expected)

    def shell(self, script: str, name: str) -> tuple[str, str]:
        """Runs a shell whose output goes to files: a server that the shell starts keeps its output
        open.
        """
        out, err = (self.directory.parent / f"{Path(name).name}.{one}" for one in ("out", "err"))
        command = ["nsenter", f"--net=/proc/{self.network}/ns/net", "/bin/bash", "-e", "-c", script]
        with out.open("wb") as to_out, err.open("wb") as to_err:
            done = subprocess.run(
                command,
                cwd=self.directory,
                env=newcomer(self.state.parent / "config"),
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                timeout=scaled(180),
                check=False,
                start_new_session=True,
            )
        said, complained = (one.read_text(errors="replace") for one in (out, err))
        assert done.returncode == 0, f"{name}\n{said}\n{complained}"
        return said, complained


def newcomer(config: Path) -> dict[str, str]:
    """A newcomer's environment. `config`: the directory in which commands store the user's
    settings.
    """
    mine = {name: os.environ[name] for name in KEPT if name in os.environ}
    mine["XDG_CONFIG_HOME"] = str(config)
    # Packages must be in the cache already, since the terminal's network cannot reach the internet.
    return {**mine, "PATH": "/usr/local/bin:/usr/bin:/bin", "COLUMNS": "200", "UV_OFFLINE": "1"}


def command_of(block: dict[str, str | None]) -> str:
    """The shell command that runs a block; a Python block runs as a separate program."""
    text = str(block["text"])
    return text if block["kind"] == "sh" else f"python3 - <<'END OF BLOCK'\n{text}END OF BLOCK\n"


def part_of(printed: str, number: int) -> str:
    _, _, rest = printed.partition(f"@@ {number}\n")
    return re.split(r"^@@ \d+\n", rest, maxsplit=1, flags=re.MULTILINE)[0]


def check(text: str, lines: list[str], printed: str) -> None:
    at = 0
    for line in lines:
        # Lines of one stream are printed in this order; those of two streams may not be. … stands
        # for varying text.
        pattern = re.compile(re.escape(line).replace("…", r"\S+").replace(r"\ ", r"\s+"))
        found = pattern.search(printed, at) or pattern.search(printed)
        assert found, f"after\n{text}\n{line!r} is not in\n{printed}"
        at = found.end()


@pytest.fixture(scope="module")
def terminal() -> Iterator[Terminal]:
    """A terminal in which the README's blocks were run: all other pages need its server."""
    holder = subprocess.Popen(
        ["unshare", "--net", "/bin/sh", "-c", "ip link set lo up && echo up && exec sleep 900"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n"
    with short_dir() as root:
        directory = root / "quiltfn"
        directory.mkdir()
        for name in (".venv", "scripts"):
            (directory / name).symlink_to(ROOT / name)
        state = root / "state"
        state.write_text("")
        opened = Terminal(directory, holder.pid, state)
        try:
            opened.run(FIRST)
            opened.directory = root / "quiltfn-try"  # the README changes to this directory
            yield opened
        finally:
            end(root / "state.pids")
            holder.kill()
            holder.wait()
            holder.stdout.close()


def fetch() -> None:
    """Fetches the packages that pages install, into the cache of their installer."""
    uv = Path(sys.executable).with_name("uv")
    place = "/tmp/quiltfn-fetched"
    done = subprocess.run(
        [uv, "pip", "install", "-q", "--only-binary", ":all:", "--target", place, "jinja2"],
        check=False,
        capture_output=True,
        text=True,
    )
    shutil.rmtree(place, ignore_errors=True)
    if done.returncode != 0:
        pytest.skip(f"jinja2 cannot be fetched: {done.stderr[-300:]}")


def end(pids: Path) -> None:
    for word in pids.read_text().split() if pids.exists() else ():
        pid = int(word)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            until(lambda pid=pid: not is_alive(pid), 45.0)  # type: ignore[misc]


def test_the_readme_does_what_it_says(terminal: Terminal) -> None:
    assert (terminal.directory / "etl" / "main.py").exists()
    checkout = terminal.directory.with_name("quiltfn")
    # the commands of the page have added no file to the checkout
    assert {one.name for one in checkout.iterdir()} == {".venv", "scripts"}
    assert "QUILT_API_KEY" in terminal.state.read_text()


@promise("R15", "M9")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says(terminal: Terminal, page: str) -> None:
    if page.endswith("gvisor.md") and shutil.which("runsc") is None:
        pytest.skip("needs runsc")
    if page.endswith(("tutorial.md", "deploy-a-project.md")):
        fetch()
    terminal.run(page)


@pytest.mark.parametrize(("page", "why"), list(not_run()))
def test_what_is_not_run_says_why(page: str, why: str) -> None:
    pytest.skip(f"{page}: {why}")


def test_every_page_with_commands_is_run() -> None:
    listed = ["git", "ls-files", "-z", "*.md"]
    output = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    with_commands = {
        name
        for name in output.split("\0")
        if name and not name.startswith("docs/api/")
        if re.search(r"^```(sh|bash|console|python|py)$", (ROOT / name).read_text(), re.MULTILINE)
    }
    assert with_commands == {FIRST, *PAGES} - {page for page in PAGES if not blocks(page)}
    assert QUILTFN.exists()


def test_what_a_page_does_not_say_it_prints_is_found_out() -> None:
    """Negative control: `check` fails for a line that was not printed."""
    check("", ["Hello, …!"], "Hello, Ada!")
    with pytest.raises(AssertionError, match="is not in"):
        check("", ["Goodbye"], "Hello, Ada!")
