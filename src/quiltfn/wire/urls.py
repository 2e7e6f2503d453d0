"""Schemas of function URLs."""

import re
from typing import Annotated, Any

from msgspec import Struct, field

from quiltfn.wire.constraints import Between, Bytes, OneOf, Rule, Schema, Violation
from quiltfn.wire.fields import about
from quiltfn.wire.masking import MASK

__all__ = ["CorsRule", "FunctionUrl", "NewFunctionUrl", "WebhookRule"]

AUTHS = ("key", "none", "webhook")
SCHEMES = ("standard", "github", "stripe")
SECRET_MIN_BYTES, SECRET_MAX_BYTES = 16, 256
LIST_MAX, ITEM_MAX = 50, 256
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
METHOD = re.compile("[A-Z][A-Z-]{0,31}")
# Methods that are never passed to handlers: after CONNECT, a connection does not use HTTP, and
# TRACE could reveal protected headers to a page.
NO_METHODS = ("CONNECT", "TRACE")


class SecretBytes(Bytes, frozen=True):
    """Like `Bytes`, but also accepts a masked secret, since responses have it. The server refuses a
    masked secret separately.
    """

    def violation(self, value: Any, server_maximum: float | None) -> Violation | None:
        return None if value == MASK else Bytes.violation(self, value, server_maximum)

    def schema(self, server_maximum: float | None) -> Schema:
        return {**Bytes.schema(self, server_maximum), "minLength": 1}


def _wrong_methods(methods: list[str]) -> str | None:
    if (
        not 1 <= len(methods) <= LIST_MAX
        or len(set(methods)) < len(methods)
        or any(not METHOD.fullmatch(one) or one in NO_METHODS for one in methods)
    ):
        return f"a list of 1 to {LIST_MAX} methods in capital letters, each once, none of them " + (
            " or ".join(NO_METHODS)
        )
    return None


def _wrong_cors_methods(methods: list[str]) -> str | None:
    return _wrong_methods(methods) if methods else None


def _wrong_names(names: list[str]) -> str | None:
    if len(names) > LIST_MAX or any(not TOKEN.fullmatch(one) for one in names):
        return f"a list of at most {LIST_MAX} names of headers"
    return None


def _wrong_origins(origins: list[str]) -> str | None:
    if not 1 <= len(origins) <= LIST_MAX or any(not 1 <= len(one) <= ITEM_MAX for one in origins):
        return f"a list of 1 to {LIST_MAX} origins, of at most {ITEM_MAX} characters each"
    return None


METHODS = {"items": {"type": "string", "pattern": "^[A-Z][A-Z-]{0,31}$"}, "maxItems": LIST_MAX}
NAMES = {"items": {"type": "string", "minLength": 1, "maxLength": 64}, "maxItems": LIST_MAX}
ORIGINS = {
    "items": {"type": "string", "minLength": 1, "maxLength": ITEM_MAX},
    "minItems": 1,
    "maxItems": LIST_MAX,
}

UrlAuth = Annotated[
    str,
    about(
        "authentication of callers: key (a credential of the tenant, of scope invoke), none "
        "(public), or webhook (signed requests)",
        "key",
        OneOf(AUTHS),
    ),
]
WebhookScheme = Annotated[
    str,
    about(
        "signature scheme of requests: standard (Standard Webhooks), github or stripe",
        "github",
        OneOf(SCHEMES),
    ),
]
WebhookSecret = Annotated[
    str,
    about(
        "signing secret: for standard, whsec_ and 24 to 64 bytes in base64; for github, 16 to "
        "256 bytes; for stripe, the endpoint's whsec_…; "
        "shown as *** unless reveal is true",
        "a-long-random-text",
        SecretBytes(SECRET_MIN_BYTES, SECRET_MAX_BYTES),
        null="the URL's current one",
    ),
]
UrlMethods = Annotated[
    list[str],
    about(
        "allowed HTTP methods; others get the status 405",
        ["GET", "POST"],
        Rule(_wrong_methods, METHODS | {"minItems": 1, "uniqueItems": True}),
        null="any",
    ),
]
UrlStream = Annotated[
    bool,
    about("whether the response is streamed while the handler writes it", True),
]
AllowOrigins = Annotated[
    list[str],
    about(
        "origins whose pages may send requests, written as browsers send them; * for any",
        ["https://app.example.com"],
        Rule(_wrong_origins, ORIGINS),
    ),
]
AllowMethods = Annotated[
    list[str],
    about(
        "methods that these pages may use; empty: any",
        ["GET", "POST"],
        Rule(_wrong_cors_methods, METHODS | {"uniqueItems": True}),
    ),
]
AllowHeaders = Annotated[
    list[str],
    about(
        "headers that these pages may send; empty: any", ["content-type"], Rule(_wrong_names, NAMES)
    ),
]
ExposeHeaders = Annotated[
    list[str],
    about(
        "response headers that these pages may read besides the usual ones",
        ["x-total"],
        Rule(_wrong_names, NAMES),
    ),
]
AllowCredentials = Annotated[
    bool,
    about("whether these pages may send cookies and credentials; not with the origin *", False),
]
CorsAge = Annotated[
    int,
    about(
        "how long a browser may cache these rules, from 0 to 86400 seconds",
        600,
        Between(0, 86_400),
        unit="s",
    ),
]
UrlPath = Annotated[
    str, about("the path of the URL: /fn/<tenant>/<name>", "/fn/default/my-function")
]
UrlHost = Annotated[
    str,
    about("separate host of function URLs; null: that of the API", "fn.example.com"),
]

UrlRefused = Annotated[
    dict[str, int],
    about(
        "number of refused requests since the server started, by reason: credential, signature, "
        "time (timestamp of a signature too far off), method, request, size, state (of the "
        "function) or limit",
        {"signature": 3},
    ),
]
LastRefusedAt = Annotated[
    int, about("when the last request was refused, in Unix seconds; null: none was", 1760000000)
]


class WebhookRule(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The signature that a request must have."""

    scheme: WebhookScheme
    secret: WebhookSecret | None = None


class CorsRule(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Cross-origin requests (CORS). Preflights are answered without the function."""

    allow_origins: AllowOrigins = field(default_factory=lambda: ["*"])
    allow_methods: AllowMethods = []
    allow_headers: AllowHeaders = []
    expose_headers: ExposeHeaders = []
    allow_credentials: AllowCredentials = False
    max_age_seconds: CorsAge = 0


Webhook = Annotated[
    WebhookRule,
    about(
        "required signature of requests",
        {"scheme": "github", "secret": "a-long-random-text"},
    ),
]
Cors = Annotated[
    CorsRule,
    about(
        "rule for cross-origin requests (CORS)",
        {"allow_origins": ["https://app.example.com"]},
    ),
]


class NewFunctionUrl(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How a function is invoked over plain HTTP. Omitted fields take their defaults."""

    auth: UrlAuth = "key"
    webhook: Webhook | None = None
    cors: Cors | None = None
    methods: UrlMethods | None = None
    stream: UrlStream = False


class FunctionUrl(Struct, kw_only=True, frozen=True):
    """How a function is invoked over plain HTTP. The secret is masked (***) unless reveal is
    true.
    """

    auth: UrlAuth
    webhook: WebhookRule | None
    cors: CorsRule | None
    methods: UrlMethods | None
    stream: UrlStream
    path: UrlPath
    host: UrlHost | None
    refused: UrlRefused = {}
    last_refused_at: LastRefusedAt | None = None
