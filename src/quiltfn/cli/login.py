"""`quiltfn login` and `quiltfn config …`: servers and keys that commands remember."""

import getpass
import sys
from typing import Annotated

from msgspec import Struct
from msgspec.structs import replace

from quiltfn.cli import profiles, show
from quiltfn.cli.output import Output, OutputOption, print_answer
from quiltfn.cli.parsing import Argument, BadParameter, Group
from quiltfn.cli.profiles import DEFAULT, Profile
from quiltfn.cli.session import Connection
from quiltfn.cli.show import TableOf
from quiltfn.sdk import ApiError
from quiltfn.sdk.client import base_url_of, without_user

app = Group(name="config", help="List, choose, show and remove profiles: servers with their keys.")

Name = Annotated[str, Argument(help="Profile name.", completes="profile")]


class ShownProfile(Struct, kw_only=True, frozen=True):
    """A profile without its key."""

    name: str
    current: bool
    url: str
    has_key: bool
    cacert: str | None


class ShownTarget(Struct, kw_only=True, frozen=True):
    """The server, key and certificate that commands use, and the source of each."""

    url: str
    url_from: str
    has_key: bool
    key_from: str
    cacert: str | None
    file: str


def login(connection: Connection) -> None:
    """Store a server and its key as a profile for all later commands.

    The key is prompted for, or read from standard input. It is stored once the server accepts it,
    in a file that only you can read. Without --profile, the profile is called `default`.
    """
    name = profiles.named(connection.profile) or DEFAULT
    stored = profiles.read()
    stored.check_name(name)
    known = stored.profiles.get(name)
    by_profile = None if known is None else known.url
    url = connection.url or by_profile or profiles.url_of_environment()
    key = connection.api_key or typed_key(url) or profiles.key_of_environment()
    # An empty string means no key, while None would use the key of another profile.
    at_server = replace(connection, url=url, api_key=key or "", profile=None)
    try:
        with at_server.session() as at:
            who, address = at.client.system.whoami(), at.client.base_url
    except ApiError as error:
        if error.code == "UNAUTHORIZED":
            error.hint = "nothing was stored; enter the complete key, as printed when created"
        raise
    profile = Profile(
        url=address,
        api_key=key if who.needs_credential else None,
        cacert=None if connection.cacert is None else str(connection.cacert.resolve()),
    )
    profiles.write(profiles.read().with_profile(name, profile))

    def report(_: object) -> None:
        whose = f"tenant {who.tenant_id}, scope {who.scope}"
        show.say(f"logged in to {without_user(profile.url)}: {whose}")
        show.note(f"stored as profile {name} in {profiles.path()}")
        if key and not who.needs_credential:
            show.note("the server requires no key yet, so none was stored")
        for variable in profiles.variables_that_go_before(profile):
            show.note(f"{variable} is set and overrides the profile: unset {variable}")

    shown = _shown(name, profile, name)
    print_answer(connection.output, shown, show.encoded(shown), report)


def typed_key(url: str | None) -> str | None:
    """The key that the user types, without echo, or pipes in."""
    if sys.stdin is None:
        return None
    if sys.stdin.isatty():
        prompt = show.visible(f"API key for {_address(url)}: ")
        return getpass.getpass(prompt).strip() or None
    return sys.stdin.readline().strip() or None


@app.command("list")
def list_profiles(output: OutputOption = Output.TABLE) -> None:
    """List profiles. A star marks the current one."""
    found = profiles.read()
    shown = [_shown(name, profile, found.current) for name, profile in found.profiles.items()]
    print_answer(output, shown, show.encoded({"profiles": shown}), _table)


@app.command()
def use(name: Name) -> None:
    """Set the current profile, which commands use by default."""
    profiles.write(profiles.read().using(name))
    show.say(f"commands now use profile {name}")


@app.command("show")
def show_used(connection: Connection) -> None:
    """Show the current server, and the sources of its URL, key and certificate."""
    found = connection.target()
    shown = ShownTarget(
        url=_address(found.url),
        url_from=found.sources["url"],
        has_key=found.sources["api_key"] != profiles.NOWHERE,
        key_from=found.sources["api_key"],
        cacert=None if found.cacert is None else str(found.cacert),
        file=str(profiles.path()),
    )
    print_answer(connection.output, shown, show.encoded(shown), _target)


@app.command()
def remove(name: Name) -> None:
    """Remove a profile and its key from this machine. The key stays valid until you revoke it on
    the server.
    """
    profiles.write(profiles.read().without(name))
    show.say(f"removed profile {name}")


def _address(url: str | None) -> str:
    """The server's address in a form that may be shown. Raises `BadParameter` if it is invalid."""
    try:
        return without_user(base_url_of(url))
    except ValueError as error:
        raise BadParameter(str(error)) from None


def _shown(name: str, profile: Profile, current: str | None) -> ShownProfile:
    return ShownProfile(
        name=name,
        current=name == current,
        url=without_user(profile.url),
        has_key=profile.api_key is not None,
        cacert=profile.cacert,
    )


_table = TableOf[list[ShownProfile], ShownProfile](
    list,
    {
        "": lambda profile: "*" if profile.current else "",
        "NAME": lambda profile: profile.name,
        "SERVER": lambda profile: profile.url,
        "KEY": lambda profile: "stored" if profile.has_key else "none",
    },
    empty="no profiles; create one with: quiltfn login --url URL",
)


def _target(target: ShownTarget) -> None:
    show.pairs(
        ("server", f"{target.url} ({target.url_from})"),
        ("key", f"set ({target.key_from})" if target.has_key else "none"),
        ("certificates", target.cacert),
        ("profiles", target.file),
    )
