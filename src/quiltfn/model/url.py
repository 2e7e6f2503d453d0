"""The URL of a function: who may invoke it over plain HTTP, and how. Nothing here does I/O."""

import re
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from quiltfn.model.callback import SECRET_PREFIX, check_secret
from quiltfn.model.errors import Unprocessable
from quiltfn.model.version import MASK

PREFIX = "/fn/"
# The tenant whose functions also have a short form of their URL, without the tenant's name.
SHORT_TENANT = "default"
SECRET_MIN_BYTES, SECRET_MAX_BYTES = 16, 256
ANY_ORIGIN = "*"
# scheme "://" host [":" port], as a browser sends it (RFC 6454, 6.2).
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?")


class Auth(StrEnum):
    """Who may invoke: callers with a key of the tenant, everybody, or senders of signed
    requests.
    """

    KEY = "key"
    NONE = "none"
    WEBHOOK = "webhook"


class Scheme(StrEnum):
    """How a webhook is signed."""

    STANDARD = "standard"
    GITHUB = "github"
    STRIPE = "stripe"


class Refusal(StrEnum):
    """Why a request to a function URL was refused before it had a record."""

    CREDENTIAL = "credential"
    SIGNATURE = "signature"
    TIME = "time"
    METHOD = "method"
    REQUEST = "request"
    SIZE = "size"
    STATE = "state"
    LIMIT = "limit"


class Refusals:
    """Counts refused requests to a URL by reason. `last_at`: time of the last, in Unix seconds."""

    def __init__(self) -> None:
        self.counts: dict[Refusal, int] = {}
        self.last_at: int | None = None

    def add(self, reason: Refusal, now: float) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.last_at = int(now)


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """The signature that a request must have."""

    scheme: Scheme
    secret: str


class Cors(msgspec.Struct, frozen=True, kw_only=True):
    """Which pages of other origins may send requests and read the responses (WHATWG Fetch, 3.2).

    If `allow_methods` is empty, every method is allowed; if `allow_headers` is empty, every header.
    """

    allow_origins: Sequence[str] = (ANY_ORIGIN,)
    allow_methods: Sequence[str] = ()
    allow_headers: Sequence[str] = ()
    expose_headers: Sequence[str] = ()
    allow_credentials: bool = False
    max_age_seconds: int = 0


class FunctionUrl(msgspec.Struct, frozen=True, kw_only=True):
    """How a function is reached over plain HTTP. `methods` None: all methods."""

    auth: Auth = Auth.KEY
    webhook: Webhook | None = None
    cors: Cors | None = None
    methods: Sequence[str] | None = None
    stream: bool = False

    def validate(self) -> None:
        """Raises `Unprocessable`, which names the field, if fields contradict each other."""
        if self.auth is Auth.WEBHOOK and self.webhook is None:
            example = {"scheme": "github", "secret": "a-long-random-text"}
            raise Unprocessable.field("webhook", "given where auth is webhook", None, example)
        if self.webhook is not None:
            if self.auth is not Auth.WEBHOOK:
                raise Unprocessable.field("webhook", f"left out where auth is {self.auth}", None)
            check_webhook_secret(self.webhook)
        if self.cors is not None:
            _check_cors(self.cors)


def check_webhook_secret(webhook: Webhook) -> None:
    """Raises `Unprocessable` unless the secret fits its scheme. The error does not repeat it."""
    field, secret = "webhook.secret", webhook.secret
    if secret == MASK:
        expected = f"the real secret; {MASK} is what a masked one looks like"
        raise Unprocessable.field(field, expected, MASK)
    if webhook.scheme is Scheme.STANDARD:
        check_secret(secret, field)
        return
    size = len(secret.encode("utf-8", "surrogatepass"))
    if not SECRET_MIN_BYTES <= size <= SECRET_MAX_BYTES:
        expected = f"{SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes long"
        raise Unprocessable.field(field, expected, f"one of {size} bytes")
    if webhook.scheme is Scheme.STRIPE and not secret.startswith(SECRET_PREFIX):
        expected = f"as Stripe shows it, beginning with {SECRET_PREFIX}"
        raise Unprocessable.field(field, expected, "one without that prefix")


def _check_cors(cors: Cors) -> None:
    for origin in cors.allow_origins:
        if origin != ANY_ORIGIN and not ORIGIN.fullmatch(origin):
            expected = "origins as browsers send them, or *"
            raise Unprocessable.field(
                "cors.allow_origins", expected, origin, ["https://app.example.com"]
            )
    if cors.allow_credentials and ANY_ORIGIN in cors.allow_origins:
        raise Unprocessable.field(
            "cors.allow_credentials", "false where allow_origins has *", True, False
        )


def path_of(tenant_id: str, name: str) -> str:
    """The path of a function's URL in its long form, which identifies the function."""
    return f"{PREFIX}{tenant_id}/{name}"
