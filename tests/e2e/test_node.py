"""Node.js handlers: their input, the effects of their code, and the different kinds of their
end.
"""

import json
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from e2e import sample_runtimes
from e2e.sample_runtimes import node
from e2e.server import Server
from promises import promise
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(not Path("/usr/bin/node").exists(), reason="needs /usr/bin/node"),
    promise("R9"),
]
KEEP = pytest.mark.parametrize("cleanup", [True, False], ids=["once", "keeps"])
MIB = 1024 * 1024


def answer(record: dict[str, Any]) -> Any:
    assert record["status"] == "success", record
    return json.loads(record["stdout"])


def body(source: str) -> str:
    """A CommonJS module whose handler consists of these statements."""
    return f"exports.handler = (event, context) => {{ {source} }};\n"


def numbered(bodies: Iterable[str]) -> str:
    """A module whose handler runs the statements that its event selects by number; other events
    give "fine".
    """
    cases = ", ".join(f"() => {{ {one} }}" for one in bodies)
    return f"const cases = [{cases}];\n" + body("return (cases[event] ?? (() => 'fine'))()")


@promise("R23")
@KEEP
def test_event_and_context(shared: Server, cleanup: bool) -> None:
    source = """
    exports.handler = async (event, context) => {
        context.callbackWaitsForEmptyEventLoop = false;
        return [
            event, context.invocationId, context.functionName, context.functionVersion,
            context.remainingMs() > 0 && context.getRemainingTimeInMillis() <= 30000,
            context.awsRequestId === process.env.QUILT_INVOCATION_ID, context.traceparent,
            process.env.MINE, process.env.CALLS ?? null, process.cwd(),
            // What Lambda's context has, too.
            context.memoryLimitInMB, context.invokedFunctionArn, context.logGroupName,
            context.logStreamName, 'clientContext' in context, 'identity' in context,
        ];
    };
    """
    function = node(
        shared, source, environment={"MINE": "v"}, cleanup_on_exit=cleanup, memory_limit_mb=300
    )
    record = function.invoke('{"a": [1, null]}', environment={"CALLS": "c", "MINE": "other"})
    event, number, name, version, *rest = answer(record)
    assert event == {"a": [1, None]}
    assert (number, name, version) == (record["invocation_id"], record["function_name"], "1")
    assert rest[:6] == [True, True, None, "other", "c", "/app"]
    arn = f"arn:quiltfn:lambda:local:000000000000:function:{name}:1"
    assert rest[6:] == ["300", arn, f"/quiltfn/{name}", f"1/{number}", True, True]
    assert answer(function.invoke("plain text"))[0] == "plain text"
    assert answer(function.invoke("[1"))[0] == "[1"
    assert answer(function.invoke())[0] is None
    # An invocation must not see the input of the one before.
    assert answer(function.invoke())[7:9] == ["v", None]


RETURNED = {
    "return 'text as it is é'": "text as it is é",
    "return Buffer.from([0x61, 0xff])": "a�",
    "return Uint8Array.from([0x62])": "b",
    "return null": "null",
    "return undefined": "null",
    "return {é: [1, 2.5, true]}": '{"é":[1,2.5,true]}',
    "return Promise.resolve([1, 'a'])": '[1,"a"]',
    "return (function* () { yield 'a'; yield Buffer.from('b'); yield {c: 1} })()": 'ab{"c":1}\n',
    "return (async function* () { yield 'a'; yield 2 })()": "a2\n",
    "return require('stream').Readable.from(['p', 'q'])": "pq",
}


@KEEP
def test_what_is_returned_is_the_output(shared: Server, cleanup: bool) -> None:
    function = node(shared, numbered(RETURNED), cleanup_on_exit=cleanup)
    for number, (statements, stdout) in enumerate(RETURNED.items()):
        record = function.invoke(str(number))
        expected = ("success", stdout, "")
        assert (record["status"], record["stdout"], record["stderr"]) == expected, statements


