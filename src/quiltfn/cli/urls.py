"""`quiltfn url …`: function URLs, for invocation over plain HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from quiltfn.cli import show
from quiltfn.cli.options import FieldsOf, secret_in
from quiltfn.cli.parsing import BadParameter, Group, Option
from quiltfn.cli.session import Connection, NameOrId, Reveal
from quiltfn.wire import CorsRule, FunctionUrl, NewFunctionUrl, WebhookRule
from quiltfn.wire.urls import SCHEMES

app = Group(name="url", help="Invoke functions over plain HTTP: set, show and delete their URLs.")
WRITTEN_OTHERWISE = ["webhook", "cors", "methods"]


class UrlOptions(Struct, frozen=True, kw_only=True):
    """Fields of a URL that a command line writes differently from the API."""

    method: Annotated[
        list[str] | None,
        Option(
            metavar="METHOD", help="Allowed HTTP method, such as POST (default: any); repeatable."
        ),
    ] = None
    scheme: Annotated[
        str | None,
        Option(choices=SCHEMES, help="Signature scheme of webhooks."),
    ] = None
    secret_file: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="File with the webhook secret (default: keep the current secret).",
        ),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        Option(
            metavar="ORIGIN",
            help="Allowed origin of cross-origin requests, or * for any; repeatable.",
        ),
    ] = None
    cors_credentials: Annotated[
        bool, Option(help="Allow cross-origin requests with cookies and credentials.")
    ] = False

    def fields(self) -> dict[str, Any]:
        """The given fields by their names in the API. Raises `BadParameter`."""
        found: dict[str, Any] = {}
        if self.method:
            found["methods"] = [method.upper() for method in self.method]
        if self.scheme is None and self.secret_file is not None:
            raise BadParameter("give --scheme with --secret-file")
        if self.scheme is not None:
            secret = None if self.secret_file is None else secret_in(self.secret_file)
            found["auth"] = "webhook"
            found["webhook"] = WebhookRule(scheme=self.scheme, secret=secret)
        if self.cors_origin:
            found["cors"] = CorsRule(
                allow_origins=self.cors_origin, allow_credentials=self.cors_credentials
            )
        elif self.cors_credentials:
            raise BadParameter("give --cors-origin with --cors-credentials")
        return found


@app.command("set")
def set_url(
    name_or_id: NameOrId,
    fields: Annotated[dict[str, Any], FieldsOf(NewFunctionUrl, leave_out=WRITTEN_OTHERWISE)],
    options: UrlOptions,
    *,
    connection: Connection,
) -> None:
    """Create or replace a function's URL. Omitted options take their defaults.

    By default, requests need a key.
    """
    given = options.fields()
    if given.get("auth", fields.get("auth")) != fields.get("auth", given.get("auth")):
        raise BadParameter("--scheme requires --auth webhook")
    with connection.session(name_or_id) as at:
        at.show(
            at.client.functions.set_url(name_or_id, **(fields | given)), printer_for(at.address)
        )


@app.command("show")
def show_url(name_or_id: NameOrId, *, reveal: Reveal = False, connection: Connection) -> None:
    """Show a function's URL."""
    with connection.session(name_or_id, reveal=reveal) as at:
        found = at.client.functions.get_url(name_or_id, reveal=reveal)
        at.show(found, printer_for(at.address))


@app.command("delete")
def delete_url(name_or_id: NameOrId, connection: Connection) -> None:
    """Delete a function's URL."""
    with connection.session(name_or_id) as at:
        at.client.functions.delete_url(name_or_id)
        at.say("the URL was deleted", deleted=True)


# Explanations of refusals whose name in the API is ambiguous.
REFUSED = {"time": "signature too old or too early"}


def printer_for(server: str) -> Callable[[FunctionUrl], None]:
    """A function that prints a URL of the server at this address."""
    return lambda url: print_url(url, server)


def address_of(url: FunctionUrl, server: str) -> str:
    """The complete URL, on the assumption that the server has no separate host for URLs."""
    return f"{server.rstrip('/')}{url.path}"


def print_url(url: FunctionUrl, server: str) -> None:
    """Print the URL as a table: complete, or path and host if URLs have their own host."""
    refused = None
    if url.refused:
        counts = ", ".join(f"{REFUSED.get(why, why)} {n}" for why, n in url.refused.items())
        last = show.when(url.last_refused_at)
        refused = f"{sum(url.refused.values())} ({counts}); the last {last}"
    hook = url.webhook
    show.pairs(
        ("url", address_of(url, server) if url.host is None else None),
        ("path", None if url.host is None else url.path),
        ("host", url.host),
        ("auth", url.auth),
        ("webhook", None if hook is None else f"{hook.scheme}, secret {hook.secret}"),
        ("methods", ", ".join(url.methods) if url.methods else "any"),
        ("origins", None if url.cors is None else ", ".join(url.cors.allow_origins)),
        ("stream", "yes" if url.stream else "no"),
        ("refused", refused),
    )
