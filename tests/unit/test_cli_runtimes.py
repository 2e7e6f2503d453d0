"""`quiltfn runtimes`: the assembled tree, the code that must not run meanwhile, and the uploads."""

import gzip
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from promises import promise
from quiltfn import wire
from quiltfn.api.http.errors import error_body
from quiltfn.cli import packages, run, runtime_files, show, tools, tree
from quiltfn.cli.parsing import BadParameter
from quiltfn.model.errors import Unprocessable
from quiltfn.wire import Kind
from timeouts import scaled
from unit.canned_server import FUNCTION, ID, INFO, body_of
from unit.command_line import CommandLine, Printed
from unit.sample_archives import a_builder, a_wheel
from unit.terminals import needs

pytestmark = pytest.mark.usefixtures("offline")
Install = Callable[[str], None]

DIGEST, BASE = "ab" * 32, "cd" * 32
RUNTIME = body_of(
    wire.Runtime, name="etl", kind="python", image=DIGEST, image_digest=f"sha256:{DIGEST}"
)
IMAGE = body_of(wire.Image, digest=DIGEST, environment={}, interpreters={})
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
TARGET = packages.Target(interpreter=f"/usr/bin/python{VERSION}", architecture="x86_64", glibc=41)
WITH_PYTHON = {
    **INFO,
    "interpreters": {"python": TARGET.interpreter},
    "architecture": TARGET.architecture,
    "libc": f"glibc 2.{TARGET.glibc}",
}


@pytest.fixture
def cli(cli: CommandLine) -> CommandLine:
    cli.answers |= {
        ("GET", "/api/runtimes"): (200, {"runtimes": [RUNTIME]}),
        ("GET", "/api/runtimes/etl"): (200, RUNTIME),
        ("DELETE", "/api/runtimes/etl"): (204, None),
        ("POST", "/api/runtimes"): (201, RUNTIME),
        ("POST", "/api/runtimes/images"): (201, IMAGE),
        ("GET", "/api/system/info"): (200, WITH_PYTHON),
    }
    return cli


def add(cli: CommandLine, options: str, code: int = 0) -> Printed:
    return cli.run(f"runtimes add etl {options}", code=code)


def says(printed: Printed) -> str:
    """The error as one line, without the frame around it."""
    return " ".join(printed.err.replace("│", " ").split())