@KEEP
def test_callbacks_are_answers_too(shared: Server, cleanup: bool) -> None:
    source = """
    exports.handler = (event, context, callback) => {
        if (event === 'now') return callback(null, 'now');
        if (event === 'fail') return setTimeout(() => callback(new Error('told')), 1);
        return setTimeout(() => callback(null, { later: event }), 1);
    };
    """
    function = node(shared, source, cleanup_on_exit=cleanup)
    assert answer(function.invoke("x")) == {"later": "x"}
    assert function.invoke("now")["stdout"] == "now"
    failed = function.invoke("fail")
    assert (failed["status"], failed["exit_code"], failed["stdout"]) == ("failed", 1, "")
    assert failed["stderr"].startswith("Error: told\n    at Timeout._onTimeout (/app/mod.js:4:")


WAYS: list[tuple[str, dict[str, str | bytes]]] = [
    ("index.handler", {"index.js": "exports.handler = () => 'ok'"}),
    ("src/my-app.handler", {"src/my-app.js": "exports.handler = () => 'ok'"}),
    ("lib/index:handler", {"lib/index.js": "exports.handler = () => 'ok'"}),
    ("pkg/sub:handler", {"pkg/sub/index.js": "module.exports = { handler() { return 'ok' } }"}),
    ("index:handler", {"index.cjs": "exports.handler = () => 'ok'"}),
    ("index:handler", {"index.mjs": "export const handler = async () => 'ok'"}),
    ("index:handler", {"index.mjs": "export default { handler: () => 'ok' }"}),
    (
        "index:handler",
        {
            "package.json": '{"type": "module"}',
            "index.js": "export function handler() { return 'ok' }",
        },
    ),
    (
        "index:handler",
        {"index.mjs": "const ok = await Promise.resolve('ok'); export const handler = () => ok"},
    ),
    ("tool:handler", {"node_modules/tool/index.js": "exports.handler = () => 'ok'"}),
    (
        "tool/deep:handler",
        {
            "node_modules/tool/package.json": '{"exports": {"./deep": {"import": "./d.mjs"}}}',
            "node_modules/tool/d.mjs": "export const handler = () => 'ok'",
        },
    ),
]


@pytest.mark.parametrize(("name", "files"), WAYS)
def test_ways_to_write_and_name_a_handler(
    shared: Server, name: str, files: dict[str, str | bytes]
) -> None:
    runtime = sample_runtimes.add(shared, "node", files)
    assert shared.deploy(name, runtime=runtime).invoke()["stdout"] == "ok"


def test_a_function_of_node_itself_is_a_handler(shared: Server) -> None:
    assert shared.run("path:basename", "/a/b.c", runtime="node")["stdout"] == "b.c"
    assert shared.run("util.inspect", '{"a": 1}', runtime="node")["stdout"] == "{ a: 1 }"


@KEEP
def test_what_is_printed_is_errors_output_in_order(shared: Server, cleanup: bool) -> None:
    source = """
    console.log('at import');
    exports.handler = () => {
        console.log('one %d', 1);
        console.error('two');
        process.stdout.write('three\\n');
        process.stderr.write(Buffer.from('four\\n'));
        require('fs').writeSync(1, 'five\\n');
        require('child_process').execSync('echo six; echo seven >&2', { stdio: 'inherit' });
        console.warn('eight');
        return 'answer';
    };
    """
    function = node(shared, source, cleanup_on_exit=cleanup)
    record = function.invoke()
    assert record["stdout"] == "answer"
    assert record["stderr"] == "at import\none 1\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n"


@KEEP
def test_a_stack_is_of_the_handler_alone(shared: Server, cleanup: bool) -> None:
    source = """
    const inner = () => { throw Object.assign(new TypeError('bad luck'), { code: 'E' }); };
    exports.handler = (event) => inner();
    """
    record = node(shared, source, cleanup_on_exit=cleanup).invoke()
    assert (record["status"], record["exit_code"], record["stdout"]) == ("failed", 1, "")
    first, *frames, code, end = record["stderr"].rstrip("\n").split("\n")
    assert first == "TypeError: bad luck"
    assert [frame.split()[1] for frame in frames] == ["inner", "exports.handler"]
    assert (code, end) == ("  code: 'E'", "}")


