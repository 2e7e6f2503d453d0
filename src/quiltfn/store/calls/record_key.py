"""The key that encrypts inputs at rest: AES-256-GCM.

A separate module, because it takes long to import and tools beside a server do not need it.
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
    """`inputs.Cipher` with a secret that the operator has set.

    Each invocation has its own key, derived from the secret and the invocation's id (HKDF,
    RFC 5869). So no key is used with too many random nonces, and a row can't be used for another
    invocation.
    """

    def __init__(self, secret: bytes) -> None:
        """Raises `ValueError`, with a sentence for the user, if the secret is too short."""
        self._secret = secret.strip()
        if len(self._secret) < KEY_MIN_BYTES:
            raise ValueError(f"the record key must have at least {KEY_MIN_BYTES} bytes")

    def encrypt(self, invocation_id: str, field: str, content: bytes) -> bytes:
        """The nonce, followed by the encrypted content."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._of(invocation_id).encrypt(nonce, content, field.encode())

    def decrypt(self, invocation_id: str, field: str, sealed: bytes) -> bytes:
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
