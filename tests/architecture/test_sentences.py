"""Programs use codes, people read sentences: no code parses the text of an error, a hint or a
record.

The same information is available as data: `error_code`, `details`, `end_cause`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct

from promises import promise
from quiltfn.api.routes.table import ROUTES
from quiltfn.wire.fields import Field, about, fields_of

pytestmark = promise("A90")
ROOT = Path(__file__).parents[2]
# A sentence for people, in Python and in TypeScript.
SENTENCE = (
    r"(?:\b(?:error_message|message|hint|_how_ended|problem|reason|why|meaning|about)\b"
    r"|\bstr\((?!path|program|wheel|epoch)[a-z_]+\)|\(?error \?\? \"\")"
)
CUTS = (
    "startswith|startsWith|endswith|endsWith|partition|rpartition|split|find|indexOf|includes|match"
    "|replace"
)
# Code that compares a sentence with a text or a constant, or matches it against a pattern.
PARSES = re.compile(
    rf"""{SENTENCE}[?!]?\??\.(?:{CUTS})\(\s*(?:[rf]?["'`/]|[A-Z][A-Z_]+\b)"""
    rf"""|\bwhy\.(?:{CUTS})\("""
    # Code that takes other texts apart instead of using their parts: SQL, and what --help prints.
    rf"""|\b(?:statements\(.*\)\[.*\]|statement)\.(?:{CUTS})\(\s*["'][A-Z ]+["']"""
    rf"""|\bmeaning\)+\.(?:{CUTS})\(|["']--help["']\]"""
    rf"""|\b(?:test|exec|match|search|fullmatch|sub|findall|replace)\([^()=]*{SENTENCE}(?!=)"""
    rf"""|["'](?:\w+ )+\w*["'] in {SENTENCE}|["']\w+["'] in str\("""
    rf"""|{SENTENCE} [!=]==? (?:["'`]|[A-Z][A-Z_]+\b)"""
)
# By file and text of the line: the reason for the exception.
ALLOWED: dict[tuple[str, str], str] = {
    (
        "http_connection.py",
        'return str(error).partition("\\n")[0][:200]',
    ): "shortens what a library says",
    (
        "openapi.py",
        '"summary": way.about.split(". ")[0].rstrip("."),',
    ): "shortens it to its first sentence",
    ("sql.py", "found |= parse(WORD.sub(meaning, source))"): "a function",
    (
        "session.py",
        'raise NotTrusted(str(error).replace("cacert=FILE", "--cacert FILE")) from error',
    ): "an argument of the client, by its option",
    (
        "session.py",
        'raise BadParameter(re.sub(r"^cacert\\b", "--cacert", str(error))) from None',
    ): "an argument of the client, by its option",
}


def parsed(text: str) -> Iterator[str]:
    """The lines that parse a sentence."""
    return (line.strip() for line in text.splitlines() if PARSES.search(line))


def speaks_of_null(field: Field) -> bool:
    """Whether the meaning of a field mentions null, or the field explains null but can't be null.
    Each client has its own word for null, so the explanation is a separate text.
    """
    return "null" in field.meaning or bool(field.null and not field.is_nullable)


def fields_below(shape: Any) -> Iterator[Field]:
    for field in fields_of(shape).values():
        yield field
        if field.is_shape:
            yield from fields_below(field.kind)


def test_what_a_client_sends_says_apart_from_its_meaning_what_null_means() -> None:
    sent = [field for route in ROUTES if route.body for field in fields_below(route.body)]
    assert {field.name for field in sent if speaks_of_null(field)} == set()
    assert {field.described() for field in sent} >= {
        "allowed HTTP methods; others get the status 405; null: any"
    }

    class Planted(Struct):
        first: Annotated[int, about("how many, or null", 1)] | None
        second: Annotated[int, about("how many", 1, null="all")]

    assert all(map(speaks_of_null, fields_below(Planted)))


def test_no_program_takes_a_sentence_apart() -> None:
    files = [*(ROOT / "src/quiltfn").rglob("*.py"), *(ROOT / "ui/src").rglob("*.ts")]
    found = {(one.name, line) for one in files for line in parsed(one.read_text())}
    assert found == set(ALLOWED)


def test_what_took_sentences_apart_is_found() -> None:
    """Negative control: lines that the code once had must be found."""
    before = """
    if (NO_FIELD.test(error.message)) return null;
    return NAMING.exec(error.message)?.[1] ?? null;
    hint = of.hint?.replace(CALL, "") if "hint" in of else null;
    hint = re.sub(CALL, "", error.hint)
    const [said, wrote] = of.message.split(WROTE, 2);
    sentence = function.error_message.partition("\\n")[0]
    and known.error_message == NODE_LOST
    if error_message.startswith("the handler was killed by signal"):
    if why.startswith(RUNNER_ENDED):
    why += IN_FRONT if self._how_ended == ENDED_WELL else ""
    why = problem if problem.startswith(RESULT_TOO_LARGE) else NOT_KEPT
    error = RuntimeUnavailable(reason.partition("\\n")[0])
    raise next((one for one in errors if "timeline" in str(one)), errors[-1])
    meaning = advice.with_options(field.meaning).replace(", or null", "")
    meaning = re.sub(r"; null with \\w+", "", meaning).replace("; null: ", "; without it, ")
    return about.replace(/[,;]? or null\\b/, "; may be empty").replace(/\\bnull:/, "empty:");
    ["/usr/bin/env", "-u", ASKED, sys.executable, "-P", "-m", "quiltfn", *named, "--help"],
    into, values = statements("sqlite")["upsert_invocations"].split("WITH record", 1)
    const found = /^version (\\d+) cannot serve: /.exec(error ?? "");
    """
    assert len(list(parsed(before))) == len(before.strip().splitlines()) - 1
    fine = """
    error.message = error.message.replace(see["text"], command)
    show.complain(error.message, error.hint)
    if error == function.error_message:
    if (error.code === "NOT_FOUND") return null;
    """
    assert list(parsed(fine)) == []
