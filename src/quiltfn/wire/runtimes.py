"""Schemas of runtimes and their images."""

from enum import StrEnum
from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import NO_NUL, Documented, OneOf
from quiltfn.wire.fields import about
from quiltfn.wire.functions import Environment, ImageDigest, NextCursor
from quiltfn.wire.numbers import UnixSeconds

__all__ = [
    "Image",
    "Isolation",
    "Kind",
    "Network",
    "NewRuntime",
    "Runtime",
    "RuntimeFile",
    "RuntimeFilePage",
    "RuntimeList",
    "RuntimePackage",
    "RuntimePackageList",
]

RESERVED_RUNTIME_NAMES = frozenset({"images", "help", "examples", "health"})
WRITABLE_PATHS_MAX = 8


class Kind(StrEnum):
    """How a handler runs."""

    SHELL = "shell"
    PYTHON = "python"
    NODE = "node"
    CUSTOM = "custom"
    SERVER = "server"


class Network(StrEnum):
    """Network access of a handler."""

    NONE = "none"
    EGRESS = "egress"


class Isolation(StrEnum):
    """Isolation between a handler and the machine's kernel."""

    CRUN = "crun"
    GVISOR = "gvisor"


# The server checks all fields of a runtime together, since rules depend on its kind and on who adds
# it. Here the rules are only documented.
RuntimeName = Annotated[
    str,
    about(
        "1 to 64 lowercase letters, digits, dots, dashes or underscores; starts and ends with a "
        "letter or digit; not a reserved word or the name of a built-in runtime",
        "etl",
        Documented(
            {
                "pattern": "^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$",
                "not": {"enum": sorted(RESERVED_RUNTIME_NAMES)},
            }
        ),
    ),
]
RuntimeKind = Annotated[
    str,
    about(f"how a handler runs: one of {', '.join(Kind)}", "python", OneOf(tuple(Kind))),
]
ImageOfRuntime = Annotated[
    str,
    about(
        "digest of an uploaded image",
        None,
        Documented({"pattern": "^[0-9a-f]{64}$"}),
        null="only the host's files",
    ),
]
BaseImage = Annotated[
    str,
    about(
        "digest of an uploaded base image",
        None,
        Documented({"pattern": "^[0-9a-f]{64}$"}),
        null="the host's files",
    ),
]
PackagesOfRuntime = Annotated[
    str,
    about(
        "digest of a second image, with packages, whose files appear at /app unless image has a "
        "file of the same path",
        None,
        Documented({"pattern": "^[0-9a-f]{64}$"}),
    ),
]
Interpreter = Annotated[
    str,
    about("the program of the base image that runs handlers; empty if none is needed", ""),
]
PackagesKey = Annotated[
    str,
    about(
        "a key for the source of the packages: clients can reuse the packages of a runtime with "
        "the same key",
        None,
        Documented({"pattern": "^[!-~]{1,128}$"}),
    ),
]
Command = Annotated[
    list[str],
    about(
        "absolute path of a program, and its arguments; only for kind custom",
        None,  # no example: most kinds have no program
        Documented({"items": {"type": "string", "pattern": NO_NUL}}),
    ),
]
IsolationOfRuntime = Annotated[
    str,
    about(
        "isolation of handlers: crun, or gvisor (a separate kernel) on machines with runsc",
        "crun",
        OneOf(tuple(Isolation)),
    ),
]
NetworkOfRuntime = Annotated[
    str,
    about(
        "network access of handlers: none, or egress (public addresses, but neither the host "
        "nor private networks)",
        "none",
        OneOf(tuple(Network)),
    ),
]
WritablePaths = Annotated[
    list[str],
    about(
        f"at most {WRITABLE_PATHS_MAX} absolute paths that handlers can write to, besides /tmp",
        ["/data"],
        Documented({"maxItems": WRITABLE_PATHS_MAX, "uniqueItems": True}),
        short="writable",
    ),
]
# The upper bounds are settings, so they are checked by code that has the settings.
ProcessLimit = Annotated[
    int,
    about(
        "maximum processes and threads in a sandbox, 16 to sandbox_processes_max",
        1000,
        Documented({"minimum": 16}),
        null="512",
        short="processes",
    ),
]
TmpLimitMb = Annotated[
    int,
    about(
        "size of /tmp and of each writable path in MiB, 1 to sandbox_tmp_max_mib; files "
        "there count toward the memory limit",
        1024,
        Documented({"minimum": 1}),
        null="512",
        short="tmp",
        unit="MiB",
    ),
]
FileLimitMb = Annotated[
    int,
    about(
        "maximum size of a file in MiB, 1 to sandbox_file_max_mib",
        1024,
        Documented({"minimum": 1}),
        null="as much as /tmp",
        short="file-size",
        unit="MiB",
    ),
]
OpenFilesLimit = Annotated[
    int,
    about(
        "maximum open files of a process, 64 to sandbox_open_files_max",
        8192,
        Documented({"minimum": 64}),
        null="4096",
        short="open-files",
    ),
]
Shared = Annotated[bool, about("available to all tenants; requires an operator's key", False)]


