"""Checks that come before a request's own work: which pages may call a server without keys, which
connections may call functions, and that a credential came once.
"""

from functools import lru_cache
from urllib.parse import urlsplit

from quiltfn.api.http.request import Request
from quiltfn.model.errors import BadRequest, CapacityFull, Forbidden, Unauthorized

CREDENTIALS = {"authorization": "Authorization", "x-api-key": "X-Api-Key"}
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def check_origin(request: Request, *, is_public: bool) -> None:
    """Without keys the only fence is the loopback address, so a browser that was lured into
    talking to it (a rebound name, a page of another site or port) is turned away.

    Browsers name the page's origin with everything but GET, and whether it is another one with GET
    as well; what has neither header is no page. `is_public`: what anybody may read anyway, and
    follow a link to.
    """
    headers = request.headers
    host = headers.get("host")
    if host is None or "host" in headers.repeated:
        raise BadRequest("there must be one Host header")
    if not _is_loopback("//" + host):
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
    """No call takes one of the connections that are reserved for managing a server full of them."""
    if request.is_reserved:
        raise CapacityFull("the server has all the connections that it takes", retry_after=1)


def check_credentials(request: Request) -> None:
    """Each credential once: of two, another party on the way may have counted the other one."""
    for key, name in CREDENTIALS.items():
        if key in request.headers.repeated:
            raise Unauthorized(f"there must be one {name} header", hint=f"send {name} once")


def is_for_host(request: Request, name: str) -> bool:
    """Whether the request names this host, whatever the port. `name`: in small letters."""
    host, colon, port = request.headers.get("host", "").lower().rpartition(":")
    return (host if colon and port.isdigit() else host + colon + port) == name


@lru_cache(maxsize=256)
def _is_loopback(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK_NAMES
    except ValueError:
        return False
