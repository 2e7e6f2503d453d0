"""Replays the inputs that earlier fuzzing has found; `scripts/soak frames` looks for more."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fuzz import harness, targets
from promises import promise
from quiltfn.api.http import parse
from quiltfn.guest import wire
from quiltfn.guest.wire import encode_call, encode_prepare, encode_specialise
from quiltfn.wire import check
from sandbox.bare_guest import SOURCE

pytestmark = promise("F20")

FILES_MAX, BYTES_MAX = 380, 300 * 1024


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.build_replay(tmp_path_factory.mktemp("replay") / "replay")


def test_every_target_has_a_corpus_and_it_is_small() -> None:
    names = sorted(harness.GUEST_TARGETS | harness.PARSER_TARGETS)
    assert sorted(one.name for one in harness.CORPUS.iterdir()) == names
    files = [path for name in names for path in harness.kept(name)]
    assert all(harness.kept(name) for name in names)
    assert len(files) <= FILES_MAX
    assert sum(path.stat().st_size for path in files) <= BYTES_MAX


@pytest.mark.parametrize("name", harness.GUEST_TARGETS)
def test_the_guest_holds(program: Path, name: str) -> None:
    done = harness.replay(program, name, harness.kept(name))
    assert done.returncode == 0, [*done.stdout.splitlines()[-1:], done.stderr[:3000]]
    assert len(done.stdout.splitlines()) == len(harness.kept(name))


@pytest.mark.parametrize("name", harness.PARSER_TARGETS)
def test_the_server_holds(name: str) -> None:
    for path in harness.kept(name):
        try:
            targets.TARGETS[name](path.read_bytes())
        except BaseException as error:
            error.add_note(str(path))
            raise


@pytest.mark.parametrize(
    ("name", "run"),
    [("request", targets.invocation), ("reply", targets.reply), ("decoder", targets.reply)],
)
def test_the_native_module_and_the_other_parsers_agree(
    name: str, run: Callable[[bytes], None]
) -> None:
    for path in harness.kept(name):
        try:
            run(path.read_bytes())
        except BaseException as error:
            error.add_note(str(path))
            raise


LARGE = {f"V{n}": "x" * 100 for n in range(2000)}
BY_THE_HOST = {
    "specialise": [
        encode_specialise(argv=["/r"], cwd="/", environment={}),
        encode_specialise(argv=["sh", "-c", "echo é"], cwd="/app", environment={"A": "="}, flags=8),
        encode_specialise(argv=["sh", "-c", "x"], cwd="/", environment={}, flags=1 | 32),
        encode_specialise(argv=["/r", "", "\n"], cwd="/", environment=LARGE, flags=2 | 4 | 16),
    ],
    "prepare": [encode_prepare(argv=["/r", "-I"], environment=LARGE)],
    "call": [
        encode_call(nonce=1, timeout_ms=1, environment={}),
        encode_call(nonce=2**64 - 1, timeout_ms=2**32 - 1, environment=LARGE, payload=b"x" * 9999),
        encode_call(nonce=1, timeout_ms=1, environment={"A": ""}, payload=b"", env_replaces=True),
    ],
}


@pytest.mark.parametrize("name", BY_THE_HOST)
def test_the_guest_takes_what_the_host_makes(program: Path, name: str, tmp_path: Path) -> None:
    paths = []
    for n, frame in enumerate(BY_THE_HOST[name]):
        paths.append(tmp_path / str(n))
        # This harness expects the version's number of variables before a call's frame.
        paths[-1].write_bytes(b"\3" * (name == "call") + frame[8:])
    done = harness.replay(program, name, paths)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["taken"] * len(paths)


# A replay must be able to fail: the stored inputs have to find each of these planted bugs.
GUEST_MISTAKES = [
    ("specialise", "frames.c", "length > from->left)", "length > from->left + 3)"),
    ("prepare", "frames.c", "length > from->left)", "length > from->left + 3)"),
    ("specialise", "frames.c", "n > STRINGS_MAX)", "n > STRINGS_MAX + 1)"),
    ("specialise", "frames.c", "memchr(from->at, 0, length) != NULL", "length == UINT32_MAX"),
    ("call", "frames.c", "env_bytes > frame_length - CALL_HEAD", "env_bytes > frame_length"),
    ("script", "prefork.c", "strlen(*one) * 4 + 16", "strlen(*one) + 16"),
    ("script", "prefork.c", "if (*value == '\\'')", "if (*value == '\\1')"),
    ("block", "zygote.c", "length > sizeof fork_block - n", "length > sizeof fork_block"),
    ("block", "zygote.h", "BLOCK_MAX = 60 * 1024", "BLOCK_MAX = 61 * 1024"),
    ("block", "zygote.c", "if (call->env_replaces && read_at_start", "if (read_at_start"),
    ("block", "zygote.c", '"GLIBC_", "MALLOC_"}', '"GLIBC_"}'),
    ("shell", "shell.c", "length > BLOCK_MAX", "length == UINT32_MAX"),
    ("shell", "shell.c", "count == VARIABLES_MAX", "count == BLOCK_MAX"),
    ("shell", "shell.c", "block[length - 1] != '\\0'", "block[length - 1] == '\\1'"),
    ("shell", "shell.c", "both > sizeof text", "both == sizeof text"),
    ("shell", "shell.c", "lengths[1] > room ||", ""),
    ("shell", "shell.c", "if (lengths[1] < room)", "if (lengths[1] > room)"),
    ("shell", "shell.c", "memset(argv[2] + lengths[1], 0,", "memset(argv[2] + lengths[1], 'x',"),
    ("shell", "shell.c", "ARGUMENTS_END = 8", "ARGUMENTS_END = 10"),
    ("shell", "shell.c", "strrchr(stat, ')')", "strchr(stat, ')')"),
    ("shell", "shell.c", "head->cmsg_len != CMSG_LEN(RECEIVED * sizeof(int))", "0"),
    ("shell", "shell.c", "chdir(directory) != 0", "chdir(directory) > 0"),
    ("shell", "shell.c", "SYS_setresuid, HANDLER_ID, HANDLER_ID, HANDLER_ID",
     "SYS_setresuid, HANDLER_ID, HANDLER_ID, 0"),
    ("shell", "shell.c", "    if (failed)\n", "    if (failed < 0)\n"),
    ("shell", "shell.c", "            close(fds[i]);", "            (void)fds[i];"),
    ("session", "zygote.h", "BLOCK_MAX = 60 * 1024", "BLOCK_MAX = 61 * 1024"),
    ("session", "prefork.c", "        zygote_end();\n", ""),
    ("session", "prefork.c", "    prefork_drop();\n    if (!waits)", "    if (!waits)"),
    ("session", "zygote.c", "!read_at_start(special.env)", "true"),
    ("session", "guest.c", "zygote_process() != 0 ||", ""),
    ("session", "guest.c", "    if (!special.shell)\n        zygote_abandon();\n", ""),
    ("session", "zygote.c", "if (call->env_replaces && read_at_start(call->env))",
     "if (call->env_replaces && call->env == NULL)"),
    ("session", "zygote.c", "    kill(zygote.pid, SIGKILL);\n", ""),
    ("session", "zygote.c", "    close_if_open(&zygote.control);\n", ""),
    ("session", "prefork.c", "prefork.forked ? fork_block : prefork_script", "prefork_script"),
    ("session", "processes.c", "but(zygote_process()) == 0", "but(zygote_process()) >= 0"),
    ("session", "privileges.c", "1U << CAP_SETUID |", "1U << CAP_SETUID | 1U << CAP_SYS_ADMIN |"),
    ("session", "runner.c", "bytes > CHUNK_MAX ||", ""),
    ("session", "runner.c", "sizeof runner.line - runner.line_used", "sizeof runner.line"),
    ("session", "streams.c", "(size_t)(most - stream->sent)", "(size_t)most"),
    ("session", "runner.c", "    close_if_open(&runner.file);\n", ""),
    ("session", "runner.c", "return runner.line_used > 0 || (", "return ("),
    ("session", "runner.c", "(runner.control >= 0 && held_by(runner.control) > 0)", "false"),
    ("session", "call.c", " || runner.line_used > 0;", ";"),
    ("session", "runner.c", "        --*reads;\n", ""),
    ("session", "runner.c", "(first || held > 0)", "(first || true)"),
    ("session", "runner.c", "            pump_held(&streams[0], nonce);",
     "            while (pump(&streams[0], nonce)) {}"),
    ("session", "streams.c", "            pump_held(&streams[i], nonce);",
     "            while (pump(&streams[i], nonce)) {}"),
    ("session", "streams.c", "stream->sent + stream->dropped < enough &&", "enough > 0 &&"),
    ("session", "runner.c", "[1].fd);\n    close_all(runner.given);\n", "[0].fd);\n"),
    ("session", "survivors.c", "    close(fd);\n", ""),
    ("session", "parent.c", 'strchr("SRDt", state[8]) == NULL', "state[8] == 'Z'"),
    ("session", "parent.c", 'strchr("SRDt", state[8]) == NULL', "state[8] == 'T'"),
    ("session", "parent.c", "(pending & ~usual) == 0", "usual != 0"),
    ("session", "parent.c", "WEXITED | WSTOPPED |", "WEXITED |"),
    ("session", "parent.c", "info.si_pid == 0;", "info.si_pid >= 0;"),
    ("session", "parent.c", "&& (!by_forks || parent.heeds)", ""),
    ("session", "parent.c", " & ~usual) == 0 &&", " & ~usual) < 4 &&"),
    ("session", "streams.c", "result_has_limit ? result_max", "result_has_limit ? stdout_max"),
    ("session", "call.c", "'T' && result_has_limit ? 2 : 0", "'T' ? 2 : 0"),
    ("session", "runner.c", "streams[0].kind == 'T' || !result_has_limit;", "false;"),
    ("session", "server.c", "    close_if_open(&fd);\n", ""),
    ("session", "server.c", "SOCK_STREAM | SOCK_CLOEXEC |", "SOCK_STREAM |"),
    ("session", "server.c", "    close_if_open(&pair[1]);\n", ""),
    ("session", "guest.c", "    close_if_open(&log);\n", ""),
    ("request", "request.c", "to->length > 0 && to->at[0] != ' ' && from->at[-1]", "from->at[-1]"),
    ("request", "request.c", "size == 0 || (size_t)(end - at) < size", "size == 0"),
    ("request", "request.c", "unsigned char low = *at == 0xe0 ? 0xa0 :", "unsigned char low ="),
    ("request", "request.c", "if (from->at == from->end || *from->at == '\\0' ||", "if ("),
    ("reply", "guest_frames.c", "(size_t)(end - *at - FRAME_HEAD)", "(size_t)(end - *at)"),
    ("reply", "guest_frames.c", "memcmp(*at + FRAME_HEAD, &nonce, NONCE) != 0", "nonce == 0"),
    ("reply", "guest_frames.c", "body.length != sizeof exited_with_0 ||", ""),
    ("reply", "guest_frames.c", " && at == bytes + length;", ";"),
    ("reply", "guest_frames.c", "VARIABLE_HEAD + name.length + 1 + value.length > room)", "false)"),
    ("reply", "guest_frames.c", "|| size > CALL_ROOM)", ")"),
    ("reply", "guest_frames.c", "memchr(value.at, 0, value.length) != NULL ||", ""),
    ("request", "response.c", "HEAD_ROOM = 512", "HEAD_ROOM = 100"),
    ("request", "response.c", "ESCAPED_MAX = 6", "ESCAPED_MAX = 1"),
    ("request", "response.c", "return (unsigned char)byte < ' ' ? 'u' : 0;", "return 0;"),
    ("request", "response.c", "size_t head = write_head(of, size, to);",
     "size_t head = write_head(of, size + 1, to);"),
    # A former bug: a subtraction gave a remaining space below zero.
    ("session", "streams.c", "out.used + HEADER + NONCE + PAGE > FULL",
     "FULL - out.used < HEADER + NONCE + PAGE"),
]  # fmt: skip


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unchanged")


def test_the_controls_without_a_mistake_hold(unchanged: Path, tmp_path: Path) -> None:
    program = harness.build_control(tmp_path / "replay", SOURCE, "zygote.h", unchanged)
    for name in harness.GUEST_TARGETS:
        assert harness.replay(program, name, harness.kept(name)).returncode == 0


@pytest.mark.parametrize(("name", "file", "right", "mistaken"), GUEST_MISTAKES)
def test_negative_control_a_guest_with_a_mistake_is_found(
    name: str, file: str, right: str, mistaken: str, tmp_path: Path, unchanged: Path
) -> None:
    guest = harness.with_mistake(tmp_path, file, right, mistaken)
    broken = harness.build_control(tmp_path / "replay", guest, file, unchanged)
    done = harness.replay(broken, name, harness.kept(name))
    assert done.returncode != 0
    said = ("WRONG: ", "AddressSanitizer", "runtime error: ")
    assert any(one in done.stderr for one in said), done.stderr[:3000]


PARSER_MISTAKES: list[tuple[Callable[..., None], ModuleType, str, str]] = [
    (targets.decoder, wire, "length > limits[1]:", "length > limits[1] + 1:"),
    (targets.decoder, wire, "length < limits[0]:", "length < limits[0] - 1:"),
    (targets.decoder, wire, "exit_kind >= len(_EXIT_KINDS)", "exit_kind > len(_EXIT_KINDS)"),
    (targets.decoder, wire, "self._needed = 8 + length", "self._needed = 9 + length"),
    (targets.decoder, wire, "self._needed = 8\n", "self._needed = 0\n                at -= 1\n"),
    (targets.decoder, wire, "            self._failed = error\n", ""),
    (targets.decoder, wire, "            rest.clear()\n", ""),
    (targets.decoder, wire, 'message.decode(errors="replace")', "told.decode()"),
    (targets.json_body, parse, "            _check_strings(value)\n", "            pass\n"),
    (targets.json_body, parse, 'if "\\\\u" in text or ', "if "),
    (targets.json_body, parse, " >= DEPTH_MAX:\n", " >= 2 * DEPTH_MAX:\n"),
    (targets.json_body, parse, "except RecursionError:", "except ZeroDivisionError:"),
    (targets.json_body, parse, "len(result) != len(pairs)", "len(result) > len(pairs)"),
    (targets.json_body, parse, ", parse_constant=_no_constant", ""),
    (targets.long_json_body, parse, "if is_costly(body, VALUES_MAX):", "if not body:"),
    (targets.json_body, parse, "DEPTH_MAX = 32", "DEPTH_MAX = 33"),
    (targets.long_json_body, parse, "VALUES_MAX = 50_000", "VALUES_MAX = 40_000"),
]  # fmt: skip


@pytest.mark.parametrize(("run", "module", "right", "mistaken"), PARSER_MISTAKES)
def test_negative_control_a_parser_with_a_mistake_is_found(
    run: Callable[..., None], module: ModuleType, right: str, mistaken: str, tmp_path: Path
) -> None:
    broken: Any = copy_of(module, right, mistaken, tmp_path)
    name = next(name for name, one in targets.TARGETS.items() if one is run)
    assert any(not holds(run, path, broken) for path in harness.kept(name))


def test_negative_control_a_long_unknown_field_that_is_not_cut_is_found(tmp_path: Path) -> None:
    right = 'name if len(name) <= 80 else name[:80] + "…"'
    broken: Any = copy_of(check, right, "name", tmp_path)
    parser: Any = copy_of(parse, "DEPTH_MAX = 32", "DEPTH_MAX = 32", tmp_path)
    parser.checked, parser.Invalid = broken.checked, broken.Invalid
    paths = harness.kept("long-json")
    assert any(not holds(targets.long_json_body, path, parser) for path in paths)


def holds(run: Callable[..., None], path: Path, module: Any) -> bool:
    try:
        run(path.read_bytes(), module)
    except Exception:  # a planted bug may raise any exception
        return False
    return True


def copy_of(module: ModuleType, right: str, mistaken: str, directory: Path) -> ModuleType:
    text = Path(module.__file__ or "").read_text()
    assert text.count(right) == 1
    path = directory / "broken.py"
    path.write_text(text.replace(right, mistaken))
    spec = importlib.util.spec_from_file_location("broken", path)
    assert spec is not None
    assert spec.loader is not None
    broken = importlib.util.module_from_spec(spec)
    sys.modules["broken"] = broken  # `dataclasses` looks for the module in sys.modules
    try:
        spec.loader.exec_module(broken)
    finally:
        del sys.modules["broken"]
    return broken


@pytest.mark.parametrize(
    ("name", "module"), [("decoder", wire), ("json", parse), ("long-json", parse)]
)
def test_a_copy_without_a_mistake_holds(name: str, module: ModuleType, tmp_path: Path) -> None:
    """Control of the controls: an unchanged copy has no failures, so it is the planted bugs that
    are found.
    """
    first = (Path(module.__file__ or "").read_text()).splitlines()[0]
    copy = copy_of(module, first, first, tmp_path)
    assert all(holds(targets.TARGETS[name], path, copy) for path in harness.kept(name))
