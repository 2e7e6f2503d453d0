"""Base images made by common tools, from the command line to the handler: mmdebstrap, umoci,
buildah, and a registry that skopeo uses.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from e2e import tiny_root
from e2e.server import GVISOR, QUILTFN, Completed, Server, is_alive, quiltfn, until, watched
from free_ports import free_port
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("R21")]
MIRROR = "deb.debian.org"


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [one for one in programs if shutil.which(one) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: apt install them")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with watched(f"--prewarmed 0 {GVISOR}") as server:
        yield server.start()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {"etc/os-release": "ID=tiny\n", "srv/gone": "lower\n"}
    return tiny_root.make(tmp_path_factory.mktemp("tools") / "root", files)


def command(server: Server, *words: str | Path) -> Completed:
    return quiltfn(*map(str, words), "--url", server.url, timeout_s=300)


def add(server: Server, name: str, *words: str | Path, kind: str = "shell") -> str:
    """Adds a base image; returns the command's output."""
    done = command(server, "runtimes", "add", name, "--kind", kind, *words)
    assert done.code == 0, done.stderr
    return done.stdout + done.stderr


def run(*words: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(one) for one in words],
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(300),
        env=os.environ | environment,
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout.strip()


def said(server: Server, name: str, handler: str = "cat /etc/os-release /srv/*; echo $A") -> str:
    record = server.run(handler, runtime=name)
    assert record["status"] == "success", record
    return str(record["stdout"])


def digest_of(server: Server, name: str) -> str:
    return str(server.call("GET", f"/api/runtimes/{name}").json()["base_image"])


# The same files in every format ------------------------------------------------------------------


