"""Checks and converts the HTTP response of a handler.

Rule 1: whatever could change the framing of responses is refused: names and values that are not
valid HTTP, interim statuses (1xx).
Rule 2: headers that belong to this server are dropped: connection, length, its ids, commands to a
proxy. Cookies are confined to the function's path.
Rule 3: on the host of the API only known headers are sent, none of which affects the host.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from quiltfn.http_trigger.call import HOP_BY_HOP, Field, connection_options

NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
# Possessive, since each name would otherwise be stored for backtracking.
NAMES = re.compile(rf"(?:{NAME.pattern}+\n)*+")
# Visible characters, spaces and tabs (RFC 9110, 5.5); characters above ASCII as UTF-8.
VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
HEADERS_MAX, HEADERS_MAX_BYTES = 100, 32 * 1024
STATUS_MIN, STATUS_MAX = 200, 599
OURS = HOP_BY_HOP | {
    "content-length",
    "date",
    "server",
    "x-frame-options",
    "x-content-type-options",
    "x-invocation-id",
    "x-request-id",
    "server-timing",
    "x-output-truncated",
}
# Headers that a handler may set on a host that it shares with the API and other tenants' functions:
# each affects only its own response. Any other header is dropped, except OF_APPLICATIONS, since
# browsers keep adding headers that affect the whole origin (Accept-CH, Set-Login, Clear-Site-Data,
# …).
OF_THE_RESPONSE = frozenset(
    {
        *("accept-patch", "accept-post", "accept-ranges", "age", "allow", "cache-control"),
        *("content-digest", "content-disposition", "content-encoding", "content-language"),
        *("content-location", "content-range", "content-security-policy"),
        "content-type",
        *("content-security-policy-report-only", "cross-origin-embedder-policy"),
        *("cross-origin-opener-policy", "cross-origin-resource-policy", "deprecation", "digest"),
        *("etag", "expires", "last-modified", "link", "location", "permissions-policy", "pragma"),
        *("preference-applied", "ratelimit", "referrer-policy", "refresh", "repr-digest"),
        *("retry-after", "sourcemap", "sunset", "timing-allow-origin", "traceparent"),
        *("tracestate", "vary", "warning"),
    }
)
# Prefixes of headers that applications define, and to which browsers give no meaning for a host.
OF_APPLICATIONS = ("access-control-", "ce-", "hx-", "mcp-", "ratelimit-", "webhook-", "x-")
# Authentication schemes whose credentials a browser stores, and then sends to any path of the host.
KEPT_BY_BROWSERS = re.compile(r"\b(basic|digest|negotiate|ntlm)\b", re.IGNORECASE)
# Prefixes of headers that make a proxy in front of this server replace the response, for example by
# a local file or the content of another address.
OF_THE_PROXY = ("x-accel-", "x-sendfile", "x-lighttpd-send", "x-reproxy-")
SET_COOKIE = "set-cookie"
SANDBOX = "sandbox allow-scripts allow-forms"
TEXT, JSON, OCTETS = "text/plain; charset=utf-8", "application/json", "application/octet-stream"


class BadAnswer(Exception):
    """The handler's response is not valid HTTP. The message is a sentence that says why."""


class Head(msgspec.Struct, frozen=True):
    """Status and headers, with lowercase names."""

    status: int
    headers: list[Field]

    def with_type(self, kind: str) -> "Head":
        """Returns the head with the content type `kind` if it has none."""
        if "content-type" in [name for name, _ in self.headers]:
            return self
        return Head(self.status, [*self.headers, ("content-type", kind)])


class HandlerAnswer(msgspec.Struct, frozen=True):
    """A complete response."""

    head: Head
    body: bytes


