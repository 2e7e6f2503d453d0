"""Runtime: the program that runs a function's handler, and its read-only files.

A runtime can be replaced by a new one of the same name. A version keeps a snapshot of its runtime,
so this changes no existing version.
"""

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from quiltfn.model.errors import Unprocessable
from quiltfn.model.server import ServerSettings

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
IMAGE = re.compile(r"[0-9a-f]{64}")
# The fields of a runtime that refer to images.
IMAGES = ("image", "packages", "base_image")
PACKAGES_KEY = re.compile(r"[!-~]{1,128}")
# The owner of runtimes and images that all tenants share. A tenant's id is never empty.
SHARED = ""
RESERVED_NAMES = frozenset({"images", "help", "examples", "health"})
COMMAND_MAX_BYTES = 4096
WRITABLE_MAX = 8
# Directories that every sandbox needs: no runtime may mount over them.
FIXED_TREES = (
    "/proc",
    "/sys",
    "/dev",
    "/usr",
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/tmp",
    "/app",
    "/run",
)
HANDLERS = {
    "python": (
        # A module's name may be a path with slashes or dots; AWS Lambda accepts both, too.
        re.compile(r"[\w-]+(?:[./][\w-]+)*(?::[^\W\d]\w*(?:\.[^\W\d]\w*)*|\.[^\W\d]\w*)"),
        "app:main",
    ),
    "node": (re.compile(r"[\w@./-]+?[:.][A-Za-z_$][\w$]*"), "index:handler"),
}


class Kind(StrEnum):
    """How the runtime runs a handler."""

    SHELL = "shell"  # a command line, a new process for each invocation
    PYTHON = "python"  # a function of a Python module, in an interpreter that keeps running
    NODE = "node"  # an exported function of a Node.js module, in an interpreter that keeps running
    CUSTOM = "custom"  # a program of the image that speaks the runner protocol
    SERVER = "server"  # a command line that starts an HTTP server, which keeps running


# The kinds with a built-in runner, which needs an interpreter.
LANGUAGES = (Kind.PYTHON, Kind.NODE)
# Names of built-in runtimes, reserved even if this machine lacks their interpreters.
OWN_NAMES = frozenset({Kind.SHELL, *LANGUAGES})
# The kinds that every machine can run: they need no interpreter of the host.
EVERYWHERE = (Kind.SHELL, Kind.CUSTOM, Kind.SERVER)


# An idle instance's memory in MiB, until it is measured (bench/memory.py).
IDLE_MIB: Mapping[Kind, float] = {Kind.PYTHON: 6.0, Kind.NODE: 45.0, Kind.SERVER: 45.0}
OTHERS_IDLE_MIB = 0.6


# The programs in base images that run handlers, in order of preference. Custom runtimes name their
# own.
PROGRAMS: Mapping[Kind, tuple[str, ...]] = {
    Kind.SHELL: ("sh",),
    Kind.SERVER: ("sh",),
    Kind.PYTHON: ("python3",),
    Kind.NODE: ("node", "nodejs"),
}


class Network(StrEnum):
    """The network of a sandbox."""

    NONE = "none"
    EGRESS = "egress"  # public addresses; neither the host nor private networks


class Isolation(StrEnum):
    """The isolation of a handler from the machine's kernel."""

    CRUN = "crun"  # the machine's kernel, through namespaces and a list of allowed system calls
    GVISOR = "gvisor"  # a kernel in user space for each sandbox, which is itself sandboxed


