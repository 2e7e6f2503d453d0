"""Settings of a server, and the only reader of the environment. Standard library alone.

Every setting is a field here; `QUILTFN_` and its name in capitals sets it in the environment, and
the command line wins over that.
"""

import dataclasses
import ipaddress
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "QUILTFN_"


class BadSetting(ValueError):
    """A setting that cannot be used (a sentence that names it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path = Path("data")
    run_dir: Path = Path("/run/quiltfn")
    crun: str = "/usr/bin/crun"
    node_id: str = ""
    idle_s: float = 300.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise BadSetting(f"port must be between 0 and 65535, not {self.port}")
        for name in ("idle_s", "drain_s"):
            if not 0 <= getattr(self, name) <= 86_400:
                raise BadSetting(
                    f"{name} must be between 0 and 86400 seconds, not {getattr(self, name)}"
                )
        check_loopback(self.host)


def check_loopback(host: str) -> None:
    """While there are no keys, whoever reaches the address may do everything: this machine only."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadSetting(
            f"host must be a loopback address (127.0.0.1, ::1, localhost), not {host!r}: this "
            "server has no API keys, so anybody who reached another address could run code here"
        )


def from_environment(
    given: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Settings:
    """Settings from what the command line gave (None: not given), then the environment."""
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    known = {field.name: field for field in dataclasses.fields(Settings)}
    for name, field in known.items():
        text = given.get(name)
        if text is None:
            text = environ.get(PREFIX + name.upper())
        if text is not None:
            values[name] = _converted(name, field.type, str(text))
    values["node_id"] = values.get("node_id") or socket.gethostname()
    return Settings(**values)


def _converted(name: str, kind: object, text: str) -> Any:
    if kind is Path:
        return Path(text).absolute()
    try:
        return int(text) if kind is int else float(text) if kind is float else text
    except ValueError:
        raise BadSetting(f"{name} must be a number, not {text!r}") from None
