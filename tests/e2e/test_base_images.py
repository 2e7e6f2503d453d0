"""Base images in real sandboxes: what a handler sees, and what images cannot change."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import tiny_root
from e2e.server import GVISOR, Server, short_dir, until, watched
from e2e.weakened import Weakened
from promises import promise
from unit.sample_archives import Entry, directory, entry, file, link, packed
from unit.test_root_file_system import oci

pytestmark = pytest.mark.sandbox
RUNTIMES = "/api/runtimes"
TAR = {"Content-Type": "application/x-tar"}


def upload(server: Server, archive: bytes, contents: str = "rootfs") -> dict[str, Any]:
    path = f"{RUNTIMES}/images?contents={contents}"
    answer = server.http.post(path, content=archive, headers=TAR)
    assert answer.status_code in (200, 201), answer.text
    body: dict[str, Any] = answer.json()
    return body


def add(server: Server, name: str, **fields: Any) -> dict[str, Any]:
    body = {"name": name, "kind": "shell"} | fields
    answer = server.call("POST", RUNTIMES, body)
    assert answer.status_code in (200, 201), answer.text
    created: dict[str, Any] = answer.json()
    return created


def said(server: Server, handler: str, runtime: str) -> str:
    record = server.run(handler, runtime=runtime)
    assert record["status"] == "success", record
    return str(record["stdout"])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {
        "etc/os-release": "ID=tiny\n",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/:/bin/sh\n",
        "usr/bin/su": "#!/bin/sh\nexit 0\n",
    }
    return tiny_root.make(tmp_path_factory.mktemp("tiny") / "root", files)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with watched(f"--prewarmed 0 {GVISOR}") as server:
        yield server.start()


@pytest.fixture(scope="module")
def tiny(server: Server, tree: Path) -> str:
    """Uploads the root file system, and adds the runtime `tiny` with it; returns its digest."""
    digest = str(upload(server, tiny_root.packed(tree))["digest"])
    add(server, "tiny", base_image=digest)
    return digest


@promise("R18")
def test_a_handler_sees_its_base_image_and_nothing_of_the_host(server: Server, tiny: str) -> None:
    handler = "cat /etc/os-release; ls /usr/bin; ls /; id; readlink /bin"
    lines = said(server, handler, "tiny").splitlines()
    assert lines[0] == "ID=tiny"
    assert set(lines) >= {*tiny_root.PROGRAMS, "app", "dev", "etc", "proc", "srv", "tmp", "usr/bin"}
    assert not set(lines) & {"python3", "perl", "root", "home", "var", "boot", "run"}
    assert lines[-2].startswith("uid=1000(handler) gid=1000(handler)")
    assert said(server, "cat /etc/passwd", "tiny").startswith("root:x:0:0:guest:")
    named = server.call("GET", f"{RUNTIMES}/tiny").json()
    assert (named["base_image"], named["image_digest"]) == (tiny, f"base:{tiny}")


@promise("R18")
def test_its_own_files_are_over_it_and_nothing_can_be_written(server: Server, tiny: str) -> None:
    files = upload(server, packed([file("word", b"own")]), "files")["digest"]
    add(server, "both", base_image=tiny, image=files, writable_paths=["/srv/data"])
    assert said(server, "cat word; cat /etc/os-release", "both") == "ownID=tiny\n"
    for path in ("/x", "/usr/bin/x", "/app/x", "/etc/passwd", "/srv/x"):
        assert server.run(f"touch {path}", runtime="both")["status"] == "failed", path
    assert said(server, "touch /srv/data/x /tmp/x; ls /srv/data", "both") == "x\n"


def test_code_and_packages_are_over_it_and_it_is_none_of_them(server: Server, tiny: str) -> None:
    code = upload(server, packed([file("word", b"own")]), "files")["digest"]
    below = upload(server, packed([file("word", b"x"), file("lib", b"lib")]), "files")["digest"]
    add(server, "three", base_image=tiny, image=code, packages=below)
    assert said(server, "cat word lib /etc/os-release", "three") == "ownlibID=tiny\n"
    for name, wanted in (("three", ["lib", "word"]), ("tiny", [])):
        listing = server.call("GET", f"{RUNTIMES}/{name}/files").json()
        assert [one["path"] for one in listing["files"]] == wanted
    assert said(server, "pwd", "tiny") == "/tmp\n", "it has no files at /app"


def test_no_set_user_id_remains_and_no_capability(server: Server, tree: Path) -> None:
    """The archive has the bits (negative control), the sandbox has neither them nor a
    capability.
    """
    (tree / "usr/bin/su").chmod(0o6755)
    archive = tiny_root.packed(tree)
    (tree / "usr/bin/su").chmod(0o755)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getmember("./usr/bin/su").mode & 0o6000
    add(server, "su", base_image=upload(server, archive)["digest"])
    output = said(server, "stat -c %a /usr/bin/su; while read -r l; do case $l in Cap*) echo $l;; "
                "esac; done </proc/self/status", "su")  # fmt: skip
    mode, *capabilities = output.splitlines()
    assert mode == "755"
    assert len(capabilities) == 5
    assert all(int(one.split()[1], 16) == 0 for one in capabilities)


OUT = "/etc"
HOSTILE: dict[str, list[Entry]] = {
    "every directory is a link to the host's": [
        link(name, OUT) for name in ("app", "dev", "proc", "tmp", "sys", "run", "data")
    ],
    "etc is a link": [link("etc", "/usr")],
    "the guest is a program of its own": [file(".guest", b"#!/bin/sh\nexit 0\n", mode=0o755)],
    "the guest is a directory": [directory(".guest")],
    "the runners are a link": [link(".runners", "/usr/bin")],
    "the library of the shell is its own": [file(".runners/shell.so", b"x", mode=0o755)],
    "the static shell is its own": [file(".runners/dash", b"#!/bin/sh\nexit 0\n", mode=0o755)],
    "resolv.conf is a directory": [directory("etc/resolv.conf")],
    "passwd is a device": [entry("etc/passwd", tarfile.CHRTYPE, devmajor=1, devminor=5)],
}


@promise("R20")
@pytest.mark.parametrize("name", HOSTILE)
def test_an_image_cannot_redirect_mounts_or_starts(server: Server, tree: Path, name: str) -> None:
    changed = {one if isinstance(one, str) else member(one).name for one in HOSTILE[name]}
    kept = [one for one in entries(tree) if not member(one).name.startswith(tuple(changed))]
    digest = upload(server, packed([*kept, *HOSTILE[name]]))["digest"]
    add(server, "hostile", base_image=digest, writable_paths=["/data"])
    handler = (
        "id; ls -d /app /dev/null /proc/self/ /tmp/ /data/ /.guest; stat -c %F /proc /dev /data"
    )
    lines = said(server, f"touch /data/x /tmp/x; {handler}", "hostile").splitlines()
    assert lines[0].startswith("uid=1000(handler)")
    assert lines[1:7] == ["/.guest", "/app", "/data/", "/dev/null", "/proc/self/", "/tmp/"]
    assert lines[7:] == ["directory"] * 3
    for path in ("/etc/x", "/usr/x", "/usr/bin/x"):
        assert not os.path.lexists(path), "something was made on the host"


def member(entry: Entry) -> tarfile.TarInfo:
    return entry if isinstance(entry, tarfile.TarInfo) else entry[0]


def entries(tree: Path) -> Iterator[Entry]:
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_symlink():
            yield link(name, os.readlink(path))
        elif path.is_dir():
            yield directory(name)
        else:
            yield file(name, path.read_bytes(), mode=path.stat().st_mode & 0o777)


# This program behaves like a shell that is forked with the guest's ids, and leaves a file that
# shows the user id.
TELLTALE = '#!/usr/bin/dash\necho >/tmp/as-$(id -u)\nexec /usr/bin/dash "$@"\n'
LOOK = "ls /tmp/"


@promise("R20")
@pytest.mark.parametrize("lacks", ["", "another shell for bases"])
def test_its_shell_never_runs_with_the_privileges_of_the_guest(tmp_path: Path, lacks: str) -> None:
    root = tiny_root.make(tmp_path / "root", {"usr/bin/sh": TELLTALE})
    with short_dir() as place:
        weakened = Weakened(place)
        with watched(f"--prewarmed 0 --crun {weakened.path}") as server:
            server.start()
            add(server, "tiny", base_image=upload(server, tiny_root.packed(root))["digest"])
            weakened.lacks(lacks)
            seen = said(server, LOOK, "tiny").split()
    # Negative control: a guest that is told to fork such a shell runs it as root.
    assert seen == (["as-0"] if lacks else ["as-1000"])


@promise("R18")
def test_a_version_keeps_its_base_over_a_kill(server: Server, tiny: str, tree: Path) -> None:
    layer = packed([file("etc/os-release", b"ID=newer\n")])
    newer = upload(server, oci(tiny_root.packed(tree), layer), "image")["digest"]
    add(server, "named", base_image=tiny)
    function = server.deploy("cat /etc/os-release", runtime="named")
    add(server, "named", base_image=newer)
    assert function.invoke()["stdout"] == "ID=tiny\n"
    server.kill_launcher()
    server.wait()
    server.start()
    assert function.invoke()["stdout"] == "ID=tiny\n"
    server.call("PUT", f"/api/functions/{function.id}", {"handler": "cat /etc/os-release"})
    assert function.invoke()["stdout"] == "ID=newer\n"


def test_a_prewarmed_sandbox_of_a_base_image_becomes_an_instance(tree: Path) -> None:
    with watched("--prewarmed 1") as server:
        server.start()
        base = upload(server, tiny_root.packed(tree))["digest"]
        add(server, "tiny", base_image=base)
        function = server.deploy("cat /etc/os-release", runtime="tiny")
        until(lambda: len(server.guests()) == 2)  # the instance, and a prewarmed sandbox
        until(lambda: server.prewarmed() == 1)  # the guest runs before its sandbox counts as ready
        before = set(server.guests())
        assert function.invoke()["stdout"] == "ID=tiny\n"
        assert (
            server.deploy("cat /etc/os-release", runtime="tiny").invoke()["stdout"] == "ID=tiny\n"
        )
        # The next sandbox was prewarmed; none was created for the second function.
        until(lambda: len(set(server.guests()) - before) == 1)


@pytest.mark.gvisor
def test_a_base_image_below_a_kernel_of_its_own(server: Server, tiny: str) -> None:
    add(server, "gvisor", base_image=tiny, isolation="gvisor")
    lines = said(server, "cat /etc/os-release; ls -d /app /dev/null; id", "gvisor").splitlines()
    assert lines[:3] == ["ID=tiny", "/app", "/dev/null"]
    assert lines[3].startswith("uid=1000(handler)")
    assert server.run("touch /usr/x", runtime="gvisor")["status"] == "failed"


def test_egress_has_its_resolver_over_a_base_image(server: Server, tiny: str) -> None:
    seen = (
        server.call("GET", "/api/functions/health").json()["protections"].get("egress", "refused")
    )
    if seen.startswith("refused"):
        pytest.skip(seen)
    add(server, "egress", base_image=tiny, network="egress")
    assert "nameserver" in said(server, "cat /etc/resolv.conf", "egress")