def test_a_directory_and_its_archive_are_equal(server: Server, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "root.tar.gz"
    run("tar", "-C", tree, "-czf", archive, ".")
    add(server, "directory", "--rootfs", tree)
    add(server, "archive", "--rootfs", archive)
    assert digest_of(server, "directory") == digest_of(server, "archive")
    assert said(server, "archive") == "ID=tiny\nlower\n\n"
    add(server, "by-digest", "--base-image", digest_of(server, "archive"))
    refused = command(
        server, "runtimes", "add", "x", "--kind", "shell", "--rootfs", tree, "--image", "x"
    )
    assert refused.code != 0
    assert "give only one of" in refused.stderr


@needs("umoci")
def test_a_layout_of_umoci_with_two_layers(server: Server, tree: Path, tmp_path: Path) -> None:
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    image = f"{layout}:tiny"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", image)
    run("umoci", "unpack", "--image", image, bundle)
    run("cp", "-a", f"{tree}/.", bundle / "rootfs")
    run("umoci", "repack", "--refresh-bundle", "--image", image, bundle)
    (bundle / "rootfs/srv/gone").unlink()
    (bundle / "rootfs/srv/new").write_text("upper\n")
    run("umoci", "repack", "--image", image, bundle)
    run("umoci", "config", "--image", image, "--config.env", "A=of the image")
    run("umoci", "gc", "--layout", layout)
    add(server, "umoci", "--image", layout)
    assert said(server, "umoci") == "ID=tiny\nupper\nof the image\n"
    add(server, "umoci", "--image", layout, "--env", "A=own")
    assert said(server, "umoci") == "ID=tiny\nupper\nown\n"


class Buildah:
    """Buildah with its own store, for images with layers."""

    def __init__(self, place: Path) -> None:
        self.options = [f"--root={place}/root", f"--runroot={place}/run", "--storage-driver=vfs"]

    def __call__(self, *words: str | Path) -> str:
        return run("buildah", *self.options, *words, BUILDAH_ISOLATION="chroot")

    def make(self, tree: Path, targets: Sequence[str]) -> None:
        """Creates an image with two layers; the upper one removes /srv/gone."""
        lower = self("from", "scratch")
        self("copy", "--quiet", lower, tree, "/")
        base = self("commit", "--quiet", lower)
        upper = self("from", base)
        mounted = Path(self("mount", upper))
        (mounted / "srv/gone").unlink()
        (mounted / "srv/new").write_text("upper\n")
        self("umount", upper)
        self("config", "--env", "A=of the image", "--env", "HOME=/root", upper)
        for target in targets:
            self("commit", "--quiet", upper, target)


@needs("buildah")
def test_archives_of_buildah(server: Server, tree: Path, tmp_path: Path) -> None:
    oci, docker = tmp_path / "oci.tar", tmp_path / "docker.tar"
    Buildah(tmp_path).make(tree, [f"oci-archive:{oci}:x", f"docker-archive:{docker}:x:latest"])
    digests = set()
    for archive in (oci, docker):
        add(server, "buildah", "--image", archive)
        assert said(server, "buildah") == "ID=tiny\nupper\nof the image\n"
        assert said(server, "buildah", "echo $HOME") == "/tmp\n", "which a handler can write to"
        digests.add(digest_of(server, "buildah"))
    assert len(digests) == 1


# Registries --------------------------------------------------------------------------------------


@dataclass
class Registry:
    """Debian's docker-registry on loopback, with TLS and a password. `certs`: its certificate's
    directory; `auth`: the file with the password.
    """

    place: Path
    host: str

    @property
    def certs(self) -> Path:
        return self.place / "certs"

    @property
    def auth(self) -> Path:
        return self.place / "auth.json"


def with_certificate(place: Path) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=test")
    now, address = datetime.now(UTC), x509.IPAddress(ip_address("127.0.0.1"))
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    signed = made.sign(key, hashes.SHA256())
    (place / "certs").mkdir()
    (place / "certs/ca.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (place / "key").write_bytes(pem)


@contextlib.contextmanager
def registry(place: Path) -> Iterator[Registry]:
    host = f"127.0.0.1:{free_port()}"
    with_certificate(place)
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    hashed = crypt(b"secret", b"$2b$05$abcdefghijklmnopqrstuu").decode()
    (place / "htpasswd").write_text(f"me:{hashed}\n")
    registry = Registry(place, host)
    credential = base64.b64encode(b"me:secret").decode()
    registry.auth.write_text(json.dumps({"auths": {host: {"auth": credential}}}))
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(place / "store")}},
        "http": {
            "addr": host,
            "tls": {"certificate": str(registry.certs / "ca.crt"), "key": str(place / "key")},
        },
        "auth": {"htpasswd": {"realm": "test", "path": str(place / "htpasswd")}},
    }
    (place / "config.yml").write_text(json.dumps(settings))  # JSON is valid YAML
    process = subprocess.Popen(
        ["docker-registry", "serve", str(place / "config.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _answers(host))
        yield registry
    finally:
        process.terminate()
        process.wait()


def _answers(host: str) -> bool:
    name, _, port = host.partition(":")
    with socket.socket() as asked:
        return asked.connect_ex((name, int(port))) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
def test_a_command_that_is_ended_leaves_no_files_and_no_installer(
    server: Server, tmp_path: Path, number: signal.Signals
) -> None:
    code, programs, made = (tmp_path / one for one in ("code", "programs", "made"))
    for directory in (code, programs, made):
        directory.mkdir()
    (code / "main.js").write_text("exports.handler = () => 1\n")
    (code / "package.json").write_text('{"dependencies": {"x": "1.0.0"}}')
    npm = programs / "npm"
    npm.write_text(f"#!/bin/sh\nmkdir node_modules; echo $$ >{made}/pid; exec sleep 300\n")
    npm.chmod(0o755)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(made)}
    words = ["runtimes", "add", "ended", "--kind", "node", "--dir", str(code), "--url", server.url]
    process = subprocess.Popen(
        [str(QUILTFN), *words], env={**os.environ, **variables}, stdin=subprocess.DEVNULL
    )
    pid = int(until(lambda: (made / "pid").exists() and (made / "pid").read_text(), 30))
    try:
        # temporary directories: the code, the packages, npm's working directory, and npm's files
        assert len(list(made.glob("quiltfn-*"))) == 4
        process.send_signal(number)
        assert process.wait(scaled(20)) == 128 + number
        assert list(made.glob("quiltfn-*")) == []
        assert not is_alive(pid)
    finally:
        process.kill()
        process.wait()
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@needs("buildah", "skopeo", "docker-registry")
def test_an_image_of_a_registry_over_tls(server: Server, tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "oci.tar"
    Buildah(tmp_path).make(tree, [f"oci-archive:{archive}:x"])
    with registry(tmp_path) as there:
        name = f"{there.host}/tiny"
        known: list[str | Path] = ["--auth-file", there.auth, "--cert-dir", there.certs]
        push = ["skopeo", "copy", "--quiet", f"--dest-cert-dir={there.certs}"]
        run(*push, f"--authfile={there.auth}", f"oci-archive:{archive}", f"docker://{name}:1")
        output = add(server, "pulled", "--image", f"{name}:1", *known)
        assert f"pulling {name}@sha256:" in output
        assert said(server, "pulled") == "ID=tiny\nupper\nof the image\n"
        exact = output.partition("pulling ")[2].split()[0]
        add(server, "exact", "--image", exact, *known)
        assert digest_of(server, "exact") == digest_of(server, "pulled")
        other = exact[:-64] + "0" * 64
        tries: list[tuple[list[str | Path], str]] = [
            ([name + ":1", "--cert-dir", there.certs], "unauthorized|authentication required"),
            ([name + ":1", "--auth-file", there.auth], "certificate"),
            ([other, *known], "manifest unknown|not found"),
            ([name + ":2", *known], "manifest unknown|not found"),
        ]
        for words, why in tries:
            done = command(server, "runtimes", "add", "no", "--kind", "shell", "--image", *words)
            assert done.code != 0
            assert any(one in done.stderr for one in why.split("|")), done.stderr
        assert server.call("GET", "/api/runtimes/no").status_code == 404
        add(server, "open", "--image", f"{name}:1", "--auth-file", there.auth,
            "--insecure-registry")  # fmt: skip


# Base images with interpreters -------------------------------------------------------------------


def has_mirror() -> bool:
    try:
        socket.getaddrinfo(MIRROR, 80)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def debian(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of a Debian image with Python and Node.js."""
    if not has_mirror():
        pytest.skip("needs Debian's mirror")
    archive = tmp_path_factory.mktemp("debian") / "root.tar"
    packages = "base-files,dash,coreutils,python3,nodejs"
    run("mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}", "trixie", archive)
    add(server, "debian", "--rootfs", archive)
    return digest_of(server, "debian")


PYTHON = """
import os, sys
def main(event, context):
    with open("/etc/os-release") as file:
        return {"id": "debian" in file.read(), "sum": sum(event), "exe": sys.executable}
"""
NODE = """
exports.handler = async (event) => ({exe: process.execPath, sum: event[0] + event[1]});
"""


@needs("mmdebstrap")
@pytest.mark.parametrize("isolation", ["crun", pytest.param("gvisor", marks=pytest.mark.gvisor)])
def test_python_and_node_are_those_of_the_image(
    server: Server, debian: str, tmp_path: Path, isolation: str
) -> None:
    (tmp_path / "app.py").write_text(PYTHON)
    (tmp_path / "index.js").write_text(NODE)
    kinds = [("python", "app:main"), ("node", "index:handler")]
    for kind, handler in kinds[: 1 if isolation == "gvisor" else 2]:
        words: list[str | Path] = [
            "--base-image",
            debian,
            "--dir",
            tmp_path,
            "--isolation",
            isolation,
        ]
        add(server, kind + "-deb", *words, kind=kind)
        function = server.deploy(handler, runtime=kind + "-deb")
        result = json.loads(function.invoke("[3, 4]")["stdout"])
        assert result["sum"] == 7
        assert result["exe"].startswith(f"/usr/bin/{kind}")
        shown = server.call("GET", f"/api/runtimes/{kind}-deb").json()
        assert shown["interpreter"] == {"python": "/usr/bin/python3", "node": "/usr/bin/node"}[kind]
