"""What every command needs: the server it talks to, and how the answer is printed."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from quiltfn.cli import advice, show
from quiltfn.cli.parsing import Argument, BadParameter, Option
from quiltfn.sdk import ApiError, Client, Function, Request, requests

T = TypeVar("T")

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Output(StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"


NameOrId = Annotated[
    str,
    Argument(metavar="NAME_OR_ID", help="The function's name or id."),
]


@dataclass(slots=True)
class Session:
    """One conversation with the server. `name_or_id`: the function that the command named."""

    client: Client
    output: Output
    name_or_id: str | None = None

    def answer(
        self,
        request: Request[T],
        print_it: Callable[[T], None],
        done: Mapping[str, object] | None = None,
    ) -> T:
        """Send, print the answer in the chosen way, and return it. `done`: what is printed as JSON
        where the server's answer is empty."""
        answer, body = self.client.send(request.with_body())
        self.print(answer, body or (show.encoded(done) if done else b""), print_it)
        return answer

    def answer_for(
        self,
        name_or_id: str,
        ways: tuple[Callable[[str], Request[T]], Callable[[str], Request[T]]],
        print_it: Callable[[T], None],
    ) -> T:
        """As `answer`, where `name_or_id` is either; `ways`: the request for each."""
        by_id, by_name = ways
        answer, body = self._send_for(
            name_or_id, lambda one: by_id(one).with_body(), lambda one: by_name(one).with_body()
        )
        self.print(answer, body, print_it)
        return answer

    def find(self, name_or_id: str) -> Function:
        return self._send_for(name_or_id, requests.get, requests.get_by_name)

    def print(self, answer: T, body: bytes, print_it: Callable[[T], None]) -> None:
        if self.output is Output.TABLE:
            print_it(answer)
        elif body:
            show.json(body)

    def _send_for(
        self,
        name_or_id: str,
        by_id: Callable[[str], Request[T]],
        by_name: Callable[[str], Request[T]],
    ) -> T:
        self.name_or_id = name_or_id
        if not UUID.fullmatch(name_or_id):
            return self.client.send(by_name(name_or_id))
        try:
            return self.client.send(by_id(name_or_id))
        except ApiError as no_such_id:
            if no_such_id.status != 404:
                raise
            # A name may look like an id. If it is neither, the id's refusal is the one to show.
            try:
                return self.client.send(by_name(name_or_id))
            except ApiError as no_such_name:
                raise no_such_id if no_such_name.status == 404 else no_such_name from None


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Which server is asked, with which key, and how its answer is printed."""

    url: Annotated[
        str | None,
        Option(help="The server; else QUILT_BASE_URL, else http://127.0.0.1:8080."),
    ] = None
    api_key: Annotated[
        str | None,
        Option(
            metavar="KEY",
            help="Better in QUILT_API_KEY: a command line is for everybody to read.",
        ),
    ] = None
    cacert: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Whose certificates are believed (PEM); else SSL_CERT_FILE, else the machine's.",
        ),
    ] = None
    output: Annotated[
        Output, Option(("--output", "-o"), help="json prints the server's answer, for programs.")
    ] = Output.TABLE

    @contextmanager
    def session(self) -> Iterator[Session]:
        try:
            client = Client(self.url, api_key=self.api_key, cacert=self.cacert)
        except ValueError as error:
            raise BadParameter(str(error)) from None
        with client:
            session = Session(client, self.output)
            try:
                yield session
            except ApiError as error:
                advice.translated(error, session.name_or_id)
                raise