ENDS: list[tuple[str, str, int | None, str]] = [
    ("process.exit(3)", "failed", 3, ""),
    ("process.exit()", "success", 0, ""),
    ("process.exitCode = 4", "failed", 4, ""),
    ("process.abort()", "failed", 134, ""),
    ("process.kill(process.pid, 'SIGTERM'); return new Promise(() => {})", "failed", 143, ""),
    ("throw 'text'", "failed", 1, "Uncaught 'text'"),
    ("throw null", "failed", 1, "Uncaught null"),
    ("return new Promise(() => {})", "failed", 1, "waits for something that cannot happen"),
    ("Promise.reject(new Error('lost')); return 1", "failed", 1, "Error: lost\n    at "),
    (
        "setTimeout(() => { throw new Error('late') }, 1); return new Promise(() => {})",
        "failed",
        1,
        "Error: late\n    at Timeout",
    ),
    ("const a = {}; a.a = a; return a", "failed", 1, "JSON cannot say what the handler returned"),
    ("return 1n", "failed", 1, "JSON cannot say what the handler returned"),
    ("return () => 1", "failed", 1, "JSON cannot say a function"),
    ("for (;;);", "timeout", None, ""),
    ("return new Promise((done) => setTimeout(done, 60000))", "timeout", None, ""),
    ("const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))", "oom", 137, ""),
]


@KEEP
def test_ends_are_told_apart_and_the_next_call_succeeds(shared: Server, cleanup: bool) -> None:
    function = node(shared, numbered(one for one, *_ in ENDS), cleanup_on_exit=cleanup)
    for number, (statements, status, code, message) in enumerate(ENDS):
        began = time.monotonic()
        record = function.invoke(str(number), timeout_seconds=2 if status == "timeout" else 20)
        assert (record["status"], record["exit_code"]) == (status, code), (statements, record)
        assert message in record["stderr"]
        if "abort" not in statements:  # when it aborts, Node.js prints its internal stack
            assert ".runners" not in record["stderr"]
            assert "node:internal" not in record["stderr"]
        assert time.monotonic() - began < scaled(3.5)
        assert function.invoke("next")["stdout"] == "fine", statements


@promise("C4")
@KEEP
def test_a_full_heap_is_out_of_memory(shared: Server, cleanup: bool) -> None:
    source = body(
        "if (event === 'small') return 'fine';"
        "if (event === 'abort') process.abort();"
        "const kept = []; for (;;) kept.push(new Array(1000).fill(kept.length));"
    )
    function = node(shared, source, cleanup_on_exit=cleanup)
    record = function.invoke("big")
    assert (record["status"], record["exit_code"]) == ("oom", 137), record
    assert "JavaScript heap out of memory" in record["stderr"]
    assert function.invoke("small")["stdout"] == "fine"
    assert function.invoke("abort")["status"] == "failed", "the same signal without that"


def test_what_one_call_sets_for_its_end_does_not_end_the_next(shared: Server) -> None:
    source = body("if (event) { process.exitCode = 4; throw new Error('no') } return 'fine'")
    function = node(shared, source, cleanup_on_exit=False)
    assert function.invoke("x")["exit_code"] == 1
    record = function.invoke()
    assert (record["status"], record["stdout"], record["cold_start"]) == ("success", "fine", False)


def test_a_handler_may_deal_with_stray_errors_itself(shared: Server) -> None:
    source = """
    process.on('unhandledRejection', (error) => console.log(`heard ${error.message}`));
    exports.handler = () => { Promise.reject(new Error('lost')); return 'fine'; };
    """
    record = node(shared, source).invoke()
    assert (record["status"], record["stdout"], record["stderr"]) == (
        "success",
        "fine",
        "heard lost\n",
    )


def test_globals_survive_only_where_that_was_asked_for(shared: Server) -> None:
    source = """
    let count = 0;
    const fs = require('fs');
    exports.handler = () => {
        const found = fs.existsSync('/tmp/x');
        fs.writeFileSync('/tmp/x', '');
        return [++count, found];
    };
    """
    once, keeps = node(shared, source), node(shared, source, cleanup_on_exit=False)
    assert [answer(once.invoke()) for _ in range(3)] == [[1, False]] * 3
    assert [answer(keeps.invoke()) for _ in range(3)] == [[1, False], [2, True], [3, True]]
    assert keeps.invoke()["cold_start"] is False