RuntimeId = Annotated[
    str, about("the id of this revision of the runtime", "01999999-0000-7000-8000-000000000001")
]
BuiltIn = Annotated[bool, about("whether it is built in", False)]
Digest = Annotated[
    str,
    about(
        "the SHA-256 of the files, in hexadecimal",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ),
]
ImageEnvironment = Annotated[
    dict[str, str],
    about("environment variables that the image declares", {"PATH": "/usr/bin:/bin"}),
]
ImageInterpreters = Annotated[
    dict[str, str],
    about("paths of its interpreters, by kind of runtime", {"python": "/usr/bin/python3.13"}),
]
FileCount = Annotated[int, about("number of files, without directories", 12)]
SizeBytes = Annotated[int, about("total size of the files in bytes", 48213)]


FilePath = Annotated[str, about("path below /app", "etl/main.py")]
FileSize = Annotated[int, about("size in bytes", 1204)]
IsLink = Annotated[bool, about("whether it is a symbolic link", False)]
IsExecutable = Annotated[bool, about("whether it can be executed", False)]
PackageKind = Annotated[str, about("python or node", "python")]
PackageName = Annotated[str, about("the package's name", "requests")]
PackageVersion = Annotated[str, about("the package's version", "2.32.3")]
IsComplete = Annotated[
    bool,
    about(
        "false if the list is incomplete, because the server searches a limited number of files",
        True,
    ),
]


class NewRuntime(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """A runtime to add."""

    name: RuntimeName
    kind: RuntimeKind
    image: ImageOfRuntime | None = None
    base_image: BaseImage | None = None
    packages: PackagesOfRuntime | None = None
    packages_key: PackagesKey | None = None
    command: Command | None = None
    environment: Environment = {}
    isolation: IsolationOfRuntime = Isolation.CRUN.value
    network: NetworkOfRuntime = Network.NONE.value
    writable_paths: WritablePaths = []
    process_limit: ProcessLimit | None = None
    tmp_limit_mb: TmpLimitMb | None = None
    file_limit_mb: FileLimitMb | None = None
    open_files_limit: OpenFilesLimit | None = None
    shared: Shared = False


class Runtime(Struct, kw_only=True, frozen=True):
    """A runtime. `image`: null if it has no files at /app. `shared`: whether all tenants can use
    it, as they can the `built_in` ones. `created_at` in Unix seconds.
    """

    name: RuntimeName
    id: RuntimeId
    kind: RuntimeKind
    image: ImageOfRuntime | None
    base_image: BaseImage | None
    interpreter: Interpreter
    image_digest: ImageDigest
    command: Command
    environment: Environment
    isolation: IsolationOfRuntime
    network: NetworkOfRuntime
    writable_paths: WritablePaths
    built_in: BuiltIn
    shared: Shared
    created_at: UnixSeconds
    process_limit: ProcessLimit | None = None
    tmp_limit_mb: TmpLimitMb | None = None
    file_limit_mb: FileLimitMb | None = None
    open_files_limit: OpenFilesLimit | None = None
    packages: PackagesOfRuntime | None = None
    packages_key: PackagesKey | None = None


class RuntimeList(Struct, kw_only=True, frozen=True):
    """Runtimes, built-in ones first."""

    runtimes: list[Runtime]
    next_cursor: NextCursor | None = None


class Image(Struct, kw_only=True, frozen=True):
    """An uploaded image. `files` doesn't count directories; `size_bytes` is the size of the files'
    content. `environment` and `interpreters` are those of a base image.
    """

    digest: Digest
    files: FileCount
    size_bytes: SizeBytes
    environment: ImageEnvironment
    interpreters: ImageInterpreters


class RuntimeFile(Struct, kw_only=True, frozen=True):
    """A file or symbolic link of a runtime, below /app. `size_bytes`: 0 for a link."""

    path: FilePath
    size_bytes: FileSize
    is_link: IsLink
    is_executable: IsExecutable


class RuntimeFilePage(Struct, kw_only=True, frozen=True):
    """A page of files, sorted by path."""

    files: list[RuntimeFile]
    next_cursor: NextCursor | None


class RuntimePackage(Struct, kw_only=True, frozen=True):
    """A package among the files of a runtime, according to its metadata."""

    kind: PackageKind
    name: PackageName
    version: PackageVersion


class RuntimePackageList(Struct, kw_only=True, frozen=True):
    """The packages of a runtime, sorted by kind and name."""

    packages: list[RuntimePackage]
    is_complete: IsComplete
