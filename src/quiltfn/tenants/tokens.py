"""Signed tokens (JWT) as credentials: HS256 with a shared secret, RS256 and ES256 with a key set.

Each key is used with its own algorithm only, so that a public key can never be taken for a secret
(RFC 8725). Required claims: `sub`, `tenant`, `scope` (a `Scope`) and `exp`.
"""

import json
import math
import re
from typing import Any

import jwt
from jwt.types import Options

from quiltfn.model.access import TENANT, TOKEN, Caller, Scope
from quiltfn.model.errors import Unauthorized
from quiltfn.tenants.access import Verifier

REQUIRED = ["exp", "sub", "tenant", "scope"]
AT_THIS_TIME: Options = {"require": REQUIRED, "verify_aud": False}
AT_ANY_TIME: Options = {
    **AT_THIS_TIME,
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}
ALGORITHM_OF = {"RSA": "RS256", "EC": "ES256"}
SECRET_MIN_BYTES = 32
SUBJECT = re.compile(r"[\x20-\x7e]{1,128}")
# Errors for an invalid token. The last two are for JSON that is nested too deeply, and for infinite
# numbers.
UNUSABLE = (jwt.PyJWTError, KeyError, ValueError, TypeError, RecursionError, OverflowError)


class BadTokenSettings(ValueError):
    """The secret or the key set cannot be used; the text is a sentence."""


def verifier(secret: bytes | None, key_set: bytes | None) -> Verifier | None:
    """The verifier of tokens; None if neither secret nor key set is configured. Raises
    `BadTokenSettings`.
    """
    if secret is None and key_set is None:
        return None
    shared = secret.strip() if secret is not None else None
    if shared is not None and len(shared) < SECRET_MIN_BYTES:
        raise BadTokenSettings(f"the token secret must have at least {SECRET_MIN_BYTES} bytes")
    public = read_key_set(key_set) if key_set is not None else {}

    def verify(token: str, *, at_any_time: bool = False) -> Caller:
        # PyJWT ignores characters that are not base64, and whitespace around JSON. Such tokens are
        # not accepted, since `tokens_in` could not find all of them.
        if not TOKEN.fullmatch(token):
            raise Unauthorized("the token is wrong or expired")
        try:
            signed, _, signature = token.rpartition(".")
            header = jwt.get_unverified_header(f"{signed}.")
            if header.get("alg") == "HS256" and shared is not None:
                key, algorithm = shared, "HS256"
            else:
                key, algorithm = public[header.get("kid", "")]
            if at_any_time:
                token = f"{signed}.{signature[: _signature_length(key, algorithm)]}"
            options = AT_ANY_TIME if at_any_time else AT_THIS_TIME
            claims = jwt.decode(token, key, [algorithm], options=options)
            return caller_of(claims)
        except UNUSABLE as error:
            raise Unauthorized("the token is wrong or expired") from error

    return verify


def _signature_length(key: Any, algorithm: str) -> int:
    """The length of a signature with this key, in characters of base64url."""
    if algorithm == "HS256":
        size = 32
    else:
        size = math.ceil(key.key_size / 8) * (2 if algorithm == "ES256" else 1)
    return math.ceil(size * 8 / 6)


def read_key_set(document: bytes) -> dict[str, tuple[Any, str]]:
    """The public keys of a JWKS (RFC 7517) by their `kid`, each with its algorithm. Raises
    `BadTokenSettings`.
    """
    try:
        keys = json.loads(document)["keys"]
        found = {}
        for key in keys:
            algorithm = ALGORITHM_OF[key["kty"]]
            found[str(key.get("kid", ""))] = (jwt.PyJWK(key, algorithm).key, algorithm)
    except (ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise BadTokenSettings(f"the key set is not a JWKS of RSA and EC keys: {error}") from None
    if not found:
        raise BadTokenSettings("the key set has no keys")
    return found


def caller_of(claims: dict[str, Any]) -> Caller:
    """The caller that the claims describe. Raises `ValueError` if a claim is invalid."""
    tenant, scope, subject = claims["tenant"], claims["scope"], claims["sub"]
    if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
        raise ValueError("tenant")
    if not isinstance(subject, str) or not SUBJECT.fullmatch(subject):
        raise ValueError("sub")
    return Caller(
        tenant_id=tenant,
        scope=Scope(scope),
        credential=f"jwt:{subject}",
        token_ends_at=int(claims["exp"]),
    )
