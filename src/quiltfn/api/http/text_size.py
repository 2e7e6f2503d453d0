"""How much memory output takes while it is made into an answer."""

from codecs import getincrementaldecoder

CONTROL, ESCAPED = bytes(range(32)), b'"\\'
PIECE_BYTES = 64 * 1024
Decoder = getincrementaldecoder("utf-8")


def text_size(output: bytes) -> int:
    """Bytes that output takes at most as a `str`, as the UTF-8 of that, and as JSON, all of which
    are there at the same time.
    """
    size = len(output)
    printable = len(output.translate(None, CONTROL))
    escapes = 5 * (size - printable) + sum(output.count(one) for one in ESCAPED)
    if output.isascii():  # a str of it is its own UTF-8
        return 2 * size + escapes
    decoder, chars, utf8 = Decoder("replace"), 0, 0
    for at in range(0, size, PIECE_BYTES):
        piece = output[at : at + PIECE_BYTES]
        text = decoder.decode(piece, at + PIECE_BYTES >= size)
        chars, utf8 = chars + len(text), utf8 + len(text.encode())
    return 4 * chars + 2 * utf8 + escapes
