"""The connection of a command to its server, and the format of the printed response."""

import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeGuard, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from quiltfn.cli import advice, profiles, progress, show
from quiltfn.cli.output import Output, OutputOption, print_answer
from quiltfn.cli.parsing import Argument, BadParameter, Option, nearest
from quiltfn.cli.project import PROJECT_FILE
from quiltfn.sdk import ApiError, Client, ClientError, Image, NotTrusted
from quiltfn.wire import Function, Runtime, Schedule, SystemInfo
from quiltfn.wire.masking import MASK, masked

T = TypeVar("T")

HIDDEN = f"{MASK} hides a value that looks like a secret; --reveal shows it"
WITHHELD = f"{MASK} hides values from keys below scope write"

NameOrId = Annotated[
    str,
    Argument(metavar="NAME_OR_ID", help="Function name or id.", completes="function"),
]


Reveal = Annotated[bool, Option(("--reveal",), help="Show secrets; needs a key of scope write.")]


class Session:
    """One conversation with the server. `name_or_id`: the function that the command named.
    `reveal`: whether secrets are printed; None: the command has no option for that. `options`: by
    field, the option that the user gave, if it differs from the field's own.
    """

    def __init__(
        self,
        connection: "Connection",
        name_or_id: str | None = None,
        reveal: bool | None = None,
    ) -> None:
        self._reveal = reveal
        self.output, self.name_or_id, self.body = connection.output, name_or_id, b""
        self.options: dict[str, str] = {}
        self._info: SystemInfo | None = None
        target = connection.target()
        try:
            # A command reports a failure at once; its user decides whether to repeat it.
            self.client = Client(
                target.url,
                api_key=target.api_key,
                cacert=target.cacert,
                retries=0,
                on_response=self._keep,
            )
            if connection.as_tenant is not None:
                self.client = self.client.in_tenant(connection.as_tenant)
        except ValueError as error:
            # The message of the client names its argument; users know the option.
            raise BadParameter(re.sub(r"^cacert\b", "--cacert", str(error))) from None

    @property
    def info(self) -> SystemInfo:
        """Information about the server, fetched once."""
        if self._info is None:
            self._info = self.client.system.get_info()
        return self._info

    def upload(self, archive: Path, contents: str = "files") -> Image:
        """Upload an archive, and show the progress. Raises as the client does."""
        size = archive.stat().st_size
        with progress.counted("uploading", size) as sent:
            self.client.on_upload = sent
            try:
                return self.client.runtimes.upload_image(archive, contents=contents)
            finally:
                self.client.on_upload = None

    @property
    def address(self) -> str:
        """The server's address without credentials, to be shown and opened."""
        parts = urlsplit(self.client.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def processor(self) -> str:
        """The CPU architecture of the server's machine, or of this machine if the server is too old
        to report it. It becomes part of a command line, so an invalid name raises `BadParameter`.
        """
        named = self.info.architecture or platform.machine()
        if not re.fullmatch("[A-Za-z0-9_]{1,32}", named):
            raise BadParameter(f"the server reports an invalid CPU architecture: {named!r}")
        return named

    def show(self, answer: T, print_it: Callable[[T], None]) -> T:
        """Print the last response as a table or for programs, and return it."""
        self.print(answer, self.body, print_it)
        return answer

    def say(self, sentence: str, **fields: object) -> None:
        """Print a sentence, or for programs `fields`, after a request with an empty response."""
        self.print(sentence, self.body or show.encoded(fields), show.say)

    def print(self, answer: T, body: bytes, print_it: Callable[[T], None]) -> None:
        """Print a response, or for programs its `body`. In both, values that look like secrets, or
        that the project in this directory lists as secrets, are masked unless `reveal` is set.
        """
        if not self._reveal:
            secrets = _listed_secrets() if b'"environment"' in body else frozenset[str]()
            shown = masked(answer, secrets)
            print_answer(self.output, shown, _masked_body(body, secrets), print_it)
            if self._reveal is False and _has_variables(shown) and shown is not answer:
                show.note(HIDDEN)
            return
        print_answer(self.output, answer, body, print_it)
        if _has_variables(answer) and MASK in (answer.environment or {}).values():
            show.note(WITHHELD)

    def nearest_function(self, error: ApiError) -> str | None:
        """A hint that names the function that may have been meant, if none has the given name."""
        if error.code != "NOT_FOUND" or self.name_or_id is None:
            return None
        try:
            page = self.client.functions.list().first()
        except ClientError:
            return None
        names = [function.name for function in page.functions]
        meant = nearest(self.name_or_id, names)
        is_there = self.name_or_id in names or meant is None
        return None if is_there else f"is it {meant}? quiltfn functions list shows all of them"

    def _keep(self, body: bytes) -> None:
        self.body = body


class Connection(Struct, frozen=True, kw_only=True):
    """The server, the key, and how the response is printed."""

    url: Annotated[
        str | None,
        Option(
            help="Server URL (default: --profile, QUILT_BASE_URL, the stored profile, "
            "http://127.0.0.1:8080).",
        ),
    ] = None
    api_key: Annotated[
        str | None,
        Option(
            metavar="KEY",
            help="API key. Prefer QUILT_API_KEY: other users can see command lines.",
        ),
    ] = None
    cacert: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="CA certificates to trust, PEM (default: SSL_CERT_FILE, then the system's).",
        ),
    ] = None
    profile: Annotated[
        str | None,
        Option(
            metavar="NAME",
            completes="profile",
            help="Server and key that `quiltfn login` has stored (default: QUILTFN_PROFILE).",
        ),
    ] = None
    as_tenant: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="With an operator's key: view, pause, resume, scale and cancel in this tenant.",
        ),
    ] = None
    output: OutputOption = Output.TABLE

    def target(self) -> profiles.Target:
        """The server and the key. Raises `BadParameter`."""
        return profiles.target(
            url=self.url, api_key=self.api_key, cacert=self.cacert, profile=self.profile
        )

    @contextmanager
    def session(
        self, name_or_id: str | None = None, *, reveal: bool | None = None
    ) -> Iterator[Session]:
        """`name_or_id`: the function that the command is about, for advice in errors. `reveal`:
        whether secrets are printed.
        """
        session = Session(self, name_or_id, reveal)
        with session.client:
            try:
                yield session
            except ApiError as error:
                visits, word = self.as_tenant is not None, session.name_or_id
                advice.translate_errors(error, word, session.options, visits=visits)
                error.hint = session.nearest_function(error) or error.hint
                raise
            except NotTrusted as error:
                raise NotTrusted(str(error).replace("cacert=FILE", "--cacert FILE")) from error


def _has_variables(answer: object) -> TypeGuard[Function | Runtime | Schedule]:
    """Whether the response's table has a line for each variable."""
    return isinstance(answer, Function | Runtime | Schedule)


def _listed_secrets() -> frozenset[str]:
    """The variables that the project in this directory lists as secrets."""
    path = Path(PROJECT_FILE)
    if not path.is_file():
        return frozenset()
    from quiltfn.cli.project import file  # noqa: PLC0415 — needed in a project only

    try:
        return frozenset[str]().union(*file.known_secrets(path).variables.values())
    except BadParameter:  # only the commands of projects need a valid file
        return frozenset()


def _masked_body(body: bytes, secrets: frozenset[str]) -> bytes:
    """`body` with secrets masked; the same bytes if it has none."""
    if b'"environment"' not in body and b'"secret"' not in body:
        return body
    whole = msgspec.json.decode(body)
    shown = masked(whole, secrets)
    return body if shown is whole else show.encoded(shown)
