"""The dashboard: files that ui/build.py has made, served from memory as they are.

Whatever a path names, it is looked up among the names of these files and nowhere else.
"""

import functools
import gzip
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quiltfn.api.compression import wants_gzip
from quiltfn.api.request import Headers
from quiltfn.api.response import Header, Response
from quiltfn.api.route import RequestContext, RouteServices
from quiltfn.model.errors import NotFound

INDEX, PACKED = "index.html", ".gz"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
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


@dataclass(frozen=True, kw_only=True)
class WebServices(RouteServices):
    """What the routes of the dashboard take: nothing of their own."""


class WebFile(msgspec.Struct, frozen=True):
    """One file. `digest`: of its content; `is_packed`: that is compressed."""

    name: str
    content: bytes
    digest: str
    is_packed: bool

    @classmethod
    def of(cls, name: str, content: bytes, *, is_packed: bool) -> "WebFile":
        """A file with its digest."""
        return cls(name, content, hashlib.sha256(content).hexdigest()[:32], is_packed)

    @property
    def headers(self) -> list[Header]:
        """Those of every answer with this file."""
        lasts = FOREVER if HASHED.fullmatch(self.name) else ASKED_EACH_TIME
        kind = CONTENT_TYPES["." + self.name.rpartition(".")[2]]
        vary = [("vary", "accept-encoding")] if self.is_packed else []
        return [("content-type", kind), ("cache-control", lasts), *vary, *SAFETY]

    def response(self, headers: Headers) -> Response:
        """What a client with these headers gets: the file, or that it has it already."""
        content, encoding = self.content, ""
        if self.is_packed:
            if "accept-encoding" in headers and wants_gzip(headers):
                encoding = "gzip"
            else:
                content = gzip.decompress(content)
        tag = f'"{self.digest}{encoding and "-" + encoding}"'
        answer = Response(headers=[*self.headers, ("etag", tag)])
        if has_tag(headers.get("if-none-match", ""), tag):
            answer.status = 304
            return answer
        if encoding:
            answer.headers.append(("content-encoding", encoding))
        answer.body = content
        return answer


def has_tag(if_none_match: str, tag: str) -> bool:
    """Whether `tag` is among those that a client has (RFC 9110, 13.1.2)."""
    found = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in found or tag in found


@functools.cache
def files() -> dict[str, WebFile]:
    """All files by their names; none where the dashboard was not built."""
    found: dict[str, WebFile] = {}
    directory = Path(__file__).parent.with_name("web")
    if directory.is_dir():
        for one in directory.iterdir():
            name = one.name.removesuffix(PACKED)
            if "." + name.rpartition(".")[2] in CONTENT_TYPES:
                found[name] = WebFile.of(name, one.read_bytes(), is_packed=one.name != name)
    return found


async def get_start_page(context: RequestContext[WebServices]) -> Response:
    """Lead a browser to the dashboard. Other clients are answered that there is no such route."""
    if "text/html" not in context.headers.get("accept", ""):
        raise NotFound("there is no such route", hint="GET /api/functions/help lists the routes")
    return _led_to("ui/", ("vary", "accept"))


async def get_dashboard_directory(_context: RequestContext[WebServices]) -> Response:
    """Lead to the dashboard."""
    return _led_to("ui/")


async def get_dashboard(context: RequestContext[WebServices]) -> Response:
    """Show the dashboard: a page over this API, for browsers."""
    return _file(INDEX, context)


async def get_dashboard_file(context: RequestContext[WebServices]) -> Response:
    """Get a file that the dashboard consists of."""
    return _file(context.parameters["file"], context)


def _led_to(place: str, *headers: Header) -> Response:
    """`place` is relative, so that it is right below whatever path a proxy has put in front."""
    return Response(
        status=302, headers=[("location", place), ("cache-control", ASKED_EACH_TIME), *headers]
    )


def _file(name: str, context: RequestContext[WebServices]) -> Response:
    known = files()
    if not known:
        raise NotFound(
            "the dashboard was not built when this server was installed",
            hint="scripts/setup in a checkout says why; the API works without it",
        )
    if name not in known:
        raise NotFound("the dashboard has no such file", hint="reload the page")
    return known[name].response(context.headers)
