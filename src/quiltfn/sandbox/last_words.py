"""Error messages for programs that did not start, with their last output, often the cause."""

from quiltfn.ports import SandboxRefused

LAST_WORDS_BYTES = 4096
LINE_MAX = 500


def with_last_line(why: str, written: bytes) -> str:
    """Returns `why` and the last line of the output."""
    last = _text(written).rpartition("\n")[2].strip()[-LINE_MAX:]
    return f"{why}: {last}" if last else why


def refused(sentence: str, written: bytes) -> SandboxRefused:
    """The error with the last `LAST_WORDS_BYTES` of the output, if the sentence lacks them."""
    text = _text(written)
    return SandboxRefused(sentence, "" if text.strip() in sentence else text)


def _text(written: bytes) -> str:
    written = written.rstrip()
    kept = written[-LAST_WORDS_BYTES:]
    if len(kept) < len(written):  # the cut may be within a line or a character
        kept = kept.partition(b"\n")[2] or kept
    return kept.decode(errors="replace").replace("\0", "\ufffd").strip("\r\n")
