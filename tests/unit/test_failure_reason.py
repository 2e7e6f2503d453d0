"""Why a handler failed: the exception in its log, or its exit code, and to whom that is told."""

import pytest

from quiltfn.model.failure_reason import of_exit, with_reason, without_handler_text

PYTHON = """looking for zz-4711
Traceback (most recent call last):
  File "/app/main.py", line 5, in handler
    return PRICES[event["sku"]]
  File "/usr/lib/python3.13/collections/__init__.py", line 9, in get
    raise
{}
"""
NODE = """one line
{}
    at exports.handler (/app/index.js:3:11)
    at run (/.runners/node.js:10:2)
"""
REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"
NO_NETWORK = "; this runtime has no network"
SAYS = "the handler exited with code 3"


@pytest.mark.parametrize(
    ("stderr", "is_value", "expected"),
    [
        (PYTHON.format("KeyError: 'zz-4711'"), True, "KeyError: 'zz-4711' (main.py, line 5)"),
        (PYTHON.format("KeyError: 'zz-4711'"), False, "KeyError: 'zz-4711' (main.py, line 5)"),
        (PYTHON.format("shop.errors.Gone"), True, "shop.errors.Gone (main.py, line 5)"),
        (PYTHON.format("A: 1") + PYTHON.format("B: 2"), True, "B: 2 (main.py, line 5)"),
        (NODE.format("TypeError: x is none"), True, "TypeError: x is none (index.js, line 3)"),
        (PYTHON.format("not an exception"), True, SAYS),
        (PYTHON.format(b"E: \\x1b[2J\\x00\\u202e".decode("unicode_escape")), True, None),
        (PYTHON.format("E: " + "x" * 5000), True, None),
        (PYTHON.format(REFUSED), True, f"{REFUSED} (main.py, line 5){NO_NETWORK}"),
        ("curl: (6) Could not resolve host: x\n\n", False, None),
        ("cat: nothing: No such file\n", False, f"{SAYS}: cat: nothing: No such file"),
        ("the last thing that it printed\n", True, SAYS),
        ("\n \n", False, SAYS),
        ("    at f (/app/index.js:3:11)\n", False, None),
    ],
)
def test_a_reason_is_the_exception_and_is_for_readers_of_the_record_alone(
    stderr: str, is_value: bool, expected: str | None
) -> None:
    reason = with_reason(3, stderr.encode(), is_value=is_value, has_network=False)
    assert expected in (None, reason)
    assert reason.isprintable()
    assert len(reason) < 300
    assert without_handler_text(reason, 3) == SAYS


def test_a_network_is_missed_only_where_there_is_none() -> None:
    stderr = PYTHON.format(REFUSED).encode()
    assert NO_NETWORK not in with_reason(1, stderr, is_value=True, has_network=True)
    other = PYTHON.format("KeyError: 1").encode()
    assert NO_NETWORK not in with_reason(1, other, is_value=True, has_network=False)


@pytest.mark.parametrize(
    "message",
    [
        None,
        of_exit(3),
        "the handler's answer cannot be sent: it has no status",
        "the handler returned 7 bytes; at most 2 are kept of a result",
        "the handler needed more memory than its limit of 128 MiB and was killed",
        "the server ended with status 0",
    ],
)
def test_what_the_server_says_itself_is_for_everybody(message: str | None) -> None:
    assert without_handler_text(message, 3) == message