@pytest.fixture
def install_skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a shell script as `skopeo`."""

    def install(script: str) -> None:
        program = tmp_path / "skopeo"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def sent(cli: CommandLine) -> dict[str, tarfile.TarInfo]:
    """The members of the uploaded archives."""
    members: dict[str, tarfile.TarInfo] = {}
    for archive in archives(cli):
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members |= {one.name: one for one in tar.getmembers()}
    return members


def archives(cli: CommandLine) -> list[bytes]:
    return [one for one in cli.bodies if isinstance(one, bytes)]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    for name in (".git/config", "__pycache__/app.pyc", ".venv/bin/python", "data/one.txt"):
        (path / name).parent.mkdir(parents=True)
        (path / name).write_text("x")
    for name in ("app.pyc", "sourceless.pyc"):
        (path / name).write_text("x")
    (path / "app.py").write_text("def main(event): return 1\n")
    (path / "run").write_text("#!/bin/sh\n")
    (path / "run").chmod(0o700)
    (path / "current").symlink_to("data/one.txt")
    return path


def test_a_directory_is_sent_without_what_tools_have_made(cli: CommandLine, app: Path) -> None:
    add(cli, f"--kind shell --dir {app}")
    members = sent(cli)
    assert set(members) == {*("app.py", "run", "current", "data", "data/one.txt", "sourceless.pyc")}
    assert members["current"].linkname == "data/one.txt"
    assert members["run"].mode & 0o100
    assert {(one.uid, one.gid, one.uname) for one in members.values()} == {(0, 0, "")}
    assert cli.body == {"name": "etl", "kind": "shell", "image": DIGEST}
    assert cli.asked == [
        ("GET", "/api/system/info"),
        ("POST", "/api/runtimes/images"),
        ("POST", "/api/runtimes"),
    ]


@promise("M26")
@pytest.mark.parametrize(
    ("target", "leads_out"),
    [
        *[("../../app.py", False), ("missing", False), ("../x/../../run", False)],
        *[("/usr/bin/env", False), ("/app/run", False), ("usr/share", False)],
        *[("{secret}", True), ("/etc/passwd", True), ("/usr/../etc/passwd", True)],
        *[("../../../secret.py", True), ("usr/../..{secret}", True), ("../../../missing", True)],
    ],
)
def test_a_link_that_leads_out_of_the_directory_is_refused_before_anything_reads_it(
    cli: CommandLine, app: Path, target: str, leads_out: bool
) -> None:
    """`usr` links to /usr/share, so `usr/../..` leads out of the directory, although its text does
    not.
    """
    secret = app.with_name("secret.py")
    secret.write_text("KEY = 'sk_live_1'\n")
    (app / "a" / "x").mkdir(parents=True)
    (app / "a" / "b").symlink_to("x")
    (app / "a" / "x" / "usr").symlink_to("/usr/share")
    (app / "a" / "x" / "link.py").symlink_to(target.format(secret=secret))
    printed = add(cli, f"--kind shell --dir {app}", code=2 if leads_out else 0)
    assert bool(archives(cli)) is not leads_out
    assert (f"{app}/a/x/link.py is a link to" in says(printed)) is leads_out


@promise("M26")
@pytest.mark.parametrize("name", ["requirements.txt", "data.py"])
def test_no_package_is_installed_beside_a_link_that_leads_out_of_the_directory(
    cli: CommandLine, app: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with_a_package(app)
    (app / name).unlink(missing_ok=True)
    (app / name).symlink_to("../secret")
    app.with_name("secret").write_text("s3cr3t")
    monkeypatch.setattr(packages, "install_python", lambda *_: pytest.fail("installed"))
    printed = add(cli, f"--kind python --dir {app}", code=2)
    assert not archives(cli)
    error = " ".join(printed.err.split())
    assert f"{app}/{name} is a link to" in error
    assert "s3cr3t" not in error


def test_every_option_is_understood(cli: CommandLine) -> None:
    options = "--env A=1 --network egress --writable /data --writable /cache --isolation crun"
    options += " --processes 1000 --tmp 1024 --file-size 300 --open-files 8192"
    printed = add(cli, f"""--kind custom --command "/app/run -v 'a b'" {options}""")
    assert cli.body == {
        "name": "etl",
        "kind": "custom",
        "command": ["/app/run", "-v", "a b"],
        "environment": {"A": "1"},
        "network": "egress",
        "writable_paths": ["/data", "/cache"],
        "isolation": "crun",
        "process_limit": 1000,
        "tmp_limit_mb": 1024,
        "file_limit_mb": 300,
        "open_files_limit": 8192,
    }
    assert f"etl is python: sha256:{DIGEST}" in printed.out


@pytest.mark.usefixtures("tool")
def test_packages_come_as_wheels_and_everything_is_compiled(cli: CommandLine, app: Path) -> None:
    (app / "requirements.txt").write_text(f"{a_wheel(app.parent)}\n")
    twice = []
    for _ in range(2):
        add(cli, f"--kind python --dir {app}")
        members = sent(cli)
        twice.append(archives(cli))
        cli.bodies.clear()
    assert {"site-packages/demo.py", "app.py", "data/one.txt"} <= set(members)
    assert not [one for one in members if one.startswith("site-packages/bin")]
    if shutil.which(f"python{VERSION}") or Path(f"/usr/bin/python{VERSION}").exists():
        tag = f"cpython-{VERSION.replace('.', '')}"
        assert f"site-packages/__pycache__/demo.{tag}.pyc" in members
        assert f"__pycache__/app.{tag}.pyc" in members
    assert twice[0] == twice[1], "the same trees are the same archives"
    assert len(twice[0]) == 2, "code and packages are images of their own"


@promise("R7")
def test_packages_need_a_wheel(cli: CommandLine, tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"{a_builder(tmp_path / 'mark', marker)}\n")
    error = says(add(cli, f"--kind python --requirements {requirements}", code=2))
    assert "line 1: " in error
    assert "is not a wheel" in error
    assert not marker.exists()
    assert ("POST", "/api/runtimes") not in cli.asked


def with_package_by_path(app: Path, script: str) -> None:
    """Write a package.json that names another package by its path. Both packages have `script`."""
    scripts = f'"version": "1.0.0", "scripts": {{{script}}}'
    (app / "dep").mkdir()
    (app / "dep" / "package.json").write_text(f'{{"name": "dep", {scripts}}}')
    (app / "package.json").write_text(
        f'{{"name": "x", {scripts}, "dependencies": {{"dep": "file:./dep"}}}}'
    )


def test_no_script_runs_that_prepares_a_package_named_by_its_path(
    cli: CommandLine, app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """npm before version 10 insists on running the script. It gets no shell, so the package is
    refused.
    """
    needs("npm")
    marker = tmp_path / "it-ran"
    with_package_by_path(app, f'"prepare": "touch {marker}"')
    code = run(["runtimes", "add", "etl", "--kind", "node", "--dir", str(app)])
    assert not marker.exists()
    assert code == 0 or "could not be installed" in capsys.readouterr().err
    assert ("POST", "/api/runtimes") in cli.asked or code == 2


@promise("R7")
def test_npm_installs_packages_and_no_scripts(cli: CommandLine, app: Path, tmp_path: Path) -> None:
    needs("npm")
    marker = tmp_path / "it-ran"
    with_package_by_path(app, f'"postinstall": "touch {marker}"')
    (app / "node_modules" / "old").mkdir(parents=True)
    add(cli, f"--kind node --dir {app}")
    members = sent(cli)
    assert members["node_modules/dep"].linkname == "../dep"
    assert "node_modules/old" not in members
    assert not marker.exists()
    assert not (app / "package-lock.json").exists(), "the copy is worked in, not the directory"


def test_modules_that_nobody_installs_again_are_sent(cli: CommandLine, app: Path) -> None:
    (app / "node_modules" / "mine").mkdir(parents=True)
    add(cli, f"--kind node --dir {app}")
    assert "node_modules/mine" in sent(cli)


def test_what_does_not_go_together_is_said(cli: CommandLine, app: Path) -> None:
    add(cli, f"--kind node --requirements {app}/app.py", code=2)
    add(cli, f"--kind shell --dir {app}/none", code=2)
    (app / "package.json").write_text("{bad")
    error = add(cli, f"--kind node --dir {app}", code=2).err
    assert f"error: {app}/package.json cannot be read" in error, "by its own path"
    cli.answers["GET", "/api/system/info"] = (200, INFO | {"interpreters": {}})
    add(cli, f"--kind python --dir {app}", code=2)
    assert ("POST", "/api/runtimes") not in cli.asked


def test_runtimes_are_listed_shown_and_removed(cli: CommandLine) -> None:
    own = RUNTIME | {"name": "shell", "built_in": True, "image": None, "image_digest": "host:aa"}
    cli.answers["GET", "/api/runtimes"] = (200, {"runtimes": [own, RUNTIME]})
    listed = cli.run("runtimes list").out
    assert "sha256:abababababab" in listed
    assert "server" in listed
    assert f"sha256:{DIGEST}" in cli.run("runtimes show etl").out
    base = {"base_image": BASE, "image": None, "image_digest": f"base:{BASE}"}
    cli.answers["GET", "/api/runtimes/etl"] = (200, RUNTIME | base | {"interpreter": "/bin/p"})
    shown = cli.run("runtimes show etl").out
    assert f"base:{BASE}" in shown
    assert "/bin/p" in shown
    assert cli.run("runtimes remove etl").out == "removed etl\n"
    assert cli.run("runtimes remove etl -o json").data == {"removed": True, "name": "etl"}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB")],
)
def test_a_size_is_told_in_the_unit_that_says_something(count: int, text: str) -> None:
    assert show.size(count) == text


# Base images -----------------------------------------------------------------------------------


def a_rootfs(path: Path) -> Path:
    (path / "bin").mkdir(parents=True)
    (path / "bin/sh").write_text("#!")
    os.link(path / "bin/sh", path / "bin/dash")
    (path / "lib").symlink_to("/usr/lib")
    os.mkfifo(path / "pipe")
    return path


@promise("M24")
@pytest.mark.parametrize("named", ["--policy=/etc/x", "x86_64 y", "a/../b", "\x1b[2J"])
def test_a_processor_that_is_no_name_becomes_no_word_of_a_command(
    cli: CommandLine, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "run", lambda *_, **__: pytest.fail("a program was run"))
    cli.answers["GET", "/api/system/info"] = (200, WITH_PYTHON | {"architecture": named})
    reference = f"docker.io/library/alpine@sha256:{DIGEST}"
    for options in (f"--kind shell --image {reference}", "--kind python --dir ."):
        error = add(cli, options, code=2).err
        assert "an invalid CPU architecture" in error
        assert "\x1b" not in error


def test_all_files_of_a_directory_are_packed(cli: CommandLine, tmp_path: Path) -> None:
    root = a_rootfs(tmp_path / "root")
    found = {"PATH": "/opt/bin", "HOME": "/root", "PYTHON_VERSION": "3.12", "A": "image", "B": "b"}
    cli.answers["POST", "/api/runtimes/images"] = (201, IMAGE | {"environment": found})
    add(cli, f"--kind shell --rootfs {root} --env A=own")
    assert {name: one.type for name, one in sent(cli).items()} == {
        "bin": tarfile.DIRTYPE,
        "bin/dash": tarfile.REGTYPE,
        "bin/sh": tarfile.LNKTYPE,
        "lib": tarfile.SYMTYPE,
    }
    assert cli.body == {
        "name": "etl",
        "kind": "shell",
        "base_image": DIGEST,
        "environment": {"PATH": "/opt/bin", "A": "own", "B": "b"},
    }


def test_a_root_is_compressed_if_it_would_be_too_long(cli: CommandLine, tmp_path: Path) -> None:
    cli.answers["GET", "/api/system/info"] = (200, INFO | {"limits": {"image_upload_bytes": 100}})
    archive, gzipped = tmp_path / "root.tar", tmp_path / "root.tar.gz"
    archive.write_bytes(bytes(10_000))
    gzipped.write_bytes(gzip.compress(bytes(10_000), 0))
    for path, length_max in ((archive, 100), (gzipped, 20_000)):
        cli.bodies.clear()
        add(cli, f"--kind shell --rootfs {path}")
        (sent_as,) = archives(cli)
        assert gzip.decompress(sent_as) == bytes(10_000)
        assert len(sent_as) < length_max
    assert sent_as == gzipped.read_bytes(), "it is not compressed twice"


def test_packages_fit_the_base_image(cli: CommandLine, app: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(b"a tar")
    options = f"--kind python --dir {app}"
    without = add(cli, f"{options} --image {archive}", code=2)
    assert "the base image has no python3" in without.err
    image = IMAGE | {"interpreters": {"python": "/usr/local/bin/python3.999"}}
    cli.answers["POST", "/api/runtimes/images"] = (201, image)
    printed = add(cli, f"{options} --image {archive}")
    assert "no python3.999 here, so nothing is compiled" in printed.err
    assert cli.body["base_image"] == cli.body["image"] == DIGEST
    options += f" --base-image {DIGEST}"
    add(cli, options)
    (tmp_path / "requirements.txt").write_text("x\n")
    printed = add(cli, f"{options} --requirements {tmp_path}/requirements.txt", code=2)
    assert "packages require --image or --rootfs" in printed.err


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--image python:3.12", "apt install skopeo"),
        ("--image EMPTY", "is not an OCI layout; for a root file system use --rootfs"),
        ("--rootfs /nowhere", "there is no /nowhere"),
        (f"--image x --base-image {DIGEST}", "give only one of"),
        ("--image x --auth-file /nowhere", "--auth-file: there is no file /nowhere"),
        ("--image x --cert-dir /nowhere", "--cert-dir: there is no directory /nowhere"),
        ("--insecure-registry", "require --image"),
    ],
)
def test_what_is_no_base_image_is_said_before_anything_is_sent(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, why: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    options = options.replace("EMPTY", str(tmp_path))
    assert why in add(cli, f"--kind shell {options}", code=2).err
    assert cli.asked == []


def test_a_refused_base_image_has_its_name(cli: CommandLine, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar"
    archive.write_bytes(b"a tar")
    refusal = json.loads(error_body(Unprocessable.field("base_image", "an image with a sh")))
    cli.answers["POST", "/api/runtimes"] = (422, refusal)
    for option, value in (("--rootfs", archive), ("--image", archive), ("--base-image", DIGEST)):
        printed = add(cli, f"--kind shell {option} {value}", code=1)
        assert f"error: {option} must be an image with a sh" in printed.err


def runs(pid: int) -> bool:
    """Whether a process runs; false for a zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_program_that_hangs_is_ended_with_what_it_has_started(
    cli: CommandLine,
    tmp_path: Path,
    install_skopeo: Install,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that hangs is ended together with its children. Its temporary files are removed,
    and the error names it.
    """
    made, aside = tmp_path / "made", tmp_path / "aside"
    aside.mkdir()
    install_skopeo(
        "echo asking for it >&2\ntrap '' TERM\n"
        'for one; do case "$one" in --tmpdir=*) to="${one#*=}";; esac; done\n'
        f'sleep 600 & echo "$! $to" >{made}\necho part >"$to/part"\nwait\nwait'
    )
    monkeypatch.setattr(tools, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    began = time.monotonic()
    error = add(cli, f"--kind shell --timeout 1 --image x@sha256:{DIGEST}", code=2).err
    assert time.monotonic() - began < scaled(20)
    for part in ("skopeo was ended after 1 s", "--timeout", "asking for it"):
        assert part in error
    child, place = made.read_text().split()
    assert not runs(int(child))
    assert not Path(place).exists()
    assert list(aside.iterdir()) == []
    assert {method for method, _ in cli.asked} == {"GET"}  # nothing was uploaded


def test_a_program_that_resists_is_ended_though_ctrl_c_comes_twice(tmp_path: Path) -> None:
    made = tmp_path / "made"
    command = ["sh", "-c", f"trap '' TERM; echo $$ >{made}; sleep 600; sleep 600"]
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        while not (made.exists() and made.read_text()):
            time.sleep(0.01)
        for _ in range(2):
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.5)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        tools.run(command)
    thread.join()
    number = int(made.read_text())
    until = time.monotonic() + scaled(5)
    while (runs_on := runs(number)) and time.monotonic() < until:
        time.sleep(0.01)
    if runs_on:
        os.killpg(number, signal.SIGKILL)
    assert not runs_on


def test_a_reference_is_pulled_by_its_digest_with_what_was_given(
    cli: CommandLine, tmp_path: Path, install_skopeo: Install
) -> None:
    """No part of a reference can become an option of skopeo."""
    log, digest = tmp_path / "log", f"sha256:{BASE}"
    install_skopeo(
        f'echo "$*" >>{log}\ncase "$*" in *inspect*) echo {digest};; *copy*)\n'
        'for last; do :; done; echo archive >"${last#oci-archive:}";; esac'
    )
    auth, certs = tmp_path / "auth", tmp_path
    auth.touch()
    files = f"--kind shell --auth-file {auth} --cert-dir {certs}"
    printed = add(cli, f"{files} --image host:5000/--name:3")
    inspect, copy = log.read_text().splitlines()
    options = f"tls-verify=true --{{0}}authfile={auth} --{{0}}cert-dir={certs}"
    assert inspect.startswith("inspect --format={{.Digest}} --no-tags --tls-verify=true")
    assert inspect.endswith(f"--authfile={auth} --cert-dir={certs} -- docker://host:5000/--name:3")
    assert f"--src-{options.format('src-')} -- docker://host:5000/--name@{digest} oci-arch" in copy
    assert b"archive\n" in cli.bodies
    assert f"pulling host:5000/--name@{digest}" in printed.err
    log.unlink()
    add(cli, f"{files} --image docker-daemon:x:1 --insecure-registry")
    (copy,) = log.read_text().splitlines()
    assert "--src-tls-verify=false" in copy
    assert " -- docker-daemon:x:1 oci-archive:" in copy


LOGGED = 'time="2026" level=fatal msg="no image \\\\"x\\\\": not here"'


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            f"printf '%b\\n' '{LOGGED}' >&2; exit 1",
            '--image: skopeo failed: no image "x": not here\n',
        ),
        ("kill -9 $$", "--image: skopeo failed: it was killed by signal 9"),
        (r"printf 'no \377\n' >&2; exit 3", "--image: skopeo failed: no \ufffd"),
        (r"printf '\377'", "skopeo does not report the digest"),
    ],
)
def test_skopeo_errors(cli: CommandLine, install_skopeo: Install, script: str, why: str) -> None:
    install_skopeo(script)
    assert f"error: {why}" in add(cli, "--kind shell --image debian:13", code=2).err
    assert ("POST", "/api/runtimes") not in cli.asked


@pytest.mark.parametrize(
    ("architecture", "taken"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")]
)
def test_an_image_and_packages_are_for_the_processor_of_the_server(
    cli: CommandLine,
    tmp_path: Path,
    install_skopeo: Install,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    taken: str,
) -> None:
    log = tmp_path / "log"
    install_skopeo(f'echo "$*" >{log}\nfor last; do :; done\necho x >"${{last#*:}}"')
    # The user's machine has another architecture than the server's.
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    image = IMAGE | {"interpreters": {"python": TARGET.interpreter}}
    cli.answers["POST", "/api/runtimes/images"] = (201, image)
    cli.answers["GET", "/api/system/info"] = (200, WITH_PYTHON | {"architecture": architecture})
    add(cli, "--kind python --image docker-daemon:x:1")
    assert f"--override-arch={taken} " in log.read_text()
    (tmp_path / "requirements.txt").write_text("x\n")
    options = f"--kind python --image docker-daemon:x:1 --requirements {tmp_path}/requirements.txt"
    error = add(cli, options, code=2).err
    assert f"the server's, Linux {architecture}; this one is Linux s390x" in error


def test_functions_whose_runtime_was_replaced_are_listed(cli: CommandLine) -> None:
    summary = {key: one for key, one in FUNCTION.items() if key not in ("handler", "environment")}
    cli.answers["GET", ""] = (200, {"functions": [summary], "next_cursor": "c2"})
    shown = cli.run("runtimes outdated --limit 1")
    assert cli.query == "view=brief&limit=1&outdated=true"
    assert summary["name"] in shown.out
    assert "--cursor c2" in shown.err
    assert "quiltfn functions update NAME" in shown.err
    cli.answers["GET", ""] = (200, {"functions": [], "next_cursor": None})
    assert cli.run("runtimes outdated") == ("", "no outdated functions\n")
    assert "outdated" not in cli.run("functions get hello").out
    cli.answers["GET", "/by-name/hello"] = (200, {**FUNCTION, "runtime_outdated": True})
    printed = cli.run("functions get hello")
    assert "its runtime was replaced after this version was created" in printed.out


# Packages, which are a separate image --------------------------------------------------------


def with_a_package(app: Path) -> None:
    (app / "requirements.txt").write_text(f"{a_wheel(app.parent)}\n")


def added(cli: CommandLine, app: Path, options: str = "") -> dict[str, Any]:
    """What the command sent about the new runtime, which the server has from now on."""
    cli.bodies.clear()
    add(cli, f"--kind python --dir {app} {options}")
    body = dict(cli.body)
    known = RUNTIME | {name: body.get(name) for name in ("packages", "packages_key")}
    cli.answers["GET", "/api/runtimes"] = (200, {"runtimes": [known]})
    return body


@promise("R27")
def test_packages_that_a_runtime_has_are_neither_installed_nor_sent_again(
    cli: CommandLine, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_package(app)
    first = added(cli, app)
    assert len(archives(cli)) == 2
    assert first["packages"] == DIGEST
    monkeypatch.setattr(packages, "install_python", lambda *_: pytest.fail("installed again"))
    (app / "app.py").write_text("def main(event): return 2\n")
    second = added(cli, app)
    assert second == first
    assert set(sent(cli)) >= {"app.py", "requirements.txt"}
    assert "site-packages/demo.py" not in sent(cli)


@promise("R46")
def test_runtimes_for_all_tenants_take_packages_of_such_alone(cli: CommandLine, app: Path) -> None:
    """A tenant chooses the key and the content of its own runtime's packages, so runtimes for all
    tenants must not reuse them.
    """
    with_a_package(app)
    key, evil = runtime_files.key_of(source(app), TARGET), "e" * 64
    bound = f"{key}@{DIGEST[:32]}"

    def packages_with(shared_option: bool, **known: Any) -> tuple[str, str, bool]:
        there = RUNTIME | {"packages": evil, "packages_key": key} | known
        cli.answers["GET", "/api/runtimes"] = (200, {"runtimes": [there]})
        body = added(cli, app, "--shared" if shared_option else "")
        return body["packages"], body["packages_key"], len(archives(cli)) == 2

    installed = (DIGEST, bound, True)
    assert packages_with(True, shared=False) == installed
    assert packages_with(True, shared=False, packages_key=f"{key}@{evil[:32]}") == installed
    # Packages are not reused from a runtime that an earlier release may have created with a
    # tenant's packages, nor from one with other packages.
    assert packages_with(True, shared=True) == installed
    assert packages_with(True, shared=True, packages_key=bound) == installed
    # Controls: packages that are reused for all tenants, and within a tenant.
    assert packages_with(True, shared=True, packages=DIGEST, packages_key=bound) == (
        DIGEST,
        bound,
        False,
    )
    assert packages_with(False, shared=False) == (evil, key, False)
    assert packages_with(False, shared=True) == (DIGEST, key, True)


def test_with_other_packages_or_on_request_they_are(cli: CommandLine, app: Path) -> None:
    with_a_package(app)
    first = added(cli, app)
    again = added(cli, app, "--upgrade")
    assert "site-packages/demo.py" in sent(cli)
    assert again == first
    assert runtime_files.key_of(source(app), TARGET) == first["packages_key"]
    a_wheel(app.parent, "other")  # the path is the same, but its content is not
    (app.parent / "other-1.0-py3-none-any.whl").replace(app.parent / "demo-1.0-py3-none-any.whl")
    key = runtime_files.key_of(source(app), TARGET)
    assert key != first["packages_key"]
    for other in (
        structs.replace(TARGET, interpreter="/usr/bin/python3.99"),
        structs.replace(TARGET, architecture="aarch64"),
    ):
        assert runtime_files.key_of(source(app), other) != key


@pytest.mark.parametrize("form", ["{0} --hash=sha256:{1}", "file://{0}", "demo @ file://{0} ;a"])
def test_a_wheel_of_this_machine_counts_by_what_is_in_it(tmp_path: Path, form: str) -> None:
    wheel, listed = a_wheel(tmp_path), tmp_path / "requirements.txt"
    listed.write_text(form.format(wheel, "0" * 64).replace(" ;a", ' ; python_version > "3"') + "\n")
    wanted = runtime_files.Source(kind=Kind.PYTHON, directory=None, requirements=listed)
    keys = [runtime_files.key_of(wanted, TARGET) for _ in range(2)]
    wheel.write_bytes(b"another")
    keys.append(runtime_files.key_of(wanted, TARGET))
    assert keys[0] == keys[1] != keys[2]
    listed.write_text("file:///no/such.whl\n")
    with pytest.raises(BadParameter, match=r"^/no/such\.whl cannot be read: No such file"):
        runtime_files.key_of(wanted, TARGET)


def test_packages_of_other_machines(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_a_package(app)
    (app / "package.json").write_text("{}")
    node = runtime_files.Source(kind=Kind.NODE, directory=app)
    python, unknown = source(app), structs.replace(TARGET, glibc=None)

    def keys() -> list[str | None]:
        wanted = ((python, TARGET), (python, unknown), (node, None))
        return [runtime_files.key_of(*one) for one in wanted]

    here = keys()
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    there = keys()
    same = [one == other for one, other in zip(here, there, strict=True)]
    assert same == [True, False, False]


def source(app: Path) -> runtime_files.Source:
    listed = app / "requirements.txt"
    return runtime_files.Source(kind=Kind.PYTHON, directory=app, requirements=listed)


def test_too_large_is_refused(cli: CommandLine, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "pack", lambda *_: pytest.fail("packed"))
    for limits, message in (
        ({"image_bytes": 5}, "but the server accepts 5"),
        ({"image_files": 2}, "but the server accepts 2"),
    ):
        cli.answers["GET", "/api/system/info"] = (200, INFO | {"limits": limits})
        printed = add(cli, f"--kind shell --dir {app}", code=2)
        assert message in says(printed)


@pytest.mark.parametrize(
    ("near", "most", "packed"), [(True, 1 << 20, False), (True, 100, True), (False, 1 << 20, True)]
)
def test_files_are_compressed_for_other_machines_and_if_they_would_be_too_long(
    cli: CommandLine,
    app: Path,
    monkeypatch: pytest.MonkeyPatch,
    near: bool,
    most: int,
    packed: bool,
) -> None:
    monkeypatch.setattr(runtime_files, "is_loopback", lambda _: near)
    limits = {"image_upload_bytes": most}
    cli.answers["GET", "/api/system/info"] = (200, INFO | {"limits": limits})
    add(cli, f"--kind shell --dir {app}")
    (archive,) = archives(cli)
    assert (archive[:2] == b"\x1f\x8b") is packed
    assert "app.py" in sent(cli)


def test_node_packages_have_a_key_unless_files_are_among_them(app: Path) -> None:
    node = runtime_files.Source(kind=Kind.NODE, directory=app)
    assert not node.installers
    (app / "package.json").write_text('{"dependencies": {"left-pad": "1.3.0"}}')
    assert node.installers == (Kind.NODE,)
    first = runtime_files.key_of(node, None)
    (app / "package-lock.json").write_text("{}")
    assert first not in (None, runtime_files.key_of(node, None))
    (app / "package.json").write_text('{"dependencies": {"dep": "file:./dep"}}')
    assert runtime_files.key_of(node, None) is None


def test_two_package_kinds(cli: CommandLine, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []

    def install_python(_wanted: Path, place: Path, _target: packages.Target) -> None:
        installed.append("python")
        (place / "site-packages").mkdir()
        (place / "site-packages/demo.py").write_text("NAME = 1\n")

    def install_node(place: Path) -> None:
        installed.append("node")
        (place / "node_modules").mkdir()
        (place / "node_modules/dep.js").write_text("")

    monkeypatch.setattr(packages, "install_python", install_python)
    monkeypatch.setattr(packages, "install_node", install_node)
    with_a_package(app)
    (app / "package.json").write_text("{}")
    (app / "node_modules").mkdir()
    (app / "node_modules/mine.js").write_text("")
    server = "--kind server"
    first = added(cli, app, server)
    assert installed == ["python", "node"]
    assert len(archives(cli)) == 2
    assert {"site-packages/demo.py", "node_modules/dep.js", "app.py"} <= set(sent(cli))
    assert "node_modules/mine.js" not in sent(cli)
    assert first["packages_key"].startswith("python+node:")
    assert added(cli, app, server) == first
    assert len(archives(cli)) == 1
    assert installed == ["python", "node"]
    # A change of either list changes the key.
    (app / "package.json").write_text('{"dependencies": {}}')
    second = added(cli, app, server)
    (app / "requirements.txt").write_text("")
    third = added(cli, app, server)
    assert len({one["packages_key"] for one in (first, second, third)}) == 3
    (app / "package.json").unlink()  # without Node's list, the directory's own modules are sent
    fourth = added(cli, app, server)
    assert fourth["packages_key"].startswith("python:")
    assert "node_modules/mine.js" in sent(cli)
    python = added(cli, app)
    assert python["packages_key"] == fourth["packages_key"]
    assert "site-packages/demo.py" not in sent(cli)


@pytest.mark.parametrize(
    ("alias", "cell", "row"),
    [
        ({"version": 3}, " 3 ", None),
        ({"version": 2}, " 3 (live: 2) ", "version 2, by the default alias live\n"),
        (
            {"version": 3, "also": {"version": 2, "weight": 0.1}},
            " 3 (live: 3, 2=10%) ",
            "version 3, and version 2 for 10%, by the default alias live\n",
        ),
        (
            {"version": 2, "rolled_back": "version 3: slow"},
            " 3 (live: 2) ",
            "version 2, by the default alias live; rolled back: version 3: slow\n",
        ),
    ],
)
def test_of_a_function_it_is_said_what_calls_run_on_where_that_is_not_its_current_version(
    cli: CommandLine, alias: dict[str, Any], cell: str, row: str | None
) -> None:
    default = body_of(wire.Alias, name="live", default=True, **alias)
    function = {**FUNCTION, "default_alias": default}
    cli.answers["GET", ""] = (200, {"functions": [function], "next_cursor": None})
    cli.answers["GET", "/by-name/hello"] = (200, function)
    cli.answers["POST", f"/{ID}/deploy"] = (200, function)
    assert cell in cli.run("functions list").out
    printed = cli.run("functions get hello")
    assert (row in printed.out) if row else "run on" not in printed.out
    note = cli.run(f"functions deploy {ID}").err
    hint = "to send all to version 3: quiltfn aliases set hello live 3"
    assert (f"invocations run on {(row or '').strip()}; {hint}\n" in note) if row else not note


def test_a_signal_while_a_program_is_started_ends_that_too(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Signalled(subprocess.Popen[str]):
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            started.append(self.pid)
            signal.raise_signal(signal.SIGTERM)

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    monkeypatch.setattr(subprocess, "Popen", Signalled)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit):
            tools.run(["sleep", "300"])
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
