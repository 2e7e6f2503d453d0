"""What callers gave to calls: as rows, encrypted where a key is set, and within limits of bytes."""

import os
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import RowMapping

from quiltfn.model.errors import Unprocessable
from quiltfn.model.invocation import Invocation
from quiltfn.ports.work import Input

# What an input takes beside its content: its own columns, its queue's, and their index entries.
INPUT_BYTES = 800
KEY_MIN_BYTES, NONCE_BYTES = 32, 12


class RecordKey:
    """The key that inputs are encrypted with at rest: AES-256-GCM.

    Each call has a key of its own, derived from this one and its id (HKDF, RFC 5869). So the random
    nonces never become too many for one key, and a row does not pass for that of another call.
    """

    def __init__(self, secret: bytes) -> None:
        """Raises `ValueError` (a sentence) for a secret that is too short."""
        self._secret = secret.strip()
        if len(self._secret) < KEY_MIN_BYTES:
            raise ValueError(f"the record key must have at least {KEY_MIN_BYTES} bytes")

    def encrypt(self, invocation_id: str, field: str, content: bytes) -> bytes:
        """The content with its nonce in front. `field`: which one of the call it is."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._of(invocation_id).encrypt(nonce, content, field.encode())

    def decrypt(self, invocation_id: str, field: str, sealed: bytes) -> bytes:
        """Raises `InvalidTag` where the key is another, or the content was changed."""
        nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        return self._of(invocation_id).decrypt(nonce, content, field.encode())

    def _of(self, invocation_id: str) -> AESGCM:
        derived = HKDF(SHA256(), 32, None, invocation_id.encode()).derive(self._secret)
        return AESGCM(derived)


def input_row(record: Invocation, given: Input, key: RecordKey | None) -> tuple[Any, ...]:
    """The values of `add_input`."""
    environment = None if given.environment is None else msgspec.json.encode(given.environment)
    payload = given.payload
    if key is not None:
        if payload is not None:
            payload = key.encrypt(record.invocation_id, "payload", payload)
        if environment is not None:
            environment = key.encrypt(record.invocation_id, "environment", environment)
    return (
        *(record.invocation_id, record.tenant_id, record.function_id, payload, environment),
        *(given.timeout_seconds, given.version, given.caller, given.may_write, given.traceparent),
        *(key is not None, size_of(given), record.function_id),
    )


def size_of(given: Input) -> int:
    """What an input counts in `usage`."""
    return INPUT_BYTES + given.size_bytes


def read_input(row: RowMapping, key: RecordKey | None) -> Input:
    """The input in a row. Raises `Unprocessable` where it cannot be decrypted."""
    payload, environment = row["payload"], row["environment"]
    if row["is_encrypted"]:
        payload = _opened(row, "payload", key)
        environment = _opened(row, "environment", key)
    return Input(
        payload=payload,
        environment=None if environment is None else msgspec.json.decode(environment),
        timeout_seconds=row["timeout_seconds"],
        version=row["version"],
        caller=row["caller"],
        may_write=bool(row["may_write"]),
        traceparent=row["traceparent"],
    )


def _opened(row: RowMapping, field: str, key: RecordKey | None) -> bytes | None:
    if row[field] is None:
        return None
    if key is None:
        raise Unprocessable(
            "the input of the call is encrypted, and this server has no key",
            hint="set record_key_file to the file with the key that it was encrypted with",
        )
    try:
        return key.decrypt(row["invocation_id"], field, row[field])
    except InvalidTag:
        raise Unprocessable(
            "the input of the call is encrypted with another key than this server's",
            hint="set record_key_file to the file with the key that it was encrypted with",
        ) from None
