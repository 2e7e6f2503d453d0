"""Profiles: named servers with their keys, in a file that only its owner can read.

Order of precedence: options, the profile that --profile names, QUILT_BASE_URL and QUILT_API_KEY,
the profile that QUILTFN_PROFILE names or `config use` chose, the server of this machine. A
profile's key is never sent to another server.
"""

import os
import re
import stat
import sys
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from quiltfn.cli.parsing import BadParameter, nearest

DEFAULT = "default"
NOWHERE = "default"  # the source of a value that isn't set anywhere
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
SECRET_MODE, DIRECTORY_MODE = 0o600, 0o700
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Profile(Struct, frozen=True, kw_only=True):
    """A server, its key and certificate. `cacert`: a file."""

    url: str
    api_key: str | None = None
    cacert: str | None = None


class Profiles(Struct, frozen=True, kw_only=True):
    """The content of the file. `current`: the profile that is used if none is named."""

    current: str | None = None
    profiles: dict[str, Profile] = {}

    def get(self, name: str) -> Profile:
        """Raises `BadParameter` if no profile has the name."""
        if name in self.profiles:
            return self.profiles[name]
        meant = nearest(name, list(self.profiles))
        hint = f"is it {meant}?" if meant else f"quiltfn login --profile {name} --url URL adds it"
        raise BadParameter(f"there is no profile {name!r}", hint)

    def check_name(self, name: str) -> None:
        """Raises `BadParameter` if the name is invalid."""
        if not re.fullmatch(NAME, name):
            raise BadParameter(
                "a profile's name has 1 to 64 letters, digits, dots, dashes and underscores, "
                f"and begins with a letter or digit, not {name!r}"
            )

    def with_profile(self, name: str, profile: Profile) -> "Profiles":
        """A copy with the profile, which becomes the current one."""
        return replace(self, current=name, profiles={**self.profiles, name: profile})

    def without(self, name: str) -> "Profiles":
        """Raises `BadParameter` if no profile has the name."""
        self.get(name)
        left = {key: profile for key, profile in self.profiles.items() if key != name}
        current = None if self.current == name else self.current
        return replace(self, current=current, profiles=left)

    def using(self, name: str) -> "Profiles":
        """Raises `BadParameter` if no profile has the name."""
        self.get(name)
        return replace(self, current=name)


class Target(Struct, frozen=True, kw_only=True):
    """The server, key and certificate for a command. None: the client library's default, from the
    environment. `sources`: descriptions of where each value comes from.
    """

    url: str | None
    api_key: str | None
    cacert: Path | None
    sources: dict[str, str]


def path() -> Path:
    """The path of the file."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification says that relative paths are ignored.
    base = Path(config) if os.path.isabs(config) else Path.home() / ".config"
    return base / "quiltfn" / "profiles.json"


def read() -> Profiles:
    """Read the file. Raises `BadParameter` if it cannot be trusted or parsed."""
    place = path()
    try:
        with place.open("rb") as file:
            _check_private(place, os.fstat(file.fileno()))
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return Profiles()
    except OSError as error:
        raise BadParameter(f"{place} cannot be read: {error.strerror}") from None
    try:
        return msgspec.json.decode(text, type=Profiles)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadParameter(
            f"{place} is invalid: {error}",
            "fix or remove it; quiltfn login creates a new one",
        ) from None


def _check_private(place: Path, found: os.stat_result) -> None:
    if sys.platform == "win32":  # file modes do not restrict other users there
        return
    if found.st_mode & OTHERS:
        raise BadParameter(
            f"{place} contains keys, but other users can read or write it",
            f"chmod 600 {place}, and replace the keys if somebody may have read them",
        )
    if found.st_uid not in (os.geteuid(), 0):
        raise BadParameter(f"{place} belongs to another user, who can read its keys")


def write(profiles: Profiles) -> None:
    """Replace the whole file. Raises `BadParameter` if that fails."""
    place = path()
    place = place.resolve() if place.is_symlink() else place
    text = msgspec.json.format(msgspec.json.encode(profiles), indent=2) + b"\n"
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET_MODE)
        try:
            with os.fdopen(file, "wb") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(place)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadParameter(f"{place} cannot be written: {error.strerror}") from None


def named(option: str | None) -> str | None:
    """The profile that the option or the environment names."""
    return option or os.environ.get("QUILTFN_PROFILE") or None


def target(
    *,
    url: str | None = None,
    api_key: str | None = None,
    cacert: Path | None = None,
    profile: str | None = None,
) -> Target:
    """The target of a command with these options. Raises `BadParameter`, also if a named profile
    does not exist.

    If options give the server and the key, and none names a profile, no file is read.
    """
    if profile is None and url is not None and api_key is not None:
        sources = {"url": "--url", "api_key": "--api-key"}
        return Target(url=url, api_key=api_key, cacert=cacert, sources=sources)
    profiles = read()
    name = named(profile) or profiles.current
    stored = None if name is None else profiles.get(name)
    is_first = profile is not None  # an option takes precedence over the environment
    url, url_source = _first(
        (url, "--url"),
        (stored.url if stored and is_first else None, f"profile {name}"),
        (os.environ.get("QUILT_BASE_URL"), "QUILT_BASE_URL"),
        (stored.url if stored else None, f"profile {name}"),
    )
    # Never send a profile's key to another server.
    is_own = stored is not None and url is not None and url.rstrip("/") == stored.url
    own = stored if is_own else None
    key, key_source = _first(
        (api_key, "--api-key"),
        (own.api_key if own and is_first else None, f"profile {name}"),
        (os.environ.get("QUILT_API_KEY"), "QUILT_API_KEY"),
        (own.api_key if own else None, f"profile {name}"),
    )
    if cacert is None and own is not None and own.cacert is not None:
        cacert = Path(own.cacert)
    sources = {"url": url_source, "api_key": key_source}
    return Target(url=url, api_key=key, cacert=cacert, sources=sources)


def _first(*candidates: tuple[str | None, str]) -> tuple[str | None, str]:
    """The first value that is set, and its source."""
    return next((found for found in candidates if found[0]), (None, NOWHERE))


def url_of_environment() -> str | None:
    return os.environ.get("QUILT_BASE_URL") or None


def key_of_environment() -> str | None:
    return os.environ.get("QUILT_API_KEY") or None


def variables_that_go_before(profile: Profile) -> list[str]:
    """The environment variables that override the profile unless --profile names it."""
    said = {"QUILT_BASE_URL": profile.url, "QUILT_API_KEY": profile.api_key}
    return [name for name, own in said.items() if os.environ.get(name, own) not in (own, "")]
