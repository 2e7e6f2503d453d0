"""Inputs of invocations as rows, encrypted if a key is set."""

from typing import Any, Protocol

import msgspec
from sqlalchemy import RowMapping

from quiltfn.model.errors import Unprocessable
from quiltfn.model.invocation import Invocation
from quiltfn.ports.work import Input

# Bytes of an input besides its content: other columns, the row in the queue, and index entries.
INPUT_BYTES = 800
KEY_HINT = "set record_key_file to the file with the key that it was encrypted with"


class Cipher(Protocol):
    """Encrypts inputs at rest. `field`: the part of the input."""

    def encrypt(self, invocation_id: str, field: str, content: bytes) -> bytes:
        """Encrypts the content for storage."""
        ...

    def decrypt(self, invocation_id: str, field: str, sealed: bytes) -> bytes:
        """Decrypts the content. Raises `Unprocessable` if the key or `sealed` has changed."""
        ...


def input_row(record: Invocation, given: Input, cipher: Cipher | None) -> tuple[Any, ...]:
    """The values of `add_input`."""
    payload, call = given.payload, record.invocation_id
    environment = None if given.environment is None else msgspec.json.encode(given.environment)
    if cipher is not None and payload is not None:
        payload = cipher.encrypt(call, "payload", payload)
    if cipher is not None and environment is not None:
        environment = cipher.encrypt(call, "environment", environment)
    return (
        *(call, record.tenant_id, record.function_id, payload, environment),
        *(given.timeout_seconds, given.version, given.caller, given.may_write, given.traceparent),
        *(cipher is not None, size_of(given), record.function_id),
    )


def size_of(given: Input) -> int:
    """The bytes that an input counts in `usage`."""
    return INPUT_BYTES + given.size_bytes


def read_environment(row: RowMapping, cipher: Cipher | None) -> dict[str, str] | None:
    """The variables in a row. Raises `Unprocessable` if they cannot be decrypted."""
    text = _opened(row, "environment", cipher) if row["is_encrypted"] else row["environment"]
    found: dict[str, str] | None = None if text is None else msgspec.json.decode(text)
    return found


def read_input(row: RowMapping, cipher: Cipher | None) -> Input:
    """The input in a row. Raises `Unprocessable` if it cannot be decrypted."""
    return Input(
        payload=_opened(row, "payload", cipher) if row["is_encrypted"] else row["payload"],
        environment=read_environment(row, cipher),
        timeout_seconds=row["timeout_seconds"],
        version=row["version"],
        caller=row["caller"],
        may_write=bool(row["may_write"]),
        traceparent=row["traceparent"],
    )


def _opened(row: RowMapping, field: str, cipher: Cipher | None) -> bytes | None:
    if row[field] is None:
        return None
    if cipher is None:
        raise Unprocessable(
            "the input of the call is encrypted, and this server has no key", hint=KEY_HINT
        )
    return cipher.decrypt(row["invocation_id"], field, row[field])
