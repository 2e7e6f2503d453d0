"""Checks before a request is handled: which web pages may use a server without keys, which requests
may use the reserved connections, and that each credential was sent only once.
"""

from functools import lru_cache
from urllib.parse import urlsplit

from quiltfn.api.http.request import Request
from quiltfn.model.errors import BadRequest, CapacityFull, Forbidden, Unauthorized

CREDENTIALS = {"authorization": "Authorization", "x-api-key": "X-Api-Key"}
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def check_origin(request: Request, *, is_public: bool) -> None:
    """Protect a server without keys, which is otherwise protected only by its loopback address:
    refuse requests that a browser was tricked into sending (by DNS rebinding, or by a page of
    another site or port).

    Browsers send the page's origin (Origin) with all methods but GET and HEAD, and with every
    method whether the page is of another site (Sec-Fetch-Site). A request without both headers is
    not from a page.
    `is_public`: anyone may read the resource and follow links to it.
    """
    headers = request.headers
    host = headers.get("host")
    if host is None or "host" in headers.repeated:
        raise BadRequest("there must be one Host header")
    if not is_loopback(host):
        raise Forbidden(
            "this server has no keys and answers only to loopback names",
            hint="call it as http://127.0.0.1 or http://localhost",
        )
    is_other = False
    if "origin" in headers:
        own = host.lower()
        same = (f"http://{own}", f"https://{own}")
        is_other = any(one.lower() not in same for one in headers.getlist("origin"))
    if not is_public:
        is_other |= headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if is_other:
        raise Forbidden(
            "this server has no keys and takes no calls from other pages, nor from those of other "
            "ports",
            hint="make a key (quiltfn keys create) and send it, or use the page at /docs/api/",
        )


def check_connection(request: Request) -> None:
    """Refuse a request on the connections that are reserved for managing a full server. For
    requests that take long: invocations, streams, and waits for the end of an invocation.
    """
    if request.is_reserved:
        raise CapacityFull("the server has all the connections that it takes", retry_after=1)


def check_credentials(request: Request) -> None:
    """Refuse repeated credentials: a proxy may have checked a different one than this server."""
    for key, name in CREDENTIALS.items():
        if key in request.headers.repeated:
            raise Unauthorized(f"there must be one {name} header", hint=f"send {name} once")


def is_for_host(request: Request, name: str) -> bool:
    """Whether the request names this host, with any port. `name`: in lower case."""
    return names_host(request.headers.get("host", ""), name)


def names_host(text: str, name: str) -> bool:
    """As `is_for_host`, for a Host header."""
    host, colon, port = text.lower().rpartition(":")
    return (host if colon and port.isdigit() else host + colon + port) == name


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine, with any port."""
    try:
        return urlsplit("//" + host).hostname in LOOPBACK_NAMES
    except ValueError:
        return False
