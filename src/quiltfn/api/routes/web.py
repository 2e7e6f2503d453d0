"""The dashboard and the documentation: files that ui/build.py and docs/site/build.py generated,
served from memory.

A path is only looked up among the names of these files, never in the file system.
"""

import functools
import gzip
import hashlib
import re
from pathlib import Path
from typing import Protocol

import msgspec

import quiltfn
from quiltfn.api.http.compression import wants_gzip
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import Header, Response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.model.errors import NotFound, no_such_route

INDEX, PACKED = "index.html", ".gz"
# Directories in the package.
DASHBOARD, DOCUMENTATION = "web", "site"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
}
HASHED = re.compile(r".*-[A-Z0-9]{8}\.\w+")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SAFETY = (
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)
FOREVER, ASKED_EACH_TIME = "public, max-age=31536000, immutable", "no-cache"


class WebServices(RouteServices, Protocol):
    """The services for dashboard and documentation."""


class WebFile(msgspec.Struct, frozen=True):
    """One file. `digest`: of its content. `is_packed`: whether the content is compressed."""

    name: str
    content: bytes
    digest: str
    is_packed: bool

    @classmethod
    def of(cls, name: str, content: bytes, *, is_packed: bool) -> "WebFile":
        """Create a file with its digest."""
        return cls(name, content, hashlib.sha256(content).hexdigest()[:32], is_packed)

    @property
    def headers(self) -> list[Header]:
        """The headers of every response with this file."""
        lasts = FOREVER if HASHED.fullmatch(self.name) else ASKED_EACH_TIME
        kind = CONTENT_TYPES["." + self.name.rpartition(".")[2]]
        vary = [("vary", "accept-encoding")] if self.is_packed else []
        return [("content-type", kind), ("cache-control", lasts), *vary, *SAFETY]

    def response(self, headers: Headers) -> Response:
        """The response to a request with these headers: the file, or 304 if the client has it."""
        content, encoding = self.content, ""
        if self.is_packed:
            if "accept-encoding" in headers and wants_gzip(headers):
                encoding = "gzip"
            else:
                content = unpacked(content)
        tag = f'"{self.digest}{encoding and "-" + encoding}"'
        response = Response(headers=[*self.headers, ("etag", tag)], is_shared=True)
        if has_tag(headers.get("if-none-match", ""), tag):
            response.status = 304
            return response
        if encoding:
            response.headers.append(("content-encoding", encoding))
        response.body = content
        return response


@functools.cache
def unpacked(packed: bytes) -> bytes:
    """The uncompressed content of a file. The content is cached, since unpacking blocks the event
    loop for up to 2 ms and anyone may request a file. All files together have less than 8 MiB.
    """
    return gzip.decompress(packed)


def has_tag(if_none_match: str, tag: str) -> bool:
    """Whether `tag` is among the tags in If-None-Match (RFC 9110, 13.1.2)."""
    found = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in found or tag in found


@functools.cache
def files(directory: str) -> dict[str, WebFile]:
    """All files in and below a directory of the package by name, such as `how-to/keys.html`. Empty
    if the directory was not built.
    """
    found: dict[str, WebFile] = {}
    top = Path(quiltfn.__file__).parent / directory
    for path in top.rglob("*"):
        below = path.relative_to(top).as_posix()
        name = below.removesuffix(PACKED)
        if "." + name.rpartition(".")[2] in CONTENT_TYPES:
            found[name] = WebFile.of(name, path.read_bytes(), is_packed=below != name)
    return found


async def get_start_page(context: RequestContext[WebServices]) -> Response:
    """Redirect browsers to the dashboard. Other clients get: route not found."""
    if "text/html" not in context.headers.get("accept", ""):
        raise no_such_route()
    return _led_to("ui/", ("vary", "accept"))


async def get_dashboard_directory(_context: RequestContext[WebServices]) -> Response:
    """Redirect to the dashboard."""
    return _led_to("ui/")


async def get_dashboard(context: RequestContext[WebServices]) -> Response:
    """Show the dashboard, a web page on top of this API."""
    return _file(INDEX, context)


async def get_dashboard_file(context: RequestContext[WebServices]) -> Response:
    """Get a file of the dashboard."""
    return _file(context.parameters["file"], context)


async def get_documentation_directory(_context: RequestContext[WebServices]) -> Response:
    """Redirect to the documentation."""
    return _led_to("docs/")


async def get_documentation(context: RequestContext[WebServices]) -> Response:
    """Get a page or file of the documentation."""
    name, known = context.parameters["path"], files(DOCUMENTATION)
    if not known:
        raise NotFound(
            "the documentation was not built when this server was installed",
            hint="run scripts/setup --docs in the server's checkout and restart the server, or get "
            "/api/functions/help?format=markdown",
        )
    if f"{name}/{INDEX}" in known:
        return _led_to(name.rpartition("/")[2] + "/")
    if name == "" or name.endswith("/"):
        name += INDEX
    if name not in known:
        raise NotFound("the documentation has no such page", hint="see /docs/ for all pages")
    return known[name].response(context.headers)


def _led_to(place: str, *headers: Header) -> Response:
    """A redirect. `place` is relative, so that it works below any path that a proxy adds."""
    return Response(
        status=302, headers=[("location", place), ("cache-control", ASKED_EACH_TIME), *headers]
    )


def _file(name: str, context: RequestContext[WebServices]) -> Response:
    known = files(DASHBOARD)
    if not known:
        raise NotFound(
            "the dashboard was not built when this server was installed",
            hint="run scripts/setup in a checkout to see why; the API works without the dashboard",
        )
    if name not in known:
        raise NotFound("the dashboard has no such file", hint="reload the page")
    return known[name].response(context.headers)


# --- the routes ---

WEB_KINDS = tuple(kind.partition(";")[0] for kind in CONTENT_TYPES.values())
ROUTES = [
    Route("GET", "/docs", get_documentation_directory, scope=None, status=302),
    Route(
        "GET",
        "/docs/{path:path}",
        get_documentation,
        scope=None,
        answer=str,
        texts=WEB_KINDS,
        codes=("NOT_FOUND",),
    ),
    Route("GET", "/", get_start_page, scope=None, status=302, codes=("NOT_FOUND",)),
    Route("GET", "/ui", get_dashboard_directory, scope=None, status=302),
    Route(
        "GET",
        "/ui/",
        get_dashboard,
        scope=None,
        answer=str,
        texts=("text/html",),
        codes=("NOT_FOUND",),
    ),
    Route(
        "GET",
        "/ui/{file}",
        get_dashboard_file,
        scope=None,
        answer=str,
        texts=WEB_KINDS,
        codes=("NOT_FOUND",),
    ),
]
