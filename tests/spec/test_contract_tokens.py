"""The contract: signed tokens, either HS256 with a secret, or RS256 and ES256 with a key set."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from e2e.server import Server, watched
from promises import promise
from spec.api_client import Api, is_error, make_secret, new_address

pytestmark = pytest.mark.sandbox


@dataclass
class Signer:
    """A server that trusts a secret and a key set, and the private keys of this set."""

    server: Server
    secret: str
    rsa: Any
    ec: Any

    def ask(self, token: str, path: str = "/api/functions") -> Any:
        return Api(self.server.url, address=new_address())(
            "GET", path, headers={"Authorization": f"Bearer {token}"}
        )

    def claims(self, **other: Any) -> dict[str, Any]:
        plain = {"sub": "me", "tenant": "t1", "scope": "read", "exp": int(time.time()) + 60}
        return {name: value for name, value in (plain | other).items() if value is not None}

    def pem(self) -> bytes:
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.rsa.public_key().public_bytes(serialization.Encoding.PEM, kind)


@pytest.fixture(scope="module")
def signer() -> Iterator[Signer]:
    with watched("--jwt-secret ROOT/jwt-secret --jwt-jwks ROOT/jwks.json") as server:
        first = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        second = ec.generate_private_key(ec.SECP256R1())
        keys = [
            jwt.algorithms.RSAAlgorithm.to_jwk(first.public_key(), as_dict=True) | {"kid": "r"},
            jwt.algorithms.ECAlgorithm.to_jwk(second.public_key(), as_dict=True) | {"kid": "e"},
        ]
        (server.root / "jwks.json").write_text(json.dumps({"keys": keys}))
        secret = make_secret(server.root)
        yield Signer(server.start(), secret, first, second)


def signed(signer: Signer) -> dict[str, str]:
    """A valid token for each algorithm."""
    return {
        "HS256": jwt.encode(signer.claims(), signer.secret, "HS256"),
        "RS256": jwt.encode(signer.claims(), signer.rsa, "RS256", headers={"kid": "r"}),
        "ES256": jwt.encode(signer.claims(), signer.ec, "ES256", headers={"kid": "e"}),
    }


def test_each_algorithm_is_taken_and_nobody_without_a_token(signer: Signer) -> None:
    for name, token in signed(signer).items():
        assert signer.ask(token).status_code == 200, name
    Api(signer.server.url).refused("UNAUTHORIZED", 401, "GET", "/api/functions")


@promise("A30")
def test_a_first_key_made_by_an_admin_is_not_an_operator_s(signer: Signer) -> None:
    admin = jwt.encode(signer.claims(scope="admin", tenant="acme"), signer.secret, "HS256")
    bearer = {"Authorization": f"Bearer {admin}"}
    made = Api(signer.server.url).good("POST", "/api/keys", {}, 201, headers=bearer)
    assert (made["scope"], made["tenant_id"]) == ("write", "acme")


def test_the_tenant_and_the_scope_come_from_the_claims(signer: Signer) -> None:
    admin = jwt.encode(signer.claims(scope="admin", tenant="t7"), signer.secret, "HS256")
    bearer = {"Authorization": f"Bearer {admin}"}
    api = Api(signer.server.url)
    body = {"name": "of-t7", "handler": "echo"}
    made = api.good("POST", "/api/functions", body, 201, headers=bearer)["function_id"]
    reader = jwt.encode(signer.claims(tenant="t7"), signer.secret, "HS256")
    assert signer.ask(reader, f"/api/functions/{made}").json()["tenant_id"] == "t7"
    stranger = jwt.encode(signer.claims(tenant="t8"), signer.secret, "HS256")
    is_error(signer.ask(stranger, f"/api/functions/{made}"), "NOT_FOUND", 404)
    is_error(signer.ask(reader, "/api/audit"), "FORBIDDEN", 403)
    audit = api.good("GET", "/api/audit", headers=bearer)["entries"]
    assert audit[0]["credential"] == "jwt:me"


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def forged(header: Any, claims: Any, secret: bytes, algorithm: str = "HS256") -> str:
    """A token that PyJWT would not make."""
    signed = f"{part(header)}.{part(claims)}"
    made = jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), secret)
    return f"{signed}.{part(made)}"


BAD: dict[str, Callable[[Signer], str]] = {
    "expired": lambda s: jwt.encode(s.claims(exp=int(time.time()) - 1), s.secret, "HS256"),
    "not yet": lambda s: jwt.encode(s.claims(nbf=int(time.time()) + 60), s.secret, "HS256"),
    "other secret": lambda s: jwt.encode(s.claims(), "x" * 48, "HS256"),
    "no exp": lambda s: jwt.encode(s.claims(exp=None), s.secret, "HS256"),
    "no sub": lambda s: jwt.encode(s.claims(sub=None), s.secret, "HS256"),
    "no tenant": lambda s: jwt.encode(s.claims(tenant=None), s.secret, "HS256"),
    "no scope": lambda s: jwt.encode(s.claims(scope=None), s.secret, "HS256"),
    "unknown scope": lambda s: jwt.encode(s.claims(scope="root"), s.secret, "HS256"),
    "scope as a list": lambda s: jwt.encode(s.claims(scope=["read"]), s.secret, "HS256"),
    "tenant that none can be": lambda s: jwt.encode(s.claims(tenant="../x"), s.secret, "HS256"),
    "subject of control characters": lambda s: jwt.encode(
        s.claims(sub="a\x1b[2J\n"), s.secret, "HS256"
    ),
    "subject that cannot be stored": lambda s: jwt.encode(
        s.claims(sub="\ud800"), s.secret, "HS256"
    ),
    "endless exp": lambda s: forged(
        {"alg": "HS256"}, b'{"sub":"a","tenant":"t","scope":"read","exp":1e999}', s.secret.encode()
    ),
    "HS512": lambda s: jwt.encode(s.claims(), s.secret * 2, "HS512"),
    "alg none": lambda s: jwt.encode(s.claims(), None, "none"),  # type: ignore[arg-type]
    "alg none of an RSA kid": lambda s: jwt.encode(s.claims(), None, "none", headers={"kid": "r"}),  # type: ignore[arg-type]
    # An attacker can use the public key, which is not secret, as the secret of HS256.
    "the public key as secret": lambda s: forged({"alg": "HS256", "kid": "r"}, s.claims(), s.pem()),
    "wrong kid": lambda s: jwt.encode(s.claims(), s.rsa, "RS256", headers={"kid": "nobody"}),
    "no kid": lambda s: jwt.encode(s.claims(), s.rsa, "RS256"),
    "kid that is no string": lambda s: forged({"alg": "RS256", "kid": []}, s.claims(), b"x" * 32),
    "kid of the other key": lambda s: jwt.encode(s.claims(), s.rsa, "RS256", headers={"kid": "e"}),
    "RS384 of an RS256 key": lambda s: jwt.encode(s.claims(), s.rsa, "RS384", headers={"kid": "r"}),
    "a key of its own": lambda s: jwt.encode(
        s.claims(), ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "e"}
    ),
    "header that nests deep": lambda _: f"{part(b'[' * 9000)}.e30.",
    "claims that nest deep": lambda s: forged(
        {"alg": "HS256"}, b'{"sub":' * 1400, s.secret.encode()
    ),
    # These do not begin as the server expects when it searches a header for tokens.
    "header that begins with a space": lambda s: forged(
        b' {"alg":"HS256"}', s.claims(), s.secret.encode()
    ),
    "header with a space in it": lambda s: forged(
        b'{ "alg":"HS256"}', s.claims(), s.secret.encode()
    ),
    "more behind it": lambda s: jwt.encode(s.claims(), s.secret, "HS256") + "-v2",
    "cut short": lambda s: jwt.encode(s.claims(), s.secret, "HS256").rpartition(".")[0],
    "three dots": lambda _: "...",
    "changed": lambda s: jwt.encode(s.claims(), s.secret, "HS256")[:-2] + "xx",
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_a_bad_token_is_refused(signer: Signer, make: Callable[[Signer], str]) -> None:
    answer = signer.ask(make(signer))
    is_error(answer, "UNAUTHORIZED", 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


# All ways in which a client may send a token that nobody has asked for.
CARRIED: dict[str, dict[str, str]] = {
    "bearer": {"Authorization": "Bearer TOKEN"},
    "x-api-key": {"X-Api-Key": "TOKEN"},
    "another scheme": {"Authorization": "Token token=TOKEN"},
    "another header": {"X-Forwarded-Access-Token": "TOKEN"},
    "with underscores": {"Auth_Token": "TOKEN"},
    "a list": {"X-Tokens": "a.b.c, x.y.z.TOKEN, d"},
    "a cookie": {"Cookie": "theme=dark; session=TOKEN"},
    "an encoded cookie": {"Cookie": "theme=dark; session=%22Bearer%20TOKEN%22"},
    "behind a version": {"X-State": "v1-TOKEN"},
    "behind what looks like one": {"X-State": "eyJxeyJTOKEN"},
    "before a checksum": {"X-State": "TOKEN-abc_0123"},
    "before a letter": {"Cookie": "theme=dark; session=TOKENa"},
    "JSON": {"X-State": '{"token":"\\u0022TOKEN\\u0022"}'},
}


@promise("U4")
def test_a_token_of_ours_reaches_no_handler_in_any_header(signer: Signer) -> None:
    write = jwt.encode(signer.claims(scope="write", tenant="t9"), signer.secret, "HS256")
    api, bearer = Api(signer.server.url), {"Authorization": f"Bearer {write}"}
    body = {"name": "seen", "handler": "env"}
    function = api.good("POST", "/api/functions", body, 201, headers=bearer)["function_id"]
    api.good("POST", f"/api/functions/{function}/deploy", None, 200, headers=bearer)
    api.good("PUT", f"/api/functions/{function}/url", {"auth": "none"}, headers=bearer)
    soon = signer.claims(nbf=int(time.time()) + 60)
    ours = signed(signer) | {"not yet": jwt.encode(soon, signer.secret, "HS256")}
    others = {
        "other secret": jwt.encode(signer.claims(), "x" * 48, "HS256"),
        "no scope": jwt.encode(signer.claims(scope=None), signer.secret, "HS256"),
    }
    for token_name, token in (ours | others).items():
        for header_name, header in CARRIED.items():
            headers = {name: value.replace("TOKEN", token) for name, value in header.items()}
            answer = api("GET", "/fn/t9/seen", headers=headers | {"X-Plain": "kept"})
            assert answer.status_code == 200, answer.text
            assert "HTTP_X_PLAIN=kept" in answer.text
            is_dropped = token_name in ours or header_name == "with underscores"
            assert (token in answer.text) != is_dropped, (token_name, header_name)
            assert ("theme=dark" in answer.text) == ("Cookie" in header)


def test_a_secret_that_is_too_short_is_refused(another: Callable[..., Server]) -> None:
    server = another("--jwt-secret ROOT/short")
    (server.root / "short").write_text("x" * 31)
    server.start_without_waiting()
    assert server.wait() == 78
    assert "32 bytes" in server.log.read_text()
