"""Calculates the size of output as JSON."""

from codecs import getincrementaldecoder

CONTROL, ESCAPED = bytes(range(32)), b'"\\'
NOT_ASCII = bytes(range(128, 256))
PIECE_BYTES = 64 * 1024
# Maximum ratio of an output's `text_size` to its size in bytes.
TEXT_FACTOR = 6
Decoder = getincrementaldecoder("utf-8")


def text_size(output: bytes) -> int:
    """The maximum size of output as JSON, in bytes."""
    size = len(output)
    controls = size - len(output.translate(None, CONTROL))
    wide = 0 if output.isascii() else size - len(output.translate(None, NOT_ASCII))
    # A control character becomes six bytes. A byte that is not UTF-8 becomes U+FFFD: three bytes.
    return size + 5 * controls + 2 * wide + sum(output.count(one) for one in ESCAPED)
