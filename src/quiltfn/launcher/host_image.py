"""The default execution image: the host's `/usr`, read-only, over an empty skeleton. Nothing has to
be downloaded; sandboxes have `sh`, `python3` or `node` if the host has them.

A base image is covered by another skeleton, which has what a sandbox needs and no host files.
"""

import contextlib
import hashlib
import os
import platform
import py_compile
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from quiltfn.launcher import syscalls
from quiltfn.launcher.oci import GUEST, HANDLER_UID, SHELL_LIBRARY, STATIC_SHELL, Host, hosts

# The directory of the language runners in a sandbox.
RUNNERS = "/.runners"

# The limit on directories created for writable paths, including those of removed runtimes.
MADE_MAX = 4096
MOUNT_POINTS = ("app", "dev", "proc", "tmp", "usr", "etc")
# Mount points at which the guest shows a sandbox its own control group, parents first.
OF_CONTROL_GROUPS = (
    *("sys", "sys/fs", "sys/fs/cgroup"),
    *(f"sys/fs/cgroup/{name}" for name in ("memory", "cpu", "cpuacct", "pids")),
)
# Real directories that hide whatever a base image has under these names.
OVER_A_BASE = ("app", "dev", "proc", "tmp", "etc", *OF_CONTROL_GROUPS)
WRITTEN_OVER_A_BASE = ("passwd", "group", "hosts", "resolv.conf", "gitconfig")
LINKED_TO_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Without these, links such as /usr/bin/awk are broken and there are no certificates.
ETC_DIRECTORIES = ("alternatives", "ssl", "ca-certificates")
# Other files and trees of /etc, and the programs that read them. They are copied, since a mount
# would slow every sandbox down, if every user of the host can read them. Files that may contain a
# password (npmrc, pip.conf, odbc.ini) or belong to the machine (machine-id, profile) are left out.
ETC_COPIED = {
    "chromium*": "Chromium: flags and policies",
    "debian_version": "installers",
    "fonts": "fontconfig: without it browsers, JVMs and converters find no font",
    "gai.conf": "libc: which address of a name goes first",
    "ghostscript": "Ghostscript: its fonts",
    "groff": "groff: /usr/share/groff leads here",
    "host.conf": "libc: how names are resolved",
    "ImageMagick*": "ImageMagick: what it may convert, and by which programs",
    "inputrc": "readline",
    "java*": "JVMs: /usr/lib/jvm leads here, and without java.security none starts",
    "ld.so.cache": "the loader: where libraries are",
    "ld.so.conf": "the same",
    "locale.alias": "libc: /usr/share/locale leads here",
    "localtime": "libc: the time zone",
    "magic*": "file",
    "mailcap": "mailcap, in many languages",
    "maven": "Maven: /usr/share/maven leads here",
    "mime.types": "mimetypes, in many languages",
    "networks": "libc",
    "OpenCL": "OpenCL: which drivers there are",
    "os-release": "installers, platform.freedesktop_os_release",
    "papersize": "converters of documents",
    "perl": "Perl: Net::Config",
    "protocols": "libc: getprotobyname",
    "python3*": "Python: its sitecustomize leads here",
    "R": "R: its site's start-up files",
    "rpc": "libc",
    "services": "libc: getservbyname",
    "sgml": "catalogs of document types",
    "shells": "getusershell",
    "terminfo": "ncurses: terminals that Debian does not ship in /usr",
    "timezone": "JVMs: the time zone's name",
    "vulkan": "Vulkan: which drivers there are",
    "xml": "catalogs of document types",
}
COPIED_MAX_BYTES, COPIED_MAX_FILES = 16 * 1024 * 1024, 4096
WRITTEN = {
    "passwd": "root:x:0:0:guest:/:/usr/sbin/nologin\n"
    f"handler:x:{HANDLER_UID}:{HANDLER_UID}:handler:/tmp:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": f"root:x:0:\ntty:x:5:\nhandler:x:{HANDLER_UID}:\nnogroup:x:65534:\n",
    "hosts": hosts("sandbox"),
    # The files at /app do not belong to the handler's user, so git would refuse to read them.
    "gitconfig": "[safe]\n\tdirectory = *\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "resolv.conf": "",
}


class Skeleton:
    """A skeleton's own directories: read-only for sandboxes, while mount points can be added."""

    def __init__(self, root: Path, host: Host, handle: int) -> None:
        self.root, self.host = root, host
        self._handle = handle  # the directory below the read-only mount
        self._made: set[str] = set()

    def make_mount_points(self, paths: tuple[str, ...]) -> None:
        """Creates directories to mount on. The paths must be normalised, and not below a link or a
        bind mount.

        The directories remain, since a sandbox may be using them. Raises OSError if there would be
        too many.
        """
        parts = [path[1:].split("/") for path in paths]
        wanted = {"/".join(one[:depth]) for one in parts for depth in range(1, len(one) + 1)}
        missing = sorted(wanted - self._made)  # parents first
        if len(self._made) + len(missing) > MADE_MAX:
            raise OSError(
                f"writable paths have needed {MADE_MAX} directories since the start of the server, "
                "which is as many as there may be; start it again"
            )
        for directory in missing:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o755, dir_fd=self._handle)
            self._made.add(directory)