@KEEP
def test_children_do_not_outlive_their_call(shared: Server, cleanup: bool) -> None:
    source = """
    const { spawn } = require('child_process');
    const { Worker } = require('worker_threads');
    exports.handler = async (event) => {
        if (event === 'worker') {
            const code = "require('child_process').spawn('sleep', ['776']).on('spawn', " +
                "() => require('worker_threads').parentPort.postMessage(1))";
            const worker = new Worker(code, { eval: true });
            return new Promise((done) => worker.on('message', () => done('left')));
        }
        spawn('sleep', ['777'], { stdio: 'inherit' });
        spawn('sh', ['-c', 'setsid sleep 778 & sleep 779'], { detached: true }).unref();
        return 'left';
    };
    """
    function = node(shared, source, cleanup_on_exit=cleanup)
    for payload in ("plain", "worker", "plain", "plain"):
        assert function.invoke(payload)["stdout"] == "left"
        assert not shared.named("sleep")


@promise("C13")
@KEEP
def test_large_payloads_and_answers(shared: Server, cleanup: bool) -> None:
    source = body(
        "if (event[0] === 'x') return event;"
        "return event[0] === 'y' ? String(event.length) : 'z'.repeat(event);"
    )
    function = node(shared, source, cleanup_on_exit=cleanup)
    payload = "x" * (MIB - 1)
    assert function.invoke(payload)["stdout"] == payload
    for size in (5 * MIB, 6 * MIB):
        assert function.invoke("y" * size)["stdout"] == str(size)
    for most, status, kept in ((6 * MIB, "success", 6 * MIB), (6 * MIB + 1, "failed", 0)):
        ended = function.invoke(str(most))
        assert (ended["status"], len(ended["stdout"])) == (status, kept)
    assert ended["error_message"].startswith(f"the handler returned {6 * MIB + 1} bytes")


UNFIT = [
    (
        "mod.js",
        "require('nosuchmodule')",
        "importing mod failed: Error: Cannot find module 'no",
    ),
    (
        "mod.mjs",
        "import 'nosuchmodule'",
        "importing mod failed: Error: Cannot find package 'no",
    ),
    ("mod.js", "null.x", "importing mod failed: TypeError: Cannot read properties of null"),
    ("mod.js", "\nthrow new Error('at\\nonce')", "failed: Error: at once (/app/mod.js:2)"),
    ("mod.js", "const x =\n;", "failed: SyntaxError: Unexpected token ';' (/app/mod.js:2)"),
    ("mod.mjs", "const x =\n;", "failed: SyntaxError: Unexpected token ';' (/app/mod.mjs:2)"),
    (
        "mod.js",
        "exports.other = () => 1",
        "mod has no handler; the functions that it exports: other",
    ),
    ("mod.mjs", "export const a = () => 1, b = 2", "the functions that it exports: a"),
    ("mod.js", "exports.handler = 3", "mod:handler is of type number, not a function"),
    ("mod.js", "process.exit(1)", "importing mod ended the process (process.exit)"),
    ("mod.js", "process.abort()", "was killed by signal 6 before it was ready"),
    ("mod.mjs", "await new Promise(() => {})", "importing mod waits for something that cannot"),
    (
        "mod.js",
        "Promise.reject(new Error('adrift')); exports.handler = () => 1",
        "importing mod failed: Error: adrift (/app/mod.js:1)",
    ),
    ("other.js", "", "there is no module mod in /app"),
    (
        "node_modules/mod/index.js",
        "require('gone')",
        "failed: Error: Cannot find module 'gone'",
    ),
]


def test_what_cannot_run_shows_at_deploy(shared: Server) -> None:
    """Each file is in a directory of its own, except for packages."""
    places = [
        ("" if "node_modules" in name else f"m{number}/", name, source)
        for number, (name, source, _) in enumerate(UNFIT)
    ]
    files: dict[str, str | bytes] = {place + name: source for place, name, source in places}
    runtime = sample_runtimes.add(shared, "node", files)
    for (place, name, source), (_, _, message) in zip(places, UNFIT, strict=True):
        state = shared.create(f"{place}mod:handler", runtime=runtime).deploy()
        assert state["state"] == "error", (name, source)
        assert re.sub(r"\bmod\b", f"{place}mod", message) in state["error_message"]