# The additional memory of a user-space kernel in an idle instance, in MiB.
KERNEL_MIB: Mapping[Isolation, float] = {Isolation.CRUN: 0.0, Isolation.GVISOR: 20.0}


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a sandbox besides memory and CPU. The use of these resources also counts as
    memory.

    `process_limit`: processes and threads, including some of quiltfn's. `tmp_limit_mb`: MiB of
    /tmp, and of each other writable path. `file_limit_mb`: MiB of one file. `open_files_limit`:
    descriptors of one process.
    """

    process_limit: int = 512
    tmp_limit_mb: int = 512
    file_limit_mb: int = 512
    open_files_limit: int = 4096


DEFAULT_ROOM = Room()
# The lowest limits of a runtime: below them, interpreters do not start.
LEAST_ROOM = Room(process_limit=16, tmp_limit_mb=1, file_limit_mb=1, open_files_limit=64)


def idle_mib(kind: Kind, isolation: Isolation) -> float:
    """The memory of an idle sandbox with a runner of this kind, in MiB."""
    return IDLE_MIB.get(kind, OTHERS_IDLE_MIB) + KERNEL_MIB[isolation]


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of a runtime. `created_at` in Unix seconds.

    `image`: the digest (hexadecimal SHA-256) of the files at /app; None if it has no image.
    `packages`: the digest of a second image at /app; the first one hides its files of the same
    paths. `packages_key`: the installer's name for the source of the packages. `base_image`: the
    digest of the root file system; None for the host image. `host`: for the host image, a hash of
    the host's packages at the creation of this revision. `interpreter`: the program of the base
    image that runs handlers, for kinds with one. `command`: the program of a custom runtime and its
    arguments. `writable_paths`: further directories that a handler may write to; they are emptied
    like /tmp. The limits are those of `Room`; None: the server's defaults.
    """

    id: str
    name: str
    kind: Kind
    image: str | None = None
    base_image: str | None = None
    interpreter: str = ""
    packages: str | None = None
    packages_key: str | None = None
    host: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    isolation: Isolation = Isolation.CRUN
    network: Network = Network.NONE
    writable_paths: tuple[str, ...] = ()
    process_limit: int | None = None
    tmp_limit_mb: int | None = None
    file_limit_mb: int | None = None
    open_files_limit: int | None = None
    created_at: int = 0

    @property
    def image_digest(self) -> str:
        """Identifies the sandbox's files. The host's files have a fixed name, although they can
        change.
        """
        own = self.app_images
        files = f"sha256:{'+'.join(own)}" if own else ""
        if self.base_image is None:
            return files or f"host:{self.host or 'unknown'}"
        return f"{files}+base:{self.base_image}".removeprefix("+")

    @property
    def app_images(self) -> tuple[str, ...]:
        """The digests of the images at /app, the upper image first."""
        return tuple(one for one in (self.image, self.packages) if one is not None)

    @property
    def images(self) -> tuple[str, ...]:
        """The digests of all images in its sandboxes."""
        return tuple(digest for name in IMAGES if (digest := getattr(self, name)) is not None)

    @property
    def is_resident(self) -> bool:
        """Whether its program is started once, before invocations, instead of for each
        invocation.
        """
        return self.kind is not Kind.SHELL

    @property
    def is_command_line(self) -> bool:
        """Whether /bin/sh runs the handler as a command line."""
        return self.kind in (Kind.SHELL, Kind.SERVER)

    @property
    def returns_values(self) -> bool:
        """Whether a handler returns a value; its standard output is then its log."""
        return self.kind in (*LANGUAGES, Kind.SERVER)

    @property
    def runner(self) -> Kind | None:
        """The language of the built-in runner of its handlers; None if they are programs."""
        return self.kind if self.kind in LANGUAGES else None

    def room(self) -> Room:
        """The limits of its sandboxes, unless the operator allows less. Without a file limit, a
        file may be as large as /tmp.
        """
        own = {name: getattr(self, name) for name in Room.__struct_fields__}
        own["file_limit_mb"] = own["file_limit_mb"] or own["tmp_limit_mb"]
        return Room(**{name: value for name, value in own.items() if value is not None})

    def check_room(self, most: Room) -> None:
        """Raises `Unprocessable` for a limit above the operator's."""
        for name in Room.__struct_fields__:
            value, low, high = (getattr(one, name) for one in (self, LEAST_ROOM, most))
            if value is not None and not low <= value <= high:
                expected, example = f"{low} to {high}", getattr(DEFAULT_ROOM, name)
                raise Unprocessable.field(
                    name, expected, value, example, null="for the server's own"
                )

    def same_as(self, other: "Runtime") -> bool:
        """Whether the two differ only in their ids and creation times."""
        return msgspec.structs.replace(
            other, id=self.id, created_at=self.created_at
        ) == msgspec.structs.replace(self)

    def is_older_than(self, named: "Runtime") -> bool:
        """Whether the runtime now has a new definition that differs for a handler. Ignores the
        host's packages, since every version uses the current ones, and the key of the packages.
        """
        there = replace(named, host=self.host, packages_key=self.packages_key)
        return self.id != named.id and not self.same_as(there)

    def check_handler(self, handler: str) -> None:
        """Raises `Unprocessable` if this kind of runtime cannot run the handler."""
        form, example = HANDLERS.get(self.kind, (None, ""))
        if form is not None and not form.fullmatch(handler):
            example_of = (
                f"a module and a function of it, such as {example}, for a {self.kind} runtime"
            )
            raise Unprocessable.field("handler", example_of, handler, example)

    def validate(self) -> None:
        """Raises `Unprocessable` for the first invalid field."""
        if not NAME.fullmatch(self.name) or self.name in RESERVED_NAMES:
            expected = (
                "1 to 64 lowercase letters, digits, dots, dashes or underscores, starting and "
                "ending with a letter or digit, and none of " + ", ".join(sorted(RESERVED_NAMES))
            )
            raise Unprocessable.field("name", expected, self.name, "etl")
        for name in IMAGES:
            digest = getattr(self, name)
            if digest is not None and not IMAGE.fullmatch(digest):
                raise Unprocessable.field(name, "64 hexadecimal digits, or null", digest, None)
        self._check_packages_key()
        if self.isolation is Isolation.GVISOR and self.network is not Network.NONE:
            # gVisor has its own network stack, which would bypass the rules for egress.
            raise Unprocessable.field("network", "none with isolation gvisor", self.network, "none")
        if self.isolation is Isolation.GVISOR and self.kind is Kind.SERVER:
            # gVisor's sockets are not files of the machine, so they cannot be passed to the server.
            raise Unprocessable.field("isolation", "crun with kind server", self.isolation, "crun")
        if self.kind is Kind.SERVER:
            ServerSettings.of(self.environment)
        self._check_command()
        self._check_writable_paths()

    def _check_packages_key(self) -> None:
        key = self.packages_key
        if key is not None and (self.packages is None or not PACKAGES_KEY.fullmatch(key)):
            expected = "1 to 128 visible ASCII characters, and only beside packages"
            raise Unprocessable.field("packages_key", expected, key[:200], None)

    def _check_command(self) -> None:
        example = ["/app/runner"]
        if self.kind is not Kind.CUSTOM:
            if self.command:
                expected = f"absent: a {self.kind} runtime has a runner of its own"
                raise Unprocessable.field("command", expected, list(self.command), None)
            return
        size = sum(len(part.encode("utf-8", "surrogatepass")) + 1 for part in self.command)
        if not self.command or not self.command[0].startswith("/"):
            expected = "the absolute path of a program in the image, and its arguments"
            raise Unprocessable.field("command", expected, list(self.command), example)
        if size > COMMAND_MAX_BYTES or any("\0" in part for part in self.command):
            expected = f"at most {COMMAND_MAX_BYTES} bytes without NUL"
            raise Unprocessable.field("command", expected, f"{size} bytes", example)

    def _check_writable_paths(self) -> None:
        if len(self.writable_paths) > WRITABLE_MAX:
            expected = f"at most {WRITABLE_MAX} paths"
            raise Unprocessable.field("writable_paths", expected, list(self.writable_paths), [])
        for path in self.writable_paths:
            if not is_writable_place(path) or self.writable_paths.count(path) > 1:
                expected = (
                    "different absolute, normal paths of letters, digits, dots, dashes and "
                    f"underscores, outside {', '.join(FIXED_TREES)}, and none within another"
                )
                raise Unprocessable.field("writable_paths", expected, path, "/data")
        for path in self.writable_paths:
            if any(path.startswith(other + "/") for other in self.writable_paths):
                raise Unprocessable.field("writable_paths", "none within another", path, "/data")


def is_writable_place(path: str) -> bool:
    """Whether a mount at this path hides nothing that a sandbox needs."""
    if not re.fullmatch(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}){1,4}", path):
        return False
    trees = (*FIXED_TREES, "/lib32", "/lib64", "/libx32")
    return not any(path == tree or path.startswith(tree + "/") for tree in trees)


SHELL = Runtime(id="shell", name="shell", kind=Kind.SHELL)


def built_in(interpreters: Mapping[str, str], host: str) -> dict[str, Runtime]:
    """The runtimes that need only the host image. `interpreters`: those found on the host."""
    kinds = [Kind.SHELL, *(kind for kind in LANGUAGES if kind in interpreters)]
    return {kind: Runtime(id=kind, name=kind, kind=kind, host=host) for kind in kinds}