def copy_runners(source: Path, target: Path) -> None:
    """Copies the runners, and compiles the Python runner. A sandbox's Python uses the compiled form
    if it has the launcher's version, and never compares it with the source.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(target / "python.py"), doraise=True, invalidation_mode=unchecked)


def copy_public(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copies the files, links and trees that match the patterns and that every user can read, each
    match up to the limits on bytes and files.
    """
    for pattern in patterns:
        for found in sorted(source.glob(pattern)):
            left = [COPIED_MAX_FILES, COPIED_MAX_BYTES]
            _copy(found, target / found.name, left)


def _copy(source: Path, target: Path, left: list[int]) -> None:
    status = source.lstat()
    left[0] -= 1
    left[1] -= status.st_size
    if min(left) < 0 or target.exists():
        return
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(os.readlink(source))
    elif stat.S_ISDIR(status.st_mode) and status.st_mode & 0o005 == 0o005:
        target.mkdir()
        for entry in sorted(source.iterdir()):
            _copy(entry, target / entry.name, left)
    elif stat.S_ISREG(status.st_mode) and status.st_mode & 0o004:
        shutil.copyfile(source, target)


def static_shell(guest: Path, shell: Path = Path("/bin/sh")) -> Path:
    """Returns where shell_build.py puts the static copy of exactly this shell, if it can."""
    return guest.with_name(f"dash-{hashlib.sha256(shell.read_bytes()).hexdigest()}")


def build(root: Path, guest: Path) -> Skeleton:
    """Creates the skeleton below `root`, in the launcher's mount namespace, and returns it."""
    for name in (*MOUNT_POINTS, *OF_CONTROL_GROUPS):
        (root / name).mkdir()
    binds = {"/usr": "/usr"}
    for name in LINKED_TO_USR:
        original = Path("/") / name
        if original.is_symlink():
            (root / name).symlink_to(os.readlink(original))
        elif original.is_dir():  # a host whose /usr is not merged
            (root / name).mkdir()
            binds[f"/{name}"] = str(original)
    for name in ETC_DIRECTORIES:
        if (Path("/etc") / name).is_dir():
            (root / "etc" / name).mkdir()
            binds[f"/etc/{name}"] = f"/etc/{name}"
    copy_public(Path("/etc"), root / "etc", list(ETC_COPIED))
    for name, text in WRITTEN.items():
        (root / "etc" / name).write_text(text)
    copy_runners(guest.parent.parent / "runners", root / RUNNERS.lstrip("/"))
    shutil.copyfile(guest.with_name(Path(SHELL_LIBRARY).name), root / SHELL_LIBRARY.lstrip("/"))
    if (static := static_shell(guest)).exists():
        shutil.copyfile(static, root / STATIC_SHELL.lstrip("/"))
    shutil.copyfile(guest, root / GUEST.lstrip("/"))
    handle = _opened(root)
    # crun's "readonly" does not set nosuid and nodev, so the bind mount has both.
    syscalls.bind(root, root, syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV)
    host = Host(
        machine=platform.machine(),
        root=str(root),
        binds=binds,
        oom_score_min=int(Path("/proc/self/oom_score_adj").read_text()),
        shell=STATIC_SHELL if static.exists() else SHELL_LIBRARY,
    )
    return Skeleton(root, host, handle)


def build_for_bases(root: Path, of_host: Skeleton) -> Skeleton:
    """Creates the skeleton below `root` that covers base images. Its entries hide those of an image
    with the same name, so no link of an image can redirect a mount.
    """
    for name in OVER_A_BASE:
        (root / name).mkdir()
    for name in WRITTEN_OVER_A_BASE:
        (root / "etc" / name).write_text(WRITTEN[name])
    shutil.copytree(of_host.root / RUNNERS.lstrip("/"), root / RUNNERS.lstrip("/"))
    shutil.copyfile(of_host.root / GUEST.lstrip("/"), root / GUEST.lstrip("/"))
    return Skeleton(root, of_host.host.replace(root=str(root), binds={}), _opened(root))


def _opened(root: Path) -> int:
    """Makes a skeleton's contents readable for every user, and returns a descriptor of it."""
    programs = [root / one.lstrip("/") for one in (GUEST, STATIC_SHELL)]
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
