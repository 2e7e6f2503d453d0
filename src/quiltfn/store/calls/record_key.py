"""The key that inputs are encrypted with at rest: AES-256-GCM.

In a module of its own, because commands beside a server do without it and it takes long to import.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from quiltfn.model.errors import Unprocessable
from quiltfn.store.calls.inputs import KEY_HINT

KEY_MIN_BYTES, NONCE_BYTES = 32, 12


class RecordKey:
    """`inputs.Cipher` with a secret of the operator's.

    Each call has a key of its own, derived from this one and its id (HKDF, RFC 5869). So the random
    nonces never become too many for one key, and a row does not pass for that of another call.
    """

    def __init__(self, secret: bytes) -> None:
        """Raises `ValueError` (a sentence) for a secret that is too short."""
        self._secret = secret.strip()
        if len(self._secret) < KEY_MIN_BYTES:
            raise ValueError(f"the record key must have at least {KEY_MIN_BYTES} bytes")

    def encrypt(self, invocation_id: str, field: str, content: bytes) -> bytes:
        """The content, encrypted, with its nonce in front."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._of(invocation_id).encrypt(nonce, content, field.encode())

    def decrypt(self, invocation_id: str, field: str, sealed: bytes) -> bytes:
        """As `inputs.Cipher` says."""
        nonce, content = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._of(invocation_id).decrypt(nonce, content, field.encode())
        except InvalidTag:
            raise Unprocessable(
                "the input of the call is encrypted with another key than this server's",
                hint=KEY_HINT,
            ) from None

    def _of(self, invocation_id: str) -> AESGCM:
        derived = HKDF(SHA256(), 32, None, invocation_id.encode()).derive(self._secret)
        return AESGCM(derived)
