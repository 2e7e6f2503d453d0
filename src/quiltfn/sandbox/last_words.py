"""Why a program did not start, with what it wrote last: often that alone says what is wrong."""

LAST_WORDS_BYTES = 4096
LINE_MAX = 500


def with_last_line(why: str, written: bytes) -> str:
    """`why` and the last line that was written."""
    last = _text(written).rpartition("\n")[2].strip()[-LINE_MAX:]
    return f"{why}: {last}" if last else why


def with_output(sentence: str, written: bytes) -> str:
    """The sentence and, in lines below it, the last `LAST_WORDS_BYTES` that were written, unless it
    has them.
    """
    text = _text(written)
    return sentence if text.strip() in sentence else f"{sentence}\nIt wrote last:\n{text}"


def _text(written: bytes) -> str:
    written = written.rstrip()
    kept = written[-LAST_WORDS_BYTES:]
    if len(kept) < len(written):  # it may begin within a line, or within a character
        kept = kept.partition(b"\n")[2] or kept
    return kept.decode(errors="replace").replace("\0", "\ufffd").strip("\r\n")
