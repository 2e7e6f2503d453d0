"""Hostile values in well-formed requests: types, numbers, names, text, sizes, injection."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.server import Server, children
from spec.api_client import Api, new_name, of
from spec.function_fields import FIELDS
from timeouts import scaled

pytestmark = pytest.mark.sandbox
FUNCTIONS = "/api/functions"
JSON = {"Content-Type": "application/json"}
VALUES: dict[str, Any] = {
    "null": None,
    "bool": True,
    "int": 300,
    "float": 1.5,
    "string": "x",
    "empty string": "",
    "array": [],
    "object": {},
}
WRONG = [
    (field, kind)
    for field, one in FIELDS.items()
    for kind in VALUES
    if kind not in one.types and not (kind == "empty string" and "string" in one.types)
]


def send(
    api: Api, text: str | bytes, path: str = FUNCTIONS, method: str = "POST"
) -> httpx.Response:
    """Sends a request with exactly this body."""
    content = text.encode() if isinstance(text, str) else text
    return api(method, path, content=content, headers=JSON)


def body_with(field: str, literal: str) -> str:
    """The body of a create request; the value of one field is exactly this text."""
    fields = {"name": json.dumps(new_name()), "handler": '"echo"'} | {field: literal}
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}"


# Types and numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "kind"), WRONG)
def test_a_wrong_type_is_refused_by_name(anybody: Api, field: str, kind: str) -> None:
    body = {"name": new_name(), "handler": "echo", field: VALUES[kind]}
    error = anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    assert field in error["error"]
    assert anybody.count() == 0


HUGE = "1" + "0" * 400
NUMBERS = ["-1", "0", "-0", "255", "256.5", "256.0", '"256"', "true", "1e309", "-1e309", "null"]
NUMBERS += [str(2**31), str(2**63), str(2**64), HUGE, f"-{HUGE}", "1E400"]
NOT_JSON = ["NaN", "Infinity", "-Infinity", "0x100", "+256", "0256", ".5", "256.", "1" * 5000]
FITS = {
    "cpu_limit_percent": set(),
    "min_instances": {"0", "-0"},
}
NUMERIC = [name for name, one in FIELDS.items() if "int" in one.types]
ONES = {"max_instances": {"255"}, "timeout_seconds": {"255"}}


@pytest.mark.parametrize("literal", NUMBERS, ids=lambda literal: literal[:12])
@pytest.mark.parametrize("field", NUMERIC)
def test_only_numbers_in_range_are_taken(anybody: Api, field: str, literal: str) -> None:
    answer = send(anybody, body_with(field, literal))
    allowed = FITS.get(field, set()) | ONES.get(field, set())
    assert answer.status_code == (201 if literal in allowed else 422), answer.text
    if answer.status_code == 422:
        assert field.split("_", maxsplit=1)[0] in answer.json()["error"]


@pytest.mark.parametrize("literal", NOT_JSON, ids=lambda literal: literal[:12])
def test_what_is_no_json_number_is_no_json(anybody: Api, literal: str) -> None:
    answer = send(anybody, body_with("memory_limit_mb", literal))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert "sys.set_int" not in answer.text


def test_the_least_memory_is_taken_and_more_least_than_most_is_not(anybody: Api) -> None:
    anybody.create(memory_limit_mb=256)
    body = {"name": new_name(), "handler": "echo", "min_instances": 3, "max_instances": 2}
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)


# Names and text --------------------------------------------------------------------------------

NAMES = ["", ".", "..", "a/b", "../b", "%2e%2e%2f", "-rf", " x", "x ", "x" * 65, "x" * 10**6]
NAMES += ["\u202eabc", "\u0430bc", "😀", "é", "e\u0301", "a\nb", "a\0b", "$(id)", "a;b", "*"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_a_name_that_is_none_is_refused_and_found_nowhere(anybody: Api, name: str) -> None:
    body = {"name": name, "handler": "echo"}
    anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    if len(name) < 1000:
        quoted = "".join(f"%{byte:02x}" for byte in name.encode())
        for method, path in (("GET", "by-name"), ("POST", "invoke")):
            assert anybody(method, f"{FUNCTIONS}/{path}/{quoted}").status_code in (404, 405)
    assert anybody.count() == 0


TEXT = {
    "C0 controls": "".join(map(chr, range(1, 32))),
    "escape sequences": "\x1b[2J\x1b]0;x\x07",
    "newlines": "a\r\nb\n",
    "line separators": "\u2028\u2029\u0085",
    "beyond the BMP": "\U0001f600\U0010ffff",
    "byte order mark": "\ufeffx",
    "NUL": "a\0b",
}


@pytest.mark.parametrize("text", TEXT.values(), ids=TEXT.keys())
def test_text_comes_back_whole_or_is_refused(anybody: Api, open_server: Server, text: str) -> None:
    body = {"name": new_name(), "handler": f"cat #{text}", "environment": {"A": text}}
    if "\0" in text:
        anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
        body |= {"handler": "cat", "environment": {}}
    body |= {"handler": "cat", "description": text, "cluster_id": text}
    function_id = anybody.good("POST", FUNCTIONS, body, 201)["function_id"]
    shown = anybody.get(function_id)
    assert (shown["description"], shown["cluster_id"]) == (text, text)
    assert shown["environment"] == body["environment"]
    anybody.good("POST", f"{of(function_id)}/deploy")
    assert anybody.invoke(function_id, text)["stdout"] == text
    assert "\x1b" not in open_server.log.read_text()


BYTES = {
    "lone surrogate": b'{"name":"a","handler":"\\ud800"}',
    "surrogates the wrong way round": b'{"name":"a","handler":"\\udc00\\ud800"}',
    "surrogate in a key": b'{"name":"a","handler":"a","\\ud800":1}',
    "invalid UTF-8": b'{"name":"a","handler":"\xff"}',
    "overlong UTF-8": b'{"name":"a","handler":"\xc0\xaf"}',
    "encoded surrogate": b'{"name":"a","handler":"\xed\xa0\x80"}',
    "byte order mark": b'\xef\xbb\xbf{"name":"a","handler":"a"}',
    "UTF-16": '{"name":"a","handler":"a"}'.encode("utf-16"),
    "raw control": b'{"name":"a","handler":"\x01"}',
    "raw newline": b'{"name":"a","handler":"a\nb"}',
    "bare NUL": b"\0",
    "two texts": b"{}{}",
    "a comment": b'{"name":"a"/**/}',
    "single quotes": b"{'name':'a'}",
    "trailing comma": b'{"name":"a","handler":"a",}',
    "twins": b'{"name":"a","handler":"a","handler":"b"}',
    "twins by escape": b'{"name":"a","handler":"a","h\\u0061ndler":"b"}',
    "twins deeper": b'{"name":"a","handler":"a","environment":{"A":"1","A":"2"}}',
    "depth 33": b"[" * 33 + b"]" * 33,
    "depth 100,000": b"[" * 100_000,
    "depth 100,000 of objects": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("text", BYTES.values(), ids=BYTES.keys())
def test_what_is_not_one_valid_json_text_is_refused(anybody: Api, text: bytes) -> None:
    began = time.monotonic()
    answer = send(anybody, text)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST"), answer.text
    assert time.monotonic() - began < scaled(2)
    assert anybody.count() == 0


@pytest.mark.parametrize("text", ["null", "[]", '"x"', "1", "true", "[" * 32 + "]" * 32])
def test_a_json_text_that_is_no_object_is_refused(anybody: Api, text: str) -> None:
    assert send(anybody, text).json()["error_code"] == "UNPROCESSABLE_ENTITY"


# Environment and payload -----------------------------------------------------------------------


def test_an_environment_is_refused_before_the_kernel_would(anybody: Api) -> None:
    function_id = anybody.active("env | wc -c")
    path = f"{of(function_id)}/invoke"
    many = {f"A{number}": "" for number in range(10_000)}
    for bad in (many, {"A": "x" * 131_071}, {"A": "x" * 131_072}, {"A=B": "x"}, {"": "x"}):
        anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", path, {"environment": bad})
        body = {"name": new_name(), "handler": "env", "environment": bad}
        anybody.refused("UNPROCESSABLE_ENTITY", 422, "POST", FUNCTIONS, body)
    most = {f"A{number}": "x" * 1000 for number in range(32)}
    record = anybody.invoke(function_id, "x" * 65536, environment=most)
    assert record["status"] == "success"
    assert int(record["stdout"]) > 95 * 1024


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "BASH_ENV", "IFS"])
def test_a_variable_that_steers_programs_steers_the_handler_alone(anybody: Api, name: str) -> None:
    function_id = anybody.active(f'/bin/echo "${name}" 2>/dev/null || echo', max_instances=1)
    value = "/nonexistent/quiltfn.so"
    record = anybody.invoke(function_id, environment={name: value})
    assert record["status"] == "success"
    assert anybody.invoke(function_id)["status"] == "success"  # the guest still works


# Working directories -----------------------------------------------------------------------------

FAILS = [
    "/etc/passwd",
    "/missing",
    "/etc/passwd/x",
    "/root/../x".replace("/..", ""),
    "/media/nobody",
]


@pytest.mark.parametrize("path", FAILS)
def test_a_directory_that_is_none_ends_the_deploy_in_error(anybody: Api, path: str) -> None:
    function_id = anybody.create("pwd", working_directory=path)
    answer = anybody.good("POST", f"{of(function_id)}/deploy")
    assert answer["state"] == "error"
    assert answer["error_message"]


# Unknown fields, repeated fields, races ----------------------------------------------------------

UNKNOWN = ["source_code", "id", "tenant_id", "version", "status", "image", "privileged", "mounts"]
UNKNOWN += ["__proto__", "constructor", "state", "owner_node_id", "Name", "na\nme"]


@pytest.mark.parametrize("field", UNKNOWN, ids=ascii)
def test_an_unknown_field_is_refused_by_name_everywhere(anybody: Api, field: str) -> None:
    path = of(anybody.create())
    calls = [
        ("POST", FUNCTIONS, {"name": new_name(), "handler": "echo"}),
        ("PUT", path, {"handler": "echo"}),
        ("POST", f"{path}/invoke", {"payload": "x"}),
        ("POST", f"{path}/rollback", {"version": 1}),
    ]
    for method, where, body in calls:
        if field == "version" and "version" in body:  # type: ignore[operator]
            continue
        error = anybody.refused("UNPROCESSABLE_ENTITY", 422, method, where, body | {field: "x"})  # type: ignore[operator]
        assert field in error["error"]
    assert anybody.count() == 1
    assert anybody.get(path.rpartition("/")[2])["current_version"] == 1


def test_one_of_fifty_creates_of_a_name_succeeds(anybody: Api) -> None:
    body = {"name": new_name(), "handler": "echo"}
    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: anybody("POST", FUNCTIONS, body), range(50)))
    assert sorted(one.status_code for one in answers) == [201] + [409] * 49
    assert anybody.count() == 1


ROLLBACKS = ["{}", '"3"', "3", '{"version":3.0}', '{"version":true}', '{"version":"3"}']
ROLLBACKS += ['{"version":0}', '{"version":-1}', '{"version":4}', '{"version":null}', "[3]"]
ROLLBACKS += ['{"version":3,"x":1}', f'{{"version":{2**63}}}', f'{{"version":{HUGE}}}', "", "null"]


def test_only_a_rollback_to_an_existing_version_succeeds(anybody: Api) -> None:
    function_id = anybody.create()
    for number in (2, 3):
        anybody.good("PUT", of(function_id), {"handler": f"echo {number}"})
    anybody.good("POST", f"{of(function_id)}/rollback", {"version": 2})
    for text in ROLLBACKS:
        answer = send(anybody, text, f"{of(function_id)}/rollback")
        assert 400 <= answer.status_code < 500, (text, answer.text)
        assert anybody.get(function_id)["current_version"] == 2
    anybody.good("POST", f"{of(function_id)}/rollback", {"version": 3})
    anybody.good("DELETE", of(function_id), status=204)
    gone = send(anybody, '{"version":3}', f"{of(function_id)}/rollback")
    assert gone.status_code == 404


# Injection ---------------------------------------------------------------------------------------

INJECTIONS = ["'; touch {}; '", "$(touch {})", "`touch {}`", "x\ntouch {}\n", "-c 'touch {}'"]
INJECTIONS += ['"; touch {}; "', "&& touch {}", "| touch {}", "x" * 30_000 + "; touch {}"]


@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: ascii(text)[:16])
def test_handler_text_runs_nowhere_but_in_the_sandbox(
    anybody: Api, open_server: Server, tmp_path: Path, text: str
) -> None:
    marks = [tmp_path / "pwned", Path("/tmp/QUILTFN_PWNED")]
    handler = "; ".join(text.format(mark) for mark in marks)
    function_id = anybody.create(f"{handler} # INJECTED")
    state = anybody.good("POST", f"{of(function_id)}/deploy")["state"]
    assert state == "active"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(anybody.invoke, function_id, handler)
        seen = set()
        while not call.done():
            seen |= {argv for pid in children(open_server.launcher) for argv in _argv(pid)}
    assert call.result()["status"] in ("success", "failed")
    assert not any(b"INJECTED" in argv for argv in seen)
    assert not any(mark.exists() for mark in marks)


def _argv(pid: int) -> list[bytes]:
    """The arguments of a process; none if it has ended, or if it is in a sandbox."""
    try:
        found = [Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []
    try:
        inside = os.stat(f"/proc/{pid}/root").st_ino != os.stat("/").st_ino
    except OSError:  # the process has ended meanwhile
        inside = False
    return [] if inside else found


def test_a_handler_of_a_mebibyte_is_refused(anybody: Api) -> None:
    body = {"name": new_name(), "handler": "x" * (1024 * 1024)}
    anybody.refused("PAYLOAD_TOO_LARGE", 413, "POST", FUNCTIONS, body)


LIMITS = ["-1", "0", "abc", "1000000000", str(2**64), "٣", ["1", "2"]]
CURSORS = ["x", "%00", "AAAA" * 12, "' OR 1=1", "é", "=" * 48, "A" * 9999]


def test_a_bad_limit_and_a_forged_cursor_are_refused(anybody: Api) -> None:
    path = f"{of(anybody.create())}/invocations"
    queries = [{"limit": one} for one in LIMITS] + [{"cursor": one} for one in CURSORS]
    for where in (FUNCTIONS, path, "/api/audit"):
        for query in queries:
            anybody.refused("UNPROCESSABLE_ENTITY", 422, "GET", where, params=query)
