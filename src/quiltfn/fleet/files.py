"""The files of a fleet: the operator's, and one for each node.

Both are TOML with a format version and secrets, and are written with mode 0600. The operator's file
has the key of the fleet's authority: with it, nodes can be added. A node's file has only the node's
own key, and the fleet's signing key, which all nodes share.
"""

import ipaddress
import json
import os
import re
import secrets
import tomllib
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from quiltfn.base.setting_files import BadSetting
from quiltfn.fleet.certificates import (
    BadCertificate,
    Credential,
    check_node_certificate,
    make_authority,
    make_node_certificate,
)
from quiltfn.model.converting import convert
from quiltfn.settings import HOST_NAME, check_store, password_in

FORMAT = 1
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SIGNING_KEY = re.compile(r"[0-9a-f]{64}")
FLEET_ID = re.compile(r"[0-9a-f]{32}")
T = TypeVar("T", "FleetFile", "NodeFile")


class FleetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's file. `store`: the URL of the database that the nodes share, without its
    password; `signing_key`: 32 bytes as hexadecimal digits.
    """

    format: int
    kind: str
    fleet_id: str
    store: str
    store_password: str
    signing_key: str
    ca_certificate: str
    ca_key: str


class NodeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file of one node. `address`: HOST:PORT by which other nodes reach its peer port;
    `listen`: HOST:PORT that this port is bound to.
    """

    format: int
    kind: str
    fleet_id: str
    name: str
    address: str
    listen: str
    store: str
    store_password: str
    signing_key: str
    ca_certificate: str
    certificate: str
    key: str

    @property
    def secret(self) -> bytes:
        """The fleet's signing key."""
        return bytes.fromhex(self.signing_key)

    def check_certificate(self, now: float) -> float:
        """Return for how many days the certificate is still valid. `now`: Unix seconds. Raises
        `BadSetting`.
        """
        own = Credential(self.certificate, self.key)
        try:
            return check_node_certificate(self.ca_certificate, own, self.name, now)
        except BadCertificate as error:
            raise BadSetting(f"fleet: {error}") from None


KINDS = {FleetFile: "fleet", NodeFile: "node"}


def new_fleet(store: str, store_password: str, now: float) -> FleetFile:
    """Create a fleet with its own id, authority and signing key. `now`: Unix seconds."""
    fleet_id = secrets.token_hex(16)
    authority = make_authority(fleet_id, now)
    return FleetFile(
        format=FORMAT,
        kind=KINDS[FleetFile],
        fleet_id=fleet_id,
        store=store,
        store_password=store_password,
        signing_key=secrets.token_hex(32),
        ca_certificate=authority.certificate,
        ca_key=authority.key,
    )


def new_node(
    fleet: FleetFile, name: str, addresses: tuple[str, str], now: float, days: int
) -> NodeFile:
    """Create a node of the fleet. `addresses`: its address for others, and the one it listens on;
    `days`: the validity of its certificate. Raises `BadSetting`.
    """
    check_name(name)
    for field, value in zip(("address", "listen"), addresses, strict=True):
        split_address(field, value)
    host, port = split_address("address", addresses[0])
    if port == 0 or _is_any_address(host):
        raise BadSetting(f"address must be one that others can reach, not {addresses[0]!r}")
    authority = Credential(fleet.ca_certificate, fleet.ca_key)
    try:
        own = make_node_certificate(authority, name, now, days)
    except BadCertificate as error:
        raise BadSetting(f"fleet: {error}") from None
    return NodeFile(
        format=FORMAT,
        kind=KINDS[NodeFile],
        fleet_id=fleet.fleet_id,
        name=name,
        address=addresses[0],
        listen=addresses[1],
        store=fleet.store,
        store_password=fleet.store_password,
        signing_key=fleet.signing_key,
        ca_certificate=fleet.ca_certificate,
        certificate=own.certificate,
        key=own.key,
    )


def parse(kind: type[T], text: str) -> T:
    """Parse a file, for setting or option `fleet`. Raises `BadSetting`, which names the field and
    never repeats the file's content.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSetting(f"fleet: the file is not TOML: {error}") from None
    version = found.get("format")
    if version != FORMAT:
        why = "has no format" if version is None else f"has the format {str(version)[:20]}"
        raise BadSetting(f"fleet: the file {why}; this quiltfn supports format {FORMAT}")
    if found.get("kind") != KINDS[kind]:
        raise BadSetting(
            f"fleet: kind must be {KINDS[kind]!r}: the fleet's own file is for quiltfn fleet, and "
            "a node's file is for quiltfn serve"
        )
    try:
        made = convert(found, kind)
    except msgspec.ValidationError as error:
        raise BadSetting(f"fleet: the file cannot be used: {error}") from None
    _check(made)
    return made


def _check(found: FleetFile | NodeFile) -> None:
    """Raises `BadSetting` for values that a struct's types can't exclude."""
    if not FLEET_ID.fullmatch(found.fleet_id):
        raise BadSetting("fleet: fleet_id must be 32 hexadecimal digits")
    if not SIGNING_KEY.fullmatch(found.signing_key):
        raise BadSetting("fleet: signing_key must be 64 hexadecimal digits")
    check_store("store", found.store)
    if found.store_password:
        password_in("store_password", found.store_password)
    if isinstance(found, NodeFile):
        check_name(found.name)
        for field in ("address", "listen"):
            split_address(field, getattr(found, field))


def check_name(name: str) -> None:
    """Raises `BadSetting` for an invalid node name."""
    if not NODE_NAME.fullmatch(name):
        raise BadSetting(
            "name must be 1 to 63 lowercase letters, digits and hyphens, not beginning or ending "
            f"with a hyphen, not {name[:80]!r}"
        )


def split_address(field: str, text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 address is in brackets. Raises `BadSetting`."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if port is None or parts.netloc != text or "@" in text or not _is_host(host):
        raise BadSetting(f"{field} must be HOST:PORT, such as 10.0.0.5:8443, not {text[:80]!r}")
    return host, port


def _is_host(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None


def _is_any_address(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def as_text(found: FleetFile | NodeFile) -> str:
    """The file's text."""
    about = {
        "fleet": "The fleet's own file. Whoever has it can add nodes: keep it off the nodes.",
        "node": "The file of one node, for quiltfn serve --fleet FILE.",
    }
    fields = msgspec.structs.asdict(found)
    lines = [f"{name} = {_value(value)}" for name, value in fields.items()]
    return "\n".join([f"# {about[found.kind]}", *lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, str) and "\n" in value:  # PEM contains neither quotes nor backslashes
        return f'''"""\n{value.rstrip()}\n"""'''
    # JSON strings with only printable characters are valid TOML strings, too.
    return json.dumps(value, ensure_ascii=False)


def write(path: Path, text: str) -> None:
    """Create a file that only its owner can read. Raises `OSError`, also if the file exists."""
    with open(path, "x", opener=_private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
