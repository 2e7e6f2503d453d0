"""Version: the code and settings of a function. A version never changes; an update makes a new
one.
"""

import hashlib
import re
import sys
from typing import Any

import msgspec

from quiltfn.model.errors import Unprocessable
from quiltfn.model.function import SIZE_AT_LEAST
from quiltfn.model.memory import Footprint
from quiltfn.model.runtime import SHELL, Kind, Room, Runtime, idle_mib
from quiltfn.model.server import ServerSettings

ENVIRONMENT_MAX_BYTES = 32 * 1024
MEMORY_MIN_MIB = 256
TIMEOUT_MAX_S = 86_400
RESERVED_PREFIX = "QUILT_"
MASK = "***"
# A command line that starts a server.
SERVER_EXAMPLE = "python3 -m uvicorn app:app --host 0.0.0.0 --port $PORT"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def no_version(number: int) -> str:
    """The message for an unknown version."""
    return f"the function has no version {number}: it was not made, or was removed for newer ones"


class HostLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of this machine for one function. Memory in MiB; one core is 100 percent."""

    memory_max_mib: int
    cores: int
    timeout_max_s: int = TIMEOUT_MAX_S


class VersionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All fixed properties of a version. Two versions with equal specs share instances.

    memory_limit_mb in MiB, cpu_limit_percent in hundredths of a core, timeout_seconds in seconds.
    `runtime_snapshot`: the runtime with the name `runtime` when the version was created.
    """

    handler: str
    runtime: str = "shell"
    # Stored and digested under its older name, so that the digests of existing versions stay the
    # same.
    runtime_snapshot: Runtime = msgspec.field(default=SHELL, name="pinned")
    environment: dict[str, str] = {}
    working_directory: str | None = None
    memory_limit_mb: int = 256
    cpu_limit_percent: float = 100.0
    timeout_seconds: int = 30
    cleanup_on_exit: bool = True

    @property
    def code(self) -> tuple[object, ...]:
        """The parts of the spec that are code, as opposed to settings; comparable."""
        of = self.runtime_snapshot
        return self.handler, of.kind, of.command, of.app_images, of.base_image

    def validate(self, host: HostLimits) -> None:
        """Raises `Unprocessable` for fields that contradict each other or exceed this machine.

        The rules for each field alone are in `wire` and were checked before.
        """
        self.runtime_snapshot.check_handler(self.handler)
        check_environment(self.environment)
        if self.runtime_snapshot.kind is Kind.SERVER:
            self._check_server()
        at_most("memory_limit_mb", self.memory_limit_mb, host.memory_max_mib, 256)
        at_most("cpu_limit_percent", self.cpu_limit_percent, 100 * host.cores, 100.0)
        at_most("timeout_seconds", self.timeout_seconds, host.timeout_max_s, 30)

    def server_settings(self) -> ServerSettings:
        """The settings of its web server, if it has one. Raises `Unprocessable`."""
        return ServerSettings.of(self.runtime_snapshot.environment | self.environment)

    def _check_server(self) -> None:
        self.server_settings()
        if not self.handler.strip():
            expected = "a command line that starts the server"
            raise Unprocessable.field("handler", expected, self.handler, SERVER_EXAMPLE)
        if self.cleanup_on_exit:
            expected = "false with a runtime of kind server: one process serves call after call"
            raise Unprocessable.field("cleanup_on_exit", expected, True, False)

    def footprint(self) -> Footprint:
        """The memory that its instances need, and whether the last one is parked. A Python process
        that forks for each invocation is worth parking, since it keeps its imported modules.
        """
        kind = self.runtime_snapshot.kind
        return Footprint(
            limit_mib=float(self.memory_limit_mb),
            idle_mib=idle_mib(kind, self.runtime_snapshot.isolation),
            parks=kind is Kind.PYTHON and self.cleanup_on_exit,
            concurrency=self.server_settings().concurrency if kind is Kind.SERVER else 1,
        )

    @property
    def size(self) -> int:
        """Its approximate size in memory, in bytes."""
        texts = [self.handler, *self.environment.keys(), *self.environment.values()]
        texts += [
            *self.runtime_snapshot.environment.keys(),
            *self.runtime_snapshot.environment.values(),
        ]
        return SIZE_AT_LEAST + sum(map(sys.getsizeof, texts))

    def digest(self) -> str:
        """Identifies this spec exactly: instances of the same digest are interchangeable."""
        # Sorted keys: {"A":…, "B":…} and {"B":…, "A":…} are the same spec, and so are the
        # percentages 50 and 50.0.
        plain = msgspec.to_builtins(
            msgspec.structs.replace(self, cpu_limit_percent=float(self.cpu_limit_percent))
        )
        # Versions that are older than these fields have digests without them.
        for name in (
            "base_image",
            "interpreter",
            "packages",
            "packages_key",
            *Room.__struct_fields__,
        ):
            if not plain["pinned"][name]:
                del plain["pinned"][name]
        return hashlib.sha256(msgspec.json.encode(plain, order="sorted")).hexdigest()[:32]


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version of a function. `created_at` in Unix seconds."""

    id: str
    function_id: str
    number: int
    spec: VersionSpec
    digest: str
    description: str | None
    created_at: int


def at_most(name: str, value: float, high: float, example: Any) -> None:
    """Refuses a number above this machine's maximum."""
    if value > high:
        raise Unprocessable.field(name, f"at most {high}", value, example)


def check_environment(environment: dict[str, str]) -> None:
    """Checks names, reserved names, NUL, the mask, and the total size."""
    total = sum(
        [
            len(name) + len(value.encode("utf-8", "surrogatepass")) + 2
            for name, value in environment.items()
        ]
    )
    if total > ENVIRONMENT_MAX_BYTES:
        raise Unprocessable.field(
            "environment",
            f"at most {ENVIRONMENT_MAX_BYTES} bytes in all, names, values and two bytes for each",
            f"{total} bytes",
            {"NODE_ENV": "production"},
        )
    for name, value in environment.items():
        where = f"environment.{name[:80]}"
        if not VARIABLE.fullmatch(name):
            raise Unprocessable.field(
                where,
                "named with letters, digits and _, not starting with a digit",
                name[:80],
                "NODE_ENV",
            )
        if name.startswith(RESERVED_PREFIX):
            raise Unprocessable.field(
                where, f"named without the reserved prefix {RESERVED_PREFIX}", name, "NODE_ENV"
            )
        if "\0" in value:
            raise Unprocessable.field(where, "text without NUL", None, "production")
        if value == MASK:
            raise Unprocessable.field(
                where,
                f"the real value; {MASK} is what a masked value looks like",
                MASK,
                "production",
            )
