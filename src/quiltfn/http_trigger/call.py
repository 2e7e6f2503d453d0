"""A request to a function's URL as its handler gets it: without hop-by-hop fields, and without this
server's credentials.
"""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

import msgspec

from quiltfn.model.access import KEY_MARK, TOKEN_MIN, tokens_in
from quiltfn.model.errors import BadRequest

# Fields that are not passed on: those of one connection (RFC 9110, 7.6.1), and those that this
# server sets itself.
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
# Fields that proxies in front of this server set; a caller cannot have them removed. CHECKED also
# has the fields of events, which this server checks. A caller cannot add a field with underscores
# that a program could confuse with one of these.
FROM_PROXIES = ("x-forwarded-", "forwarded", "x-real-ip")
CHECKED = (*FROM_PROXIES, "ce-")
CREDENTIALS = ("authorization", "x-api-key")
# The limit on signed tokens checked per request; each costs a signature check.
TOKENS_MAX = 32

Field = tuple[str, str]


class HttpCall(msgspec.Struct, frozen=True, kw_only=True):
    """`path`: within the function, percent-encoded as sent; `prefix`: the part before it.
    `headers`: unique lowercase names. `now`: Unix seconds.
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
        """The host's name and its port; the default is that of the scheme."""
        host = self.host
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name, port = host, "443" if self.scheme == "https" else "80"
        return name, port


def connection_options(fields: Iterable[Field]) -> set[str]:
    """The fields that the sender declares as specific to its connection (RFC 9110, 7.6.1)."""
    return {
        option.strip().lower()
        for name, value in fields
        if name == "connection"
        for option in value.split(",")
    }


def of_the_connection(fields: Iterable[Field]) -> set[str]:
    """The `connection_options` to leave out: except `host` and those that proxies set, which a
    caller must not have removed.
    """
    return {
        option
        for option in connection_options(fields)
        if option != "host" and not option.startswith(FROM_PROXIES)
    }


def passed_on(
    fields: Iterable[Field], *, is_ours: bool, is_token: Callable[[str], bool] | None = None
) -> dict[str, str]:
    """The fields of a request for its handler, repeated names joined. `is_ours`: the request's
    credential belongs to this server. Leaves out each field, or cookie, that contains anything that
    looks like a key of this server, or a signed token that `is_token` recognizes as its credential.
    Raises `BadRequest` for too many signed tokens.
    """
    given = list(fields)
    names = {name for name, _ in given}
    listed = of_the_connection(given) if "connection" in names else None
    dropped = NOT_PASSED_ON | listed if listed else NOT_PASSED_ON
    withheld = None if is_token is None else _withholding(is_token)
    found: dict[str, str] = {}
    for name, value in given:
        if name in dropped or (is_ours and name in CREDENTIALS):
            continue
        if "_" in name and _is_shadow(name.replace("_", "-"), names, dropped):
            continue
        kept = value
        if withheld is None and KEY_MARK in value:
            withheld = _withholding(is_token)
        if withheld is not None and withheld(value):
            cookies = value.split(";") if name == "cookie" else []
            kept = ";".join([cookie for cookie in cookies if not withheld(cookie)]).strip()
            if not kept:
                continue
        if name in found:
            found[name] += ("; " if name == "cookie" else ",") + kept
        else:
            found[name] = kept
    return found


def _is_shadow(name: str, names: AbstractSet[str], dropped: AbstractSet[str]) -> bool:
    """Whether programs that turn headers into variables (CGI, WSGI) may confuse a name, which has
    underscores, with a field that was checked or that is also sent.
    """
    return name in names or name in dropped or name.startswith(CHECKED)


def _withholding(is_token: Callable[[str], bool] | None) -> Callable[[str], bool]:
    """Returns a function that tells whether a value contains a credential of this server."""
    checked: dict[str, bool] = {}

    def is_known(token: str) -> bool:
        if token not in checked:
            if len(checked) >= TOKENS_MAX:
                raise BadRequest(f"the headers must have at most {TOKENS_MAX} signed tokens")
            checked[token] = is_token is not None and is_token(token)
        return checked[token]

    def withheld(value: str) -> bool:
        if KEY_MARK in value:
            return True
        if is_token is None or len(value) < TOKEN_MIN:
            return False
        return any(is_known(token) for token in tokens_in(value))

    return withheld


def forwarded(
    headers: dict[str, str], *, client: str, scheme: str, prefix: str, port: str
) -> dict[str, str]:
    """Adds headers that describe the route to this server, and returns `headers`. Keeps the scheme
    and port that a proxy in front of this server has set.
    """
    before = headers.get("x-forwarded-for")
    headers["x-forwarded-for"] = client if before is None else f"{before}, {client}"
    headers.setdefault("x-forwarded-proto", scheme)
    headers.setdefault("x-forwarded-port", port)
    headers["x-forwarded-prefix"] = prefix
    return headers
