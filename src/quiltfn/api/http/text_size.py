"""How much memory output takes once it is JSON."""

from codecs import getincrementaldecoder

CONTROL, ESCAPED = bytes(range(32)), b'"\\'
NOT_ASCII = bytes(range(128, 256))
PIECE_BYTES = 64 * 1024
# No output has a `text_size` of more than so many times its bytes.
TEXT_FACTOR = 6
Decoder = getincrementaldecoder("utf-8")


def text_size(output: bytes) -> int:
    """Bytes that output takes at most as JSON."""
    size = len(output)
    controls = size - len(output.translate(None, CONTROL))
    wide = 0 if output.isascii() else size - len(output.translate(None, NOT_ASCII))
    # A control character takes six letters, and U+FFFD, for a byte that is not UTF-8, three bytes.
    return size + 5 * controls + 2 * wide + sum(output.count(one) for one in ESCAPED)
