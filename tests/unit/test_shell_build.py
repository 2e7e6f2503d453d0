"""The static copy of the host's shell is built only of sources that are known, or not at all."""

import hashlib
import importlib.util
import io
import os
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from quiltfn.launcher import host_image

ROOT = Path(__file__).resolve().parents[2]
PATCH = "--- a/src/main.c\n+++ b/src/main.c\n@@ -1,2 +1,2 @@\n first\n-{}\n+{}\n"


@pytest.fixture
def code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shell_build", ROOT / "shell_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Mirror:
    """In place of the programs that the build runs: apt has these files, by their address."""

    def __init__(self, code: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.package = "'http://mirror/debian/pool/main/d/dash/dash_1-1_amd64.deb' dash.deb 98504"
        self.md5sums, self.version = "", "1-1"
        self._failure = code.BuildFailed
        monkeypatch.setattr(code, "run", self.run)

    def run(self, command: list[str], *_: object, **__: object) -> str:
        if "download-file" in command:
            address, target = command[-2:]
            self.asked.append(address)
            if address not in self.files:
                raise self._failure("apt-helper failed: 404")
            Path(target).write_bytes(self.files[address])
            return ""
        if command[0] == "apt-get":
            return self.package
        if command[0] == "cc":
            return "libc.a\n"
        assert command[0] == "dpkg-query"
        return self.md5sums if "md5sums" in command else self.version


@pytest.fixture
def mirror(code: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    return Mirror(code, monkeypatch)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


NEAR, FAR = "http://mirror/debian/pool/main/d/dash", "http://deb.debian.org/debian/pool/main/d/dash"
WANTED = {"a.tar": digest(b"right a"), "b.tar": digest(b"right b")}


def test_sources_come_from_the_machines_own_mirror_and_stay(
    code: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files = {f"{NEAR}/a.tar": b"right a", f"{NEAR}/b.tar": b"right b"}
    for _ in range(2):
        found = code.fetch(WANTED, tmp_path / "sources")
        assert [one.read_bytes() for one in found] == [b"right a", b"right b"]
    assert mirror.asked == [f"{NEAR}/a.tar", f"{NEAR}/b.tar"]
    (tmp_path / "sources" / "b.tar").write_bytes(b"damaged")
    assert code.fetch(WANTED, tmp_path / "sources")[1].read_bytes() == b"right b"


@pytest.mark.parametrize(
    "package", ["'http://mirror/debian/pool/main/d/dash/x.deb' x", "", "E: no"]
)
def test_debians_archive_has_what_the_mirror_lacks(
    code: ModuleType, mirror: Mirror, tmp_path: Path, package: str
) -> None:
    mirror.package = package
    mirror.files = {f"{NEAR}/a.tar": b"planted", f"{FAR}/a.tar": b"right a"}
    mirror.files |= {f"{FAR}/b.tar": b"right b"}
    found = code.fetch(WANTED, tmp_path)
    assert [one.read_bytes() for one in found] == [b"right a", b"right b"]


def test_a_file_with_another_sum_is_not_used(
    code: ModuleType, mirror: Mirror, tmp_path: Path
) -> None:
    right = {f"{place}/b.tar": b"right b" for place in (NEAR, FAR)}
    mirror.files = right | {f"{place}/a.tar": b"planted" for place in (NEAR, FAR)}
    with pytest.raises(code.BuildFailed) as failed:
        code.fetch(WANTED, tmp_path)
    assert str(failed.value) == f"{FAR}/a.tar does not have the SHA-256 {WANTED['a.tar']}"
    mirror.files = {}
    with pytest.raises(code.BuildFailed, match=r"^apt-helper failed: 404$"):
        code.fetch(WANTED, tmp_path)


def test_only_the_shell_of_a_known_package_is_copied(
    code: ModuleType, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dash, sh, other = tmp_path / "dash", tmp_path / "sh", tmp_path / "bash"
    dash.write_bytes(b"program")
    sh.symlink_to("dash")
    monkeypatch.setattr(code, "SOURCES", {"1-1": WANTED})
    listed = hashlib.md5(b"program").hexdigest()
    for mirror.md5sums in (f"{listed}  usr/bin/dash\n1234  usr/share/doc/dash\n", ""):
        assert code.version_of(sh) == "1-1"
    mirror.md5sums = f"{hashlib.md5(b'older').hexdigest()}  usr/bin/dash\n"
    with pytest.raises(code.BuildFailed, match=r"dash is not the file of its Debian package$"):
        code.version_of(sh)
    mirror.md5sums, mirror.version = "", "1-2"
    with pytest.raises(code.BuildFailed, match=r"^the sources of dash 1-2 are not in shell_build"):
        code.version_of(sh)
    other.write_bytes(b"program")
    sh.unlink()
    sh.symlink_to("bash")
    with pytest.raises(code.BuildFailed, match=r"bash, and only Debian's dash is known$"):
        code.version_of(sh)


def archives(directory: Path, patches: dict[str, str], series: str) -> list[Path]:
    """Sources of one file and Debian's patches of it, as Debian packs them."""
    contents = {
        "dash.orig.tar.gz": {"dash-1/src/main.c": "first\nsecond\n", "dash-1/COPYING": "BSD\n"},
        "dash.debian.tar.xz": {"debian/patches/series": series}
        | {f"debian/patches/{name}": text for name, text in patches.items()},
    }
    for name, files in contents.items():
        with tarfile.open(directory / name, "w:gz") as archive:
            for path, text in files.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
    return [directory / name for name in contents]


def test_patches_are_applied_in_their_order(
    code: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also below a repository or with one in the environment, as in a hook: git would skip files
    that are not the repository's.
    """
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", "/")
    patches = {"2.diff": PATCH.format("other", "third"), "1.diff": PATCH.format("second", "other")}
    work = tmp_path / "work"
    work.mkdir()
    code.unpack(archives(tmp_path, patches, "1.diff # why\n\n# none\n2.diff\n"), work)
    assert (work / "src/main.c").read_text() == "first\nthird\n"
    assert (work / "COPYING").exists()


@pytest.mark.parametrize(
    "patches",
    [{"1.diff": PATCH.format("planted", "other")}, {"1.diff": "no patch"}, {}],
    ids=["of other lines", "no patch", "missing"],
)
def test_a_patch_that_does_not_apply_ends_the_build(
    code: ModuleType, tmp_path: Path, patches: dict[str, str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(code.BuildFailed, match=r"^git failed: error: .+$"):
        code.unpack(archives(tmp_path, patches, "1.diff\n"), work)


def test_a_file_that_is_too_long_is_not_stored(code: ModuleType, tmp_path: Path) -> None:
    command = [*code.DOWNLOAD[:2], "dd", "if=/dev/zero", f"of={tmp_path}/file", "bs=1M", "count=5"]
    with pytest.raises(code.BuildFailed):
        code.run(command)
    assert (tmp_path / "file").stat().st_size <= 4 << 20


def test_the_names_of_signals_are_the_shells_own(code: ModuleType) -> None:
    table = code.signal_names("0\nHUP\nINT\n16\n")
    assert table.endswith('[] = {"EXIT", "HUP", "INT", "16", (char *)0};\n')


def test_an_outdated_copy_is_replaced_or_removed(
    code: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guest = tmp_path / code.GUEST
    (guest / "bin").mkdir(parents=True)
    (guest / "shell.c").write_text("")
    monkeypatch.setattr(code, "SOURCES", {"1-1": {}})
    monkeypatch.setattr(code, "version_of", lambda _: "1-1")
    monkeypatch.setattr(code, "unpack", lambda _, work: (work / "debian").mkdir())

    def compile_shell(work: Path, _: Path) -> None:
        (work / "dash").write_text("built")
        (work / "debian/copyright").write_text("notice")

    monkeypatch.setattr(code, "compile_shell", compile_shell)
    older = guest / "bin" / "dash-0123"
    older.write_text("of another /bin/sh")
    built, notice = code.build(tmp_path)
    assert (built.read_text(), notice.read_text(), older.exists()) == ("built", "notice", False)
    built.write_text("kept")
    assert code.build(tmp_path) == [built, notice]
    assert built.read_text() == "kept"
    (guest / "shell.c").write_text("changed")
    os.utime(guest / "shell.c", (1, 1))  # as in an unpacked archive
    assert code.build(tmp_path)[0].read_text() == "built"
    (guest / "shell.c").write_text("changed again")

    def version_of(_: Path) -> str:
        raise code.BuildFailed("another shell")

    monkeypatch.setattr(code, "version_of", version_of)
    with pytest.raises(code.BuildFailed, match="another shell"):
        code.build(tmp_path)
    assert not built.exists()


def test_a_failure_is_one_line(
    code: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Path) -> None:
        code.run(["sh", "-c", "echo early >&2; echo 'no network' >&2; exit 3"])

    monkeypatch.setattr(code, "build", fail)
    assert code.main() == 1
    assert capsys.readouterr().err == (
        "setup: no static copy of /bin/sh was built, so shells start more slowly: "
        "sh failed: no network\n"
    )


def test_a_copy_is_used_only_for_the_shell_that_it_is_of(code: ModuleType, tmp_path: Path) -> None:
    shell, guest = tmp_path / "sh", tmp_path / "bin/guest"
    guest.parent.mkdir()
    shell.write_bytes(b"shell")
    guest.with_name(code.made_for(shell)).write_bytes(b"static")
    assert host_image.static_shell(guest, shell).read_bytes() == b"static"
    shell.write_bytes(b"upgraded")
    assert not host_image.static_shell(guest, shell).exists()
