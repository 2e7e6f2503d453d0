"""The body of an invocation request: its payload as text, and its key."""

import math
from collections.abc import Mapping

import msgspec

from quiltfn.wire import NewInvocation


def new_invocation(
    payload: object, environment: Mapping[str, str] | None, timeout_seconds: int | None
) -> NewInvocation:
    """The body of an invocation request."""
    return NewInvocation(
        payload=payload_text(payload),
        environment=None if environment is None else dict(environment),
        timeout_seconds=timeout_seconds,
    )


def payload_text(payload: object) -> str | None:
    """The handler's text for `payload`.

    Raises ValueError for bytes that are not UTF-8, NaN and infinity, and TypeError for a set: JSON
    cannot express these, and the encoder would send other values.
    """
    if payload is None or isinstance(payload, str):
        return payload
    if isinstance(payload, bytes):
        return payload.decode()
    check_payload(payload, "payload")
    return msgspec.json.encode(payload).decode()


def check_payload(value: object, where: str) -> None:
    """Raises ValueError or TypeError for values that JSON cannot express. `where`: the name of the
    value.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot express")
    if isinstance(value, set | frozenset):
        raise TypeError(f"{where} is a set, which JSON cannot express; use a list")
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_payload(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_payload(item, f"{where}[{index}]")


def key_header(idempotency_key: str | None) -> dict[str, str]:
    return {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
