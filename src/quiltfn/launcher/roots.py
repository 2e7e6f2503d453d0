"""Root directories of sandboxes, each with its own inodes.

A file shared by sandboxes is one inode for all of them and the host: a lock on it (flock, fcntl) is
visible to the others and can block them. So each sandbox gets the image through its own overlays,
without an upper layer: locks and notifications belong to the overlay's inode, while reads still
share one page cache.

With a base image, the root is that image below a skeleton (`host_image.py`), in one overlay. The
uploader of the image chose every name in it, so nothing is mounted at a path of the image: all
mount points belong to the skeleton.

The overlays are mounted in the launcher's mount namespace right before the OCI runtime copies that
namespace, and detached after the runtime's end, so that the namespace stays small. A sandbox keeps
its copies.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from quiltfn.launcher import syscalls
from quiltfn.launcher.oci import CRUN, Host, SandboxSpec

OPEN = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
FENCE = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV
# No lower layer may redirect to other paths. With xino the kernel would log each mount.
OPTIONS = "redirect_dir=nofollow,xino=off"
OWN = "its own, by overlays"


class Roots:
    """`host`: the source image of roots. `over_bases`: the skeleton mounted over base images, if
    any. `why_shared`: why sandboxes get bind mounts instead of overlays, and so share inodes; empty
    if they get overlays.
    """

    def __init__(self, directory: Path, host: Host, over_bases: Path | None = None) -> None:
        self.host, self._over_bases = host, over_bases
        self.why_shared = ""
        self._directory = directory
        (directory / "empty").mkdir()  # an overlay needs two layers
        self._empty = os.open(directory / "empty", OPEN)
        self._trees = list(_with_submounts(host.binds))
        self._mounted: set[str] = set()

    def check(self, images: Path) -> str:
        """Tests whether this machine can mount overlays, also of files below `images`.

        If not, sandboxes get bind mounts. Returns which of the two they get.
        """
        try:
            with self._removed_on_error("check"):
                self._mount("check", images)
            self.remove("check")
        except OSError as error:
            self.why_shared = str(error)
        return f"shared with other sandboxes: {self.why_shared}" if self.why_shared else OWN

    def described(self, name: str, spec: SandboxSpec) -> tuple[Host, SandboxSpec]:
        """Returns host and spec for `oci.config`, with the sandbox's own root if it has one."""
        if not self.is_overlaid(spec):
            return self.host, spec
        host = self.host.replace(root=str(self._directory / name), binds={})
        return host, spec.replace(app=None, packages=None)

    def make(self, name: str, spec: SandboxSpec) -> None:
        """Mounts the root that `described` names. On failure raises OSError and leaves nothing."""
        if self.is_overlaid(spec):
            with self._removed_on_error(name):
                self._mount(name, spec.app, spec.base, spec.packages)

    def remove(self, name: str) -> None:
        """Unmounts a root, if there is one. A sandbox that uses it keeps it."""
        if name in self._mounted:
            self._mounted.discard(name)
            with contextlib.suppress(OSError):
                syscalls.unmount(self._directory / name)  # with all mounts below it
            with contextlib.suppress(OSError):
                os.rmdir(self._directory / name)

    def is_overlaid(self, spec: SandboxSpec) -> bool:
        """Whether the sandbox gets its own overlays instead of bind mounts."""
        # gVisor needs no overlays: its kernel handles locks itself, and opens files through one
        # process per sandbox. A base image needs the skeleton, so without overlays it is refused.
        return spec.base is not None or (spec.isolation == CRUN and not self.why_shared)

    @contextlib.contextmanager
    def _removed_on_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.remove(name)
            raise

    def _mount(
        self, name: str, app: Path | None, base: Path | None = None, packages: Path | None = None
    ) -> None:
        root = self._directory / name
        root.mkdir(mode=0o755)
        self._mounted.add(name)
        if base is None:
            self._overlay(self.host.root, root)
            for target, source in self._trees:
                self._overlay(source, f"{root}{target}")
        else:
            if self._over_bases is None:
                raise OSError("there is no skeleton for base images")
            self._overlay(self._over_bases, root, base)
        if app is not None:
            self._overlay(app, f"{root}/app", packages)

    def _overlay(self, source: str | Path, target: str | Path, below: Path | None = None) -> None:
        with contextlib.ExitStack() as opened:
            lowers = [self._empty]
            for tree in (source,) if below is None else (below, source):
                lowers.insert(0, os.open(tree, OPEN))
                opened.callback(os.close, lowers[0])
            lay_over(lowers, target)


def lay_over(layers: Sequence[int], target: str | Path) -> None:
    """Mounts open directories over each other, the upper one first. Raises OSError."""
    # Named by descriptors, since handlers can read these options in mountinfo.
    lower = ":".join(f"/proc/self/fd/{one}" for one in layers)
    syscalls.mount("overlay", target, "overlay", FENCE, f"lowerdir={lower},{OPTIONS}")


def _with_submounts(binds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Target and source of every file system in the trees: an overlay does not cross mounts."""
    mounted = sorted(set(_mount_points()))
    for target, source in binds.items():
        yield target, source
        for point in mounted:
            if point.startswith(f"{source}/") and os.path.isdir(point):
                yield target + point.removeprefix(source), point


def _mount_points() -> Iterable[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[4].encode().decode("unicode_escape")