def head_of(status: object, fields: Iterable[Field]) -> Head:
    """Checks status and headers of a handler. Raises `BadAnswer`."""
    given = list(fields)
    if len(given) > HEADERS_MAX:
        raise too_many_headers(len(given))
    size = sum([len(name) + len(value) for name, value in given])
    if size > HEADERS_MAX_BYTES:
        raise BadAnswer(f"its headers have {size} bytes; at most {HEADERS_MAX_BYTES} are sent")
    wrong = wrong_field(given)
    if wrong is not None:
        raise BadAnswer(wrong)
    headers = [
        (name.lower(), value.strip(" \t") if value.isascii() else _as_latin(value))
        for name, value in given
    ]
    return Head(status_of(status), headers)


def too_many_headers(count: int) -> BadAnswer:
    return BadAnswer(f"it has {count} headers; at most {HEADERS_MAX} are sent")


def wrong_field(fields: Sequence[Field]) -> str | None:
    """Why one of the fields cannot be sent (a sentence); None: all can."""
    names = "".join([f"{name}\n" for name, _ in fields])
    if (
        names.count("\n") == len(fields)
        and NAMES.fullmatch(names)
        and "".join([value for _, value in fields]).isprintable()
    ):
        return None  # the usual case; separate checks take several times as long
    for name, value in fields:
        if not NAME.fullmatch(name):
            return f"the name of a header is not valid: {name[:80]!a}"
        if not VALUE.fullmatch(value):
            return f"the value of the header {name} has a control character"
    return None


def status_of(status: object) -> int:
    """Parses a status. Raises `BadAnswer` if a complete response cannot have it."""
    if isinstance(status, str) and re.fullmatch("[0-9]{3}", status):
        status = int(status)
    if isinstance(status, float) and status.is_integer():
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int):
        status = 0
    if STATUS_MIN <= status <= STATUS_MAX:
        return status
    raise BadAnswer(f"its status must be a number from {STATUS_MIN} to {STATUS_MAX}")


def sent_headers(head: Head, prefix: str, *, has_own_host: bool) -> list[Field]:
    """The headers for the caller. `prefix`: the path of the function's URL, to which its cookies
    are confined. `has_own_host`: URLs have a separate host without the API.
    """
    dropped = OURS | (connection_options(head.headers) - {SET_COOKIE})
    found: list[Field] = []
    for name, value in head.headers:
        if name == SET_COOKIE:
            found.append((name, cookie_of(value, prefix)))
        elif name != "content-type" and (name in dropped or name.startswith(OF_THE_PROXY)):
            continue
        elif has_own_host or name in OF_THE_RESPONSE or is_of_the_response(name, value):
            found.append((name, value))
    if not has_own_host:
        # The handler's own policy applies as well, since a browser enforces all policies.
        found.append(("content-security-policy", SANDBOX))
    return found


def is_of_the_response(name: str, value: str) -> bool:
    """Whether a header affects only its response, not the host. This holds for all of
    `OF_THE_RESPONSE`.
    """
    if name == "www-authenticate":
        return KEPT_BY_BROWSERS.search(value) is None
    return name in OF_THE_RESPONSE or name.startswith(OF_APPLICATIONS)


def cookie_of(value: str, prefix: str) -> str:
    """Confines a cookie to the function: browsers send it neither to other functions of the host
    nor to other hosts of the domain.
    """
    first, *rest = value.split(";")
    path, kept = prefix, [first.strip()]
    for header in rest:
        name, _, given = header.strip().partition("=")
        if name.strip().lower() == "path":
            path = _below(given.strip(), prefix)
        elif name.strip().lower() != "domain":
            kept.append(header.strip())
    return "; ".join([*kept, f"Path={path}"])


def _below(path: str, prefix: str) -> str:
    """The path moved below `prefix`, since a handler need not know its URL."""
    if path == prefix or path.startswith(prefix + "/"):
        return path
    return (prefix + path).rstrip("/") if path.startswith("/") else prefix


def _as_latin(value: str) -> str:
    """Text whose Latin-1 encoding is the UTF-8 of `value`, since a connection sends headers as
    Latin-1. Raises `BadAnswer`.
    """
    try:
        return value.strip(" \t").encode().decode("latin-1")
    except UnicodeEncodeError:
        raise BadAnswer("the value of a header has half of a surrogate pair") from None
