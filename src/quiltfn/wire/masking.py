"""Finds environment values that look like secrets, so that screens, terminals, and logs don't show
them.

The API itself masks by scope only: keys below `write` see no values. This module is for clients
whose key may see the values. `scripts/generate.py` gives the dashboard the same rules.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

# Replaces values in responses. The API refuses it in requests, so masked values cannot be deployed.
MASK = "***"

# Matches names in capitals with _ between words. Both patterns are also valid in JavaScript.
SECRET_NAME = (
    r"^(?!.*(?:PUBLIC_KEY|_FILE|_PATH|_DIR)$).*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN(?!S|IZ)"
    r"|CREDENTIAL|API_?KEY|WEBHOOK|_PWD$|CONN(?:ECTION)?_STR"
    r"|(?:^|_)(?:KEY|KEYS|PASS|AUTH|DSN|PAT|JWT|COOKIE|SALT|CREDS)(?:_|$))"
)
# URLs with a password, secret parameters of URLs or connections, prefixes of known issuers, signed
# tokens, private keys, and long random text.
SECRET_VALUE = (
    r"://[^/\s:@]*:[^/\s@]+@"
    r"|(?:^|[?&;\s])(?:password|pwd|secret|token|sig|signature|api[-_]?key|access[-_]?key"
    r"|accountkey|sharedaccesskey|access_token)\s*=\s*[^\s&;]"
    r"|^(?:sk-|[rs]k_live_|[rs]k_test_|whsec_|quilt_sk_|gh[opsur]_|github_pat_|glpat-|xox[a-z]-|npm_"
    r"|hf_|pypi-|SG\.|dckr_pat_|AIza|A[KS]IA)[\w.-]{10,}|^eyJ[\w-]+\.[\w-]+\."
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|^(?:bearer|basic) [\w+/=.~-]{8,}$"
    r"|^(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9+=][A-Za-z0-9+/=]{31,}$"
)
_NAME, _VALUE = re.compile(SECRET_NAME), re.compile(SECRET_VALUE, re.IGNORECASE)
# The scheme and the host of a URL, its user and password, and the rest after the host.
_URL = re.compile(r"([A-Za-z]+://)([^/?#]*@)?([^/?#@\\\s]+)(.*)", re.DOTALL)
_HUMP = re.compile("([a-z0-9])([A-Z])")


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable is probably a secret. An empty value is not one: callers may set it for
    each invocation.
    """
    if not value or value == MASK:
        return False
    words = _HUMP.sub(r"\1_\2", name).upper()
    return bool(_NAME.search(words) or _VALUE.search(value))


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """The names of the variables that look like secrets."""
    return sorted(name for name, value in environment.items() if looks_secret(name, value))


def masked_values(environment: Mapping[str, str], secrets: Collection[str] = ()) -> dict[str, str]:
    """The variables, with `***` for values that look like secrets or whose names are in
    `secrets`.
    """
    return {
        name: MASK if value and (name in secrets or looks_secret(name, value)) else value
        for name, value in environment.items()
    }


def masked(value: Any, secrets: Collection[str] = ()) -> Any:
    """Mask a response of the API, or a part of one: values in `environment` that look like secrets
    or whose names are in `secrets`, fields `secret`, and the part of a `url` after the host.
    Returns the same object if nothing is masked.
    """
    if isinstance(value, Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        now = masked(fields, secrets)
        return value if now is fields else replace(value, **now)
    if isinstance(value, dict):
        found = {name: _masked_field(name, one, secrets) for name, one in value.items()}
        return value if all(found[name] is value[name] for name in value) else found
    if isinstance(value, list | tuple):
        kept = [masked(one, secrets) for one in value]
        is_same = all(one is before for one, before in zip(kept, value, strict=True))
        return value if is_same else type(value)(kept)
    return value


def _masked_field(name: Any, value: Any, secrets: Collection[str]) -> Any:
    if name == "environment" and isinstance(value, dict):
        now = masked_values(value, secrets)
        return value if now == value else now
    return masked_text(name, value) if isinstance(value, str) else masked(value, secrets)


def masked_text(name: str, value: str) -> str:
    """The value of a field as it may be shown."""
    if name == "secret" and value:
        return MASK
    return without_path(value) if name == "url" else value


def without_path(url: str) -> str:
    """The URL of a destination without its path and query, which may contain a secret."""
    found = _URL.fullmatch(url)
    if found is None:
        return MASK
    scheme, user, host, rest = found.groups()
    return url if not user and rest in ("", "/") else f"{scheme}{host}/{MASK}"
