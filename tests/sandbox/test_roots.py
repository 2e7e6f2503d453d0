"""Root directories of sandboxes, really mounted in a mount namespace of the test."""

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from promises import promise
from quiltfn.launcher import host_image, oci, syscalls
from quiltfn.launcher.images import Images
from quiltfn.launcher.preflight import PROBE
from quiltfn.launcher.roots import OWN, Roots

pytestmark = [pytest.mark.sandbox, promise("F37")]

SPEC = oci.SandboxSpec(limits=PROBE)


@dataclass
class Bench:
    """The directories of a test. `host`: an image with its own file system at /usr/local, and a
    bind mount of /usr.
    """

    place: Path
    host: oci.Host

    def roots(self) -> Roots:
        (self.place / "roots").mkdir()
        return Roots(self.place / "roots", self.host)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    image, usr, app = tmp_path / "image", tmp_path / "usr", tmp_path / "app"
    for directory in (image / "usr", image / "app", usr / "local", app):
        directory.mkdir(parents=True)
    (usr / "tool").write_text("tool")
    (app / "mod.py").write_text("mod")
    return Bench(tmp_path, oci.Host(machine="x86_64", root=str(image), binds={"/usr": str(usr)}))


def apart(work: Callable[[], None]) -> None:
    """Runs `work` in a process with its own mount namespace, and fails with the error of `work`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            syscalls.unshare_mounts()
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0, "see what the child printed"


def test_a_root_has_the_image_its_file_systems_and_the_files(bench: Bench) -> None:
    def work() -> None:
        local = bench.place / "usr/local"
        syscalls.mount("tmpfs", local, "tmpfs", 0)
        (local / "own").write_text("on a file system of its own")
        roots = bench.roots()
        assert roots.check(bench.place / "app") == OWN
        spec = oci.SandboxSpec(limits=SPEC.limits, app=bench.place / "app")
        roots.make("one", spec)
        host, rest = roots.described("one", spec)
        root = Path(host.root)
        assert (host.binds, rest.app) == ({}, None), "nothing is left to bind"
        assert (root / "usr/tool").read_text() == "tool"
        assert (root / "usr/local/own").read_text() == "on a file system of its own"
        assert (root / "app/mod.py").read_text() == "mod"
        with pytest.raises(OSError, match="Read-only"):
            (root / "usr/new").write_text("")
        mounted = Path("/proc/self/mountinfo").read_text().splitlines()
        ours = [line for line in mounted if str(root) in line]
        assert len(ours) == 4
        assert not [line for line in ours if str(bench.place) in line.split(" - ")[1]]
        roots.remove("one")
        assert str(root) not in Path("/proc/self/mountinfo").read_text()
        assert not root.exists()
        roots.remove("one")

    apart(work)


def with_packages(bench: Bench) -> Path:
    """A directory with packages; one file has the same path as a file of the code."""
    packages = bench.place / "packages"
    (packages / "site-packages").mkdir(parents=True)
    (packages / "site-packages/lib.py").write_text("lib")
    (packages / "mod.py").write_text("not this one")
    return packages


def test_code_lies_over_packages(bench: Bench) -> None:
    packages = with_packages(bench)

    def work() -> None:
        roots = bench.roots()
        spec = oci.SandboxSpec(limits=SPEC.limits, app=bench.place / "app", packages=packages)
        roots.make("one", spec)
        host, rest = roots.described("one", spec)
        app = Path(host.root) / "app"
        assert (rest.app, rest.packages) == (None, None), "nothing is left to bind"
        assert (app / "mod.py").read_text() == "mod"
        assert (app / "site-packages/lib.py").read_text() == "lib"
        with pytest.raises(OSError, match="Read-only"):
            (app / "site-packages/new").write_text("")
        roots.remove("one")

    apart(work)


def test_for_a_sandbox_without_overlays_of_its_own_the_pair_is_mounted_once(bench: Bench) -> None:
    store, mounts, code, packages = bench.place / "store", bench.place / "m", "aa" * 32, "bb" * 32
    store.mkdir()
    mounts.mkdir()
    with_packages(bench).rename(store / packages)
    (bench.place / "app").rename(store / code)

    def work() -> None:
        images = Images(store, mounts)
        path = images.pair(code, packages)
        assert images.pair(code, packages) == path
        assert (path / "mod.py").read_text() == "mod"
        assert (path / "site-packages/lib.py").read_text() == "lib"
        with pytest.raises(OSError, match="Read-only"):
            (path / "new").write_text("")
        # the code was removed, and uploaded again with other files
        (store / code).rename(store / "gone")
        (store / code).mkdir()
        assert (images.pair(code, packages) / "mod.py").read_text() == "not this one"
        (store / packages).rename(store / "gone-too")
        (store / packages).symlink_to("/etc")
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            images.pair(code, packages)
        images.close()
        assert str(mounts) not in Path("/proc/self/mountinfo").read_text()

    apart(work)


def test_what_cannot_be_mounted_whole_leaves_nothing(bench: Bench) -> None:
    def work() -> None:
        roots = bench.roots()
        spec = oci.SandboxSpec(limits=SPEC.limits, app=bench.place / "gone")
        with pytest.raises(FileNotFoundError):
            roots.make("one", spec)
        assert [one.name for one in (bench.place / "roots").iterdir()] == ["empty"]
        assert str(bench.place) not in Path("/proc/self/mountinfo").read_text()

    apart(work)


def test_a_machine_without_overlays_binds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(syscalls, "mount", refused)
    roots = bench.roots()
    assert roots.check(bench.place).startswith("shared with other sandboxes: ")
    roots.make("one", SPEC)
    assert roots.described("one", SPEC) == (bench.host, SPEC)
    assert [one.name for one in (bench.place / "roots").iterdir()] == ["empty"]


def test_gvisor_has_binds_since_its_own_kernel_keeps_locks(bench: Bench) -> None:
    spec = oci.SandboxSpec(limits=SPEC.limits, isolation=oci.GVISOR)
    assert bench.roots().described("one", spec) == (bench.host, spec)


# Base images ---------------------------------------------------------------------------------


def a_skeleton(place: Path) -> Path:
    """A skeleton with the parts of `host_image.build_for_bases` that mounts need."""
    for name in host_image.OVER_A_BASE:
        (place / "over" / name).mkdir(parents=True)
    (place / "over/.guest").write_text("ours")
    (place / "over/etc/passwd").write_text("ours")
    return place / "over"


@promise("R20")
def test_a_base_image_is_below_the_skeleton_whatever_it_has_there(bench: Bench) -> None:
    """In this image, every name that is a mount point, or that is read, is a link out of the
    image.
    """

    def work() -> None:
        base, out = bench.place / "base", bench.place / "out"
        (base / "usr").mkdir(parents=True)
        (base / "usr/tool").write_text("of the base")
        out.mkdir()
        tops = {name.split("/")[0] for name in host_image.OVER_A_BASE}
        for name in (*tops, ".runners", "data"):
            (base / name).symlink_to(out)
        (base / ".guest").symlink_to(base / "usr/tool")
        over = a_skeleton(bench.place)
        (over / "data").mkdir()
        (bench.place / "roots").mkdir()
        roots = Roots(bench.place / "roots", bench.host, over)
        for isolation in (oci.CRUN, oci.GVISOR):
            spec = SPEC.replace(app=bench.place / "app", base=base, isolation=isolation)
            roots.make("one", spec)
            host, rest = roots.described("one", spec)
            root = Path(host.root)
            assert (host.binds, rest.app) == ({}, None), "nothing of the host is bound"
            assert (root / "usr/tool").read_text() == "of the base"
            assert (root / ".guest").read_text() == "ours"
            assert (root / "etc/passwd").read_text() == "ours"
            assert (root / "app/mod.py").read_text() == "mod"
            for name in (*host_image.OVER_A_BASE, "data"):
                assert not (root / name).is_symlink()
                assert (root / name).is_dir()
            with pytest.raises(OSError, match="Read-only"):
                (root / "usr/new").write_text("")
            roots.remove("one")
        assert list(out.iterdir()) == []
        assert str(bench.place) not in Path("/proc/self/mountinfo").read_text()

    apart(work)


def test_without_a_skeleton_the_same_links_lead_a_mount_out(bench: Bench) -> None:
    """Negative control of the test above: without the skeleton, a mount follows a link."""

    def work() -> None:
        base, out = bench.place / "base", bench.place / "out"
        base.mkdir()
        out.mkdir()
        (base / "app").symlink_to(out)
        syscalls.bind(bench.place / "app", base / "app")
        assert (out / "mod.py").read_text() == "mod"

    apart(work)


def test_no_base_image_without_overlays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(syscalls, "mount", refused)
    over = a_skeleton(bench.place)
    (bench.place / "roots").mkdir()
    roots = Roots(bench.place / "roots", bench.host, over)
    roots.check(bench.place)
    with pytest.raises(OSError, match="No such device"):
        roots.make("one", SPEC.replace(base=bench.place / "app"))
    assert [one.name for one in (bench.place / "roots").iterdir()] == ["empty"]
