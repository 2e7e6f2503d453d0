"""The runner in docs/how-to/custom-runtime.md, run unchanged."""

import re
from pathlib import Path

import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server

pytestmark = pytest.mark.sandbox
PAGE = Path(__file__).parents[2] / "docs/how-to/custom-runtime.md"
RUNNER_LINES_MAX = 30
MORE = """
our $count = 0;
sub count { return ++$count }
sub fail { die "bad luck\\n" }
sub leave { exec('sleep', '777') unless fork; return 'left' }
sub variable { return $ENV{OF_CALL} // 'none' }
sub large { return "x" x 6291500 }
1;
"""


def files_of_page() -> dict[str, str | bytes]:
    """The two files that the page shows, by name."""
    found = re.findall(r"^cat >image/(.+?) <<'PERL'\n(.*?)^PERL$", PAGE.read_text(), re.S | re.M)
    assert [name for name, _ in found] == ["runner", "hello.pl"]
    return {("runner*" if name == "runner" else name): text for name, text in found}


@pytest.fixture(scope="module")
def runtime(shared: Server) -> str:
    return sample_runtimes.add(
        shared, "custom", files_of_page() | {"more.pl": MORE}, command=["/app/runner"]
    )


def keeping(shared: Server, runtime: str, handler: str) -> Function:
    return shared.deploy(handler, runtime=runtime, cleanup_on_exit=False)


def test_the_runner_is_short() -> None:
    assert len(str(files_of_page()["runner*"]).splitlines()) <= RUNNER_LINES_MAX


@pytest.mark.parametrize("cleanup", [True, False], ids=["once", "keeps"])
def test_the_example_answers_as_the_page_says(shared: Server, runtime: str, cleanup: bool) -> None:
    # With a second instance, that one would serve while the first starts its next process.
    function = shared.deploy(
        "hello:greet", runtime=runtime, cleanup_on_exit=cleanup, max_instances=1
    )
    for payload, stdout in (
        ("Ada", "Hello, Ada!\n"),
        (None, "Hello, world!\n"),
        ("", "Hello, !\n"),
    ):
        record = function.invoke(payload)
        assert (record["status"], record["stdout"]) == ("success", stdout)
        assert record["stderr"] == f"asked by {record['invocation_id']}\n"
    assert record["cold_start"] is False


def test_globals_survive_only_where_that_was_asked_for(shared: Server, runtime: str) -> None:
    once, keeps = (
        shared.deploy("more:count", runtime=runtime),
        keeping(shared, runtime, "more:count"),
    )
    assert [once.invoke()["stdout"] for _ in range(3)] == ["1", "1", "1"]
    assert [keeps.invoke()["stdout"] for _ in range(3)] == ["1", "2", "3"]


def test_an_exception_is_a_failure(shared: Server, runtime: str) -> None:
    function = keeping(shared, runtime, "more:fail")
    for _ in range(2):
        record = function.invoke()
        assert (record["status"], record["exit_code"]) == ("failed", 1)
        assert (record["stdout"], record["stderr"]) == ("", "bad luck\n")


def test_nothing_of_a_call_reaches_the_next(shared: Server, runtime: str) -> None:
    function = keeping(shared, runtime, "more:variable")
    assert function.invoke(environment={"OF_CALL": "given"})["stdout"] == "given"
    assert function.invoke()["stdout"] == "none"
    leaver = keeping(shared, runtime, "more:leave")
    assert leaver.invoke()["stdout"] == "left"
    assert not shared.named("sleep")


def test_output_beyond_the_limit_is_dropped(shared: Server, runtime: str) -> None:
    """quiltfn does not check the format of a custom program's output, so it truncates even if the
    rest is not valid.
    """
    record = keeping(shared, runtime, "more:large").invoke()
    assert (record["status"], record["stdout"]) == ("success", "x" * 6291456)
    assert "of its standard output the first 6291456 bytes are kept" in record["error_message"]


def test_what_cannot_run_shows_at_deploy(shared: Server, runtime: str) -> None:
    state = shared.create("hello:nothing", runtime=runtime).deploy()
    assert state["state"] == "error"
    assert "hello.pl has no function nothing" in state["error_message"]
