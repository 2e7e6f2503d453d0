"""How the words of a command line become parameters."""

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Struct

from quiltfn.cli import parsing, root
from quiltfn.cli.parsing import Argument, BadParameter, Option

SEEN: dict[str, Any] = {}


class Colour(StrEnum):
    """One of two."""

    RED = "red"
    BLUE = "blue"


class Shared(Struct, frozen=True, kw_only=True):
    """Options of several commands."""

    share: Annotated[float | None, Option(help="A fraction.")] = None
    text: Annotated[str | None, Option(metavar="TEXT", help="100 % of it.")] = None
    env: Annotated[list[str] | None, Option(("--env",), help="Repeatable.")] = None
    colour: Annotated[Colour, Option(("--colour", "-c"), help="One of two.")] = Colour.RED


def command(
    word: Annotated[str, Argument(metavar="WORD", help="A word.")],
    *,
    count: Annotated[int | None, Option(least=1, help="A number.")] = None,
    cold: Annotated[bool | None, Option(("--cold",), off="--warm", help="Began so.")] = None,
    yes: Annotated[bool, Option(("--yes", "-y"), help="Do not ask.")] = False,
    place: Annotated[Path | None, Option(("--dir",), is_directory=True, help="Files.")] = None,
    shared: Shared,
) -> None:
    """Do something.

    And say more of it.
    """
    SEEN.update(locals())


def seen(*words: str) -> dict[str, Any]:
    SEEN.clear()
    parsing.run(command, "quiltfn command", words)
    return dict(SEEN)


def test_what_is_not_said_has_its_default() -> None:
    assert seen("x") == {
        "word": "x",
        "count": None,
        "cold": None,
        "yes": False,
        "place": None,
        "shared": Shared(),
    }


def test_options_stand_before_and_after_words_in_every_form(tmp_path: Path) -> None:
    line = (
        f"--count 2 --share=0.5 x --warm -y --env A=1 -c blue --env B=2 --text t --dir {tmp_path}"
    )
    found = seen(*line.split())
    assert (found["count"], found["cold"], found["yes"]) == (2, False, True)
    assert found["place"] == tmp_path
    assert found["shared"] == Shared(share=0.5, text="t", env=["A=1", "B=2"], colour=Colour.BLUE)
    assert seen("x", "--cold")["cold"] is True


@pytest.mark.parametrize("value", ["-5", "-", "--", "-x", "--yes", "", "a b", "="])
def test_what_stands_behind_an_option_is_its_value_whatever_it_looks_like(value: str) -> None:
    found = seen("x", "--text", value)
    assert (found["shared"].text, found["yes"]) == (value, False)


def test_behind_two_dashes_a_word_is_no_option() -> None:
    assert seen("--", "--text")["word"] == "--text"


@pytest.mark.parametrize(
    "line",
    ["", "x y", "x --count z", "x --tex t", "x --colour green", "x --share", "x --none", "x -z"],
)
def test_what_makes_no_sense_ends_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        seen(*line.split())
    assert ended.value.code == 2
    assert "usage: quiltfn command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["x", "--count", "0"], "--count must be 1 or more, not 0"),
        (["x", "--dir", "/does/not/exist"], "--dir: there is no directory /does/not/exist"),
        ([""], "word must not be empty"),
    ],
)
def test_what_is_out_of_range_is_said_by_its_name(words: list[str], sentence: str) -> None:
    with pytest.raises(BadParameter) as refused:
        seen(*words)
    assert refused.value.message == sentence


def test_a_word_that_may_be_left_out_has_its_default() -> None:
    found: list[Path] = []

    def where(place: Annotated[Path, Argument(help="A place.")] = Path()) -> None:
        found.append(place)

    parsing.run(where, "quiltfn where", [])
    parsing.run(where, "quiltfn where", ["x"])
    assert found == [Path(), Path("x")]


def test_help_tells_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        seen("--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for said in ("WORD", "And say more", "--warm", "{red,blue}", "100 % of it.", "--dir"):
        assert said in printed


def test_what_a_command_takes_is_what_inspect_says() -> None:
    """The signature is read without `inspect`, which is slow to import."""
    commands = [command, *(root.command(word) for word in root.COMMANDS)]
    for group in map(root.group, root.GROUPS):
        commands += group.commands.values()
    for function in commands:
        known = inspect.signature(function).parameters.values()
        assert parsing.parameters_of(function) == {
            each.name: (each.annotation, ... if each.default is each.empty else each.default)
            for each in known
        }
        assert parsing.told_of(function) == (inspect.getdoc(function) or "").strip()
