"""A request to a function's URL as its handler may know it: without what is between the caller and
this server, and without credentials of ours.
"""

from collections.abc import Iterable

import msgspec

# Of one connection alone (RFC 9110, 7.6.1), and what is said of the body is said anew.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
SAID_AGAIN = frozenset({"content-length", "expect", "x-forwarded-prefix"})
NOT_PASSED_ON = HOP_BY_HOP | SAID_AGAIN
CREDENTIALS = ("authorization", "x-api-key")
KEY_MARK = "quilt_sk_"

Field = tuple[str, str]


class HttpCall(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: within the function, percent-encoded as it was sent; `prefix`: what came before it.
    `headers`: names in small letters, a name once. `now`: Unix seconds.
    """

    method: str
    prefix: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    client: str
    scheme: str
    protocol: str
    tenant_id: str
    function_id: str
    request_id: str
    now: float

    @property
    def host(self) -> str:
        return self.headers.get("host", "")

    @property
    def name_and_port(self) -> tuple[str, str]:
        """The host's name and its port, which is that of the scheme where it names none."""
        host = self.host
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name, port = host, "443" if self.scheme == "https" else "80"
        return name, port


def passed_on(fields: Iterable[Field], *, is_ours: bool) -> dict[str, str]:
    """The fields of a request that its handler gets, several of a name as one. `is_ours`: the
    credential of the request is one of this server; else only what looks like a key of it is kept
    back.
    """
    found: dict[str, str] = {}
    dropped = NOT_PASSED_ON
    given = list(fields)
    for name, value in given:
        if name == "connection":
            dropped = dropped | {one.strip().lower() for one in value.split(",")} - {"host"}
    for name, value in given:
        if name in dropped or (name in CREDENTIALS and (is_ours or KEY_MARK in value)):
            continue
        if name in found:
            found[name] += ("; " if name == "cookie" else ",") + value
        else:
            found[name] = value
    return found


def forwarded(
    headers: dict[str, str], *, client: str, scheme: str, prefix: str, port: str
) -> dict[str, str]:
    """`headers`, and how the request came here. What a proxy before this server has said of the
    scheme and the port stays.
    """
    before = headers.get("x-forwarded-for")
    headers["x-forwarded-for"] = client if before is None else f"{before}, {client}"
    headers.setdefault("x-forwarded-proto", scheme)
    headers.setdefault("x-forwarded-port", port)
    headers["x-forwarded-prefix"] = prefix
    return headers
