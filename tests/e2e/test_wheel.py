"""The wheel is installed outside of the checkout, and has a guest for its CPU architecture."""

import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import server as server_module
from e2e.server import Server, short_dir
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox

ROOT = Path(__file__).resolve().parents[2]
GUEST = "quiltfn/guest/bin/guest"
SHELL_LIBRARY = "quiltfn/guest/bin/shell.so"
NATIVE_LIBRARY = "quiltfn/native/compiled.abi3.so"
BUILT = ("quiltfn/guest/bin/", NATIVE_LIBRARY, "quiltfn/web/", "quiltfn/site/")
CHECKOUTS_GUEST = ROOT / "src" / GUEST
CROSS_COMPILER = "aarch64-linux-gnu-gcc"
X86_64, AARCH64 = 62, 183
PT_INTERP, PT_DYNAMIC = 3, 2


def run(*command: object, **more: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=scaled(300),
        **more,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return str(done.stdout)


def build(out: Path, machine: str) -> Path:
    before = CHECKOUTS_GUEST.stat()
    run(ROOT / "scripts" / "wheel", "--machine", machine, "--out", out)
    after = CHECKOUTS_GUEST.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    (wheel,) = out.glob("*.whl")
    return wheel


def program_headers(elf: bytes) -> tuple[int, set[int]]:
    """The architecture of a 64-bit program, and the types in its program headers."""
    assert elf[:5] == b"\x7fELF\x02"
    (machine,) = struct.unpack_from("<H", elf, 18)
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    kinds = {struct.unpack_from("<I", elf, offset + n * size)[0] for n in range(count)}
    return machine, kinds


def check_guest(wheel: Path, machine: int) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.namelist().count(GUEST) == 1
        assert any(one.endswith("/share/man/man1/quiltfn.1") for one in archive.namelist())
        assert any(
            one.endswith("/share/quiltfn/grafana/quiltfn-alerts.yml") for one in archive.namelist()
        )
        assert archive.getinfo(GUEST).external_attr >> 16 & 0o111, "it can be executed"
        seen, kinds = program_headers(archive.read(GUEST))
        shell, _ = program_headers(archive.read(SHELL_LIBRARY))
        native, _ = program_headers(archive.read(NATIVE_LIBRARY))
    assert seen == shell == native == machine
    assert not kinds & {PT_INTERP, PT_DYNAMIC}, "it is static"


@pytest.fixture(scope="module")
def away() -> Iterator[Path]:
    """A directory that every user can reach, without a file of the checkout."""
    with short_dir() as path:
        yield path


@pytest.fixture(scope="module")
def wheel(away: Path) -> Path:
    return build(away / "native", platform.machine())


@pytest.fixture(scope="module")
def command(away: Path, wheel: Path) -> Path:
    """`quiltfn` as installed by pipx, or by venv and pip if pipx is not available."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    python = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
    tools, uv = away / "tools", Path(sys.executable).with_name("uv")
    run(uv, "venv", "--quiet", "--python", python, tools, env=outside)
    got = subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", tools / "bin" / "python", "pipx"],
        capture_output=True,
        check=False,
        env=outside,
        timeout=scaled(120),
    )
    if got.returncode == 0:
        home = {"PIPX_HOME": str(away / "pipx"), "PIPX_BIN_DIR": str(away / "bin")}
        home |= {"PIPX_MAN_DIR": str(away / "man"), "PIPX_DEFAULT_PYTHON": python}
        run(tools / "bin" / "pipx", "install", wheel, env={**outside, **home}, cwd=away)
        return away / "bin" / "quiltfn"
    run(python, "-m", "venv", away / "venv", env=outside)
    run(away / "venv" / "bin" / "pip", "install", "--quiet", wheel, env=outside, cwd=away)
    return away / "venv" / "bin" / "quiltfn"


def sources(wheel: Path) -> dict[str, bytes]:
    """The files of the package in a wheel, without those that were built. The client's wheel and
    the server's wheel both have the checkout's files, so installing one over the other at the same
    version changes nothing.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [one for one in archive.namelist() if one.startswith("quiltfn/")]
        found = {name: archive.read(name) for name in names if not name.startswith(BUILT)}
    assert len(found) > 50
    assert "quiltfn/py.typed" in found
    places = {name: name.replace("quiltfn/operator/packaging", "../packaging") for name in found}
    assert found == {name: (ROOT / "src" / place).read_bytes() for name, place in places.items()}
    return found


def static_shell(wheel: Path) -> set[str]:
    """The static copy of the shell in a wheel, and its copyright notice."""
    with zipfile.ZipFile(wheel) as archive:
        paths = [Path(one) for one in archive.namelist()]
    return {one.name for one in paths if one.parent == Path(GUEST).parent} - {"guest", "shell.so"}


def test_a_wheel_is_made_for_its_platform_and_holds_a_static_guest(wheel: Path) -> None:
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl")
    check_guest(wheel, {"x86_64": X86_64, "aarch64": AARCH64}[platform.machine()])
    directory = CHECKOUTS_GUEST.parent
    built = {*directory.glob("dash-*"), *directory.glob("dash.copyright")}
    assert static_shell(wheel) == {one.name for one in built}
    assert "quiltfn/server/main.py" in sources(wheel)


@promise("A51")
def test_a_wheel_of_the_source_archive_needs_no_tools(wheel: Path, away: Path) -> None:
    hatchling = [sys.executable, "-m", "hatchling", "build", "--directory", away / "source"]
    run(*hatchling, "--target", "sdist", cwd=ROOT)
    (archive,) = (away / "source").glob("*.tar.gz")
    shutil.unpack_archive(archive, away / "unpacked", filter="data")
    (tree,) = (away / "unpacked").iterdir()
    assert not (tree / "ui" / "node_modules").exists()
    without = {**os.environ, "PATH": "/usr/bin:/bin", "https_proxy": "http://127.0.0.1:9"}
    run(*hatchling, "--target", "wheel", cwd=tree, env=without)
    (again,) = (away / "source").glob("*.whl")
    assert built_in(again) == built_in(wheel)
    assert {"quiltfn/web/index.html", "quiltfn/site/index.html.gz"} <= built_in(again).keys()


def built_in(wheel: Path) -> dict[str, bytes]:
    """The files of the dashboard and the documentation in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        built = ("quiltfn/web/", "quiltfn/site/")
        return {name: archive.read(name) for name in archive.namelist() if name.startswith(built)}


def test_installed_wheel_serves(command: Path, away: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(command, "--version", cwd=away).startswith("quiltfn ")
    assert '"can_start": true' in run(command, "doctor", "--output", "json", cwd=away)
    # The wheel has the unit, which starts the installed program.
    run(command, "service", "install", "--root", away / "root", cwd=away)
    unit = (away / "root/etc/systemd/system/quiltfn.service").read_text()
    assert f"ExecStart={away}" in unit
    monkeypatch.setattr(server_module, "QUILTFN", command)
    server = Server(away)
    server.makes_database = True
    try:
        server.start()
        program = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert bytes(away) in program, "it runs what was installed"
        record = server.run('echo "hello, $QUILT_PAYLOAD"', "wheel")
        assert (record["status"], record["stdout"]) == ("success", "hello, wheel\n")
    finally:
        server.close()


SERVER_ALONE = {"starlette", "uvicorn", "sqlalchemy", "alembic", "structlog", "httptools", "jwt"}
SERVER_ALONE |= {"prometheus_client", "uvloop", "httpx", "rich"}


@pytest.fixture(scope="module")
def python(command: Path) -> Path:
    """The interpreter that the wheel was installed for."""
    return command.resolve().parent / "python"


def test_the_native_module_fits_the_python_of_the_wheel(python: Path, away: Path) -> None:
    show = "from quiltfn.native import compiled; print(compiled.__file__)"
    assert run(python, "-c", show, cwd=away).strip().endswith(NATIVE_LIBRARY)


@promise("M10")
def test_the_client_library_loads_none_of_the_server(python: Path, away: Path) -> None:
    show = "import sys; print(*sys.modules)"
    for line in ("import quiltfn", "from quiltfn import Client; Client()"):
        loaded = set(run(python, "-c", f"{line}; {show}", cwd=away).split())
        assert "quiltfn" in loaded
        assert not loaded & SERVER_ALONE
        ours = {one.split(".")[1] for one in loaded if one.startswith("quiltfn.")}
        assert ours <= {"sdk", "wire"}


@promise("M10")
def test_a_type_checker_sees_its_types(python: Path, away: Path) -> None:
    program = away / "program.py"
    program.write_text(
        "from quiltfn import AsyncClient, Client\n"
        "with Client() as client:\n"
        "    reveal_type(client.invoke('hello', payload={'a': 1}).exit_code)\n"
        "    for one in client.functions.list():\n"
        "        reveal_type(one.memory_limit_mb)\n"
        "    client.functions.create(name='a', handler='b', colour='red')\n"
        "reveal_type(AsyncClient().keys.list)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    done = subprocess.run(
        [*mypy, "--cache-dir", away / "mypy", program],  # type: ignore[list-item]
        capture_output=True,
        text=True,
        check=False,
        cwd=away,
        timeout=scaled(300),
    )
    notes = [line.partition("program.py:")[2] for line in done.stdout.splitlines()]
    assert notes[0].startswith('3: note: Revealed type is "int | None"'), done.stdout
    assert notes[1].startswith('5: note: Revealed type is "int"')
    assert notes[2].startswith('6: error: Unexpected keyword argument "colour"')
    assert "Awaitable[list[quiltfn.wire.keys.Key]]" in notes[3]


def test_the_example_of_the_readme_runs_word_for_word(
    python: Path, command: Path, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert "Client()" in example
    monkeypatch.setattr(server_module, "QUILTFN", command)
    with short_dir() as directory:
        server = Server(directory)
        try:
            server.start()
            at = {**os.environ, "QUILT_BASE_URL": server.url, "PYTHONPATH": ""}
            assert run(python, "-c", example, cwd=away, env=at) == "hello, world\n\n"
        finally:
            server.close()


@pytest.mark.skipif(shutil.which(CROSS_COMPILER) is None, reason=f"needs {CROSS_COMPILER}")
def test_the_wheel_for_arm_holds_a_static_guest_for_arm(away: Path) -> None:
    wheel = build(away / "foreign", "aarch64")
    assert wheel.name.endswith("-py3-none-linux_aarch64.whl")
    check_guest(wheel, AARCH64)
    assert static_shell(wheel) == set()


def test_words_that_make_no_sense_build_nothing() -> None:
    for words in (["--machine", "riscv64"], ["--machine"], ["--out"], ["--colour"]):
        done = subprocess.run(
            [ROOT / "scripts" / "wheel", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode in (1, 2), words
        assert done.stderr, words
