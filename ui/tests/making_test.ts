// promise: A73
import assert from "node:assert/strict";
import { answered } from "./page.ts";
import {
  freeName,
  languageOf,
  mainFile,
  Making,
  nameOf,
  NameTaken,
  stepsOf,
} from "../src/making.ts";
import { tar } from "../src/parts/resources/tar.ts";
import { functions } from "../src/store.ts";
import type { FunctionSummary } from "../src/wire.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const draft = {
  name: "Etl",
  language: "python" as const,
  code: "x",
  files: [],
  payload: '{"a":1}',
};

Deno.test("a runtime's name takes no other runtime's place", () => {
  assert.equal(freeName("Etl", new Set(["shell"])), "etl");
  assert.equal(freeName("Etl", new Set(["etl", "etl-2"])), "etl-3");
});

Deno.test("a file's name becomes a function's", () => {
  assert.deepEqual(["my job.py", "_x_.js", "ü.sh", "a/b.min.js"].map(nameOf), [
    "my-job",
    "x",
    "",
    "b.min",
  ]);
  assert.deepEqual(["a.py", "a.mjs", "a.sh", "a.txt"].map(languageOf), [
    "python",
    "node",
    "shell",
    null,
  ]);
});

Deno.test("CommonJS is kept in a file that says so", () => {
  assert.equal(mainFile("node", "module.exports.handler = () => 1"), "main.cjs");
  assert.equal(mainFile("node", "export const handler = () => 'module'"), "main.mjs");
});

Deno.test("shell code alone needs no image", () => {
  assert.deepEqual(stepsOf({ language: "shell", files: [] }), ["function", "deploy", "call"]);
  assert.equal(stepsOf({ language: "node", files: [] })[0], "code");
});

Deno.test("each step is one request, and what was done is not done again", async () => {
  const began: string[] = [];
  const making = new Making();
  const run = () => making.run(draft, (step) => began.push(step));
  const sent = await answered([
    [201, { digest: "d" }],
    [200, { runtimes: [{ name: "etl" }] }],
    [201, { name: "etl-2" }],
    [201, { function_id: "F" }],
    [200, { state: "error", error_message: "no such module" }],
  ], () => assert.rejects(run(), /no such module/));
  assert.deepEqual(began, ["code", "function", "deploy"]);
  assert.deepEqual(sent.map((request) => `${request.method} ${request.path}`), [
    "POST api/runtimes/images",
    "GET api/runtimes",
    "POST api/runtimes",
    "POST api/functions",
    "POST api/functions/F/deploy",
  ]);
  assert.equal(sent[0]?.headers.get("content-type"), "application/x-tar");
  const again = await answered([
    [200, { digest: "e" }],
    [201, { name: "etl-2" }],
    [200, { state: "error", current_version: 2 }],
    [200, { state: "active", current_version: 2 }],
    [200, { status: "success" }],
  ], run);
  assert.deepEqual(again.map((request) => `${request.method} ${request.path}`), [
    "POST api/runtimes/images",
    "POST api/runtimes",
    "PUT api/functions/F",
    "POST api/functions/F/deploy",
    "POST api/functions/F/invoke",
  ]);
  assert.equal(JSON.parse(again[4]?.body ?? "").payload, '{"a":1}');
});

Deno.test("a version that cannot serve is told, and one that serves is not deployed again", async () => {
  const shell = { ...draft, language: "shell" as const };
  const making = new Making();
  const run = (code = shell.code) => making.run({ ...shell, code }, () => {});
  const active = { state: "active", name: "Etl", current_version: 1 };
  const first: [number, unknown][] = [[201, { function_id: "F" }], [200, active], [200, {}]];
  await answered(first, () => run());
  const error_message = "version 2 cannot serve: SyntaxError";
  const failed = await answered(
    [[200, { ...active, error_message }]],
    () => assert.rejects(run("y"), /version 2 cannot serve: SyntaxError/),
  );
  assert.deepEqual(lines(failed), ["PUT api/functions/F"]);
  assert.equal(making.serving, 1);
  const mended = await answered(
    [[200, { ...active, current_version: 3 }], [200, { status: "success" }]],
    async () => assert.equal((await run()).version, 3),
  );
  assert.deepEqual(lines(mended), ["PUT api/functions/F", "POST api/functions/F/invoke"]);
});

Deno.test("what is only called with another payload makes no version", async () => {
  const shell = { ...draft, language: "shell" as const };
  const making = new Making();
  const active = { state: "active", name: "Etl", current_version: 1 };
  const first: [number, unknown][] = [[201, { function_id: "F" }], [200, active], [200, {}]];
  await answered(first, () => making.run(shell, () => {}));
  const began: string[] = [];
  const other = { ...shell, payload: "other" };
  assert.ok(making.isDeployed(other));
  const sent = await answered(
    [[200, { status: "success" }]],
    async () => assert.equal((await making.run(other, (step) => began.push(step))).version, 1),
  );
  assert.deepEqual(lines(sent), ["POST api/functions/F/invoke"]);
  assert.equal(JSON.parse(sent[0]?.body ?? "").payload, "other");
  assert.deepEqual(began, ["call"]);
  for (
    const part of [{ name: "b" }, { code: "y" }, { files: [{ path: "a", content: bytes("") }] }]
  ) {
    assert.ok(!making.isDeployed({ ...other, ...part }));
  }
});

const lines = (sent: Awaited<ReturnType<typeof answered>>) =>
  sent.map(({ method, path }) => `${method} ${path}`);

Deno.test("a name that is taken, or is none, is told before anything is made", async () => {
  functions.value = new Map([["E", { id: "E", name: "Etl" } as FunctionSummary]]);
  const wrong = (name: string) => new Making().run({ ...draft, name }, () => {});
  const sent = await answered([], async () => {
    await assert.rejects(wrong("Etl"), (error) => error instanceof NameTaken && error.id === "E");
    await assert.rejects(wrong("my job"), /^Error: name must be 1 to 64 letters/);
    await assert.rejects(wrong(""), /^Error: name must be/);
  });
  functions.value = new Map();
  assert.deepEqual(sent, []);
});

Deno.test("the runtime of a function that could not be made is removed", async () => {
  const made: [number, unknown][] = [[201, { digest: "d" }], [200, { runtimes: [] }], [201, {
    name: "etl",
  }]];
  const refused = { error: "a function of this name exists", error_code: "CONFLICT" };
  const making = new Making();
  const sent = await answered(
    [...made, [409, refused], [204, null], [200, { id: "E" }]],
    () =>
      assert.rejects(
        making.run(draft, () => {}),
        (error) => error instanceof NameTaken && error.id === "E",
      ),
  );
  assert.deepEqual(lines(sent).slice(3), [
    "POST api/functions",
    "DELETE api/runtimes/etl",
    "GET api/functions/by-name/Etl",
  ]);
  // A function whose request got no response may exist, so its runtime is kept.
  const lost = await answered(made, () => assert.rejects(making.run(draft, () => {}), /reached/));
  assert.deepEqual(lines(lost).slice(3), ["POST api/functions"]);
});

Deno.test("an archive is what tar reads", async () => {
  const files = [{ path: "b.txt", content: bytes("x".repeat(513)) }, {
    path: `${"d/".repeat(70)}a.py`,
    content: bytes("pass\n"),
  }];
  const listed = new Deno.Command("tar", { args: ["-tvf", "-"], stdin: "piped", stdout: "piped" })
    .spawn();
  const writer = listed.stdin.getWriter();
  await writer.write(tar(files));
  await writer.close();
  const text = new TextDecoder().decode((await listed.output()).stdout);
  assert.match(text, /-rw-r--r-- .* 513 .* b\.txt/);
  assert.match(text, /-rw-r--r-- .* 5 .* (d\/){70}a\.py/);
});

Deno.test("equal files give an equal archive, in whatever order", () => {
  const [a, b] = [{ path: "a", content: bytes("1") }, { path: "b", content: bytes("2") }];
  assert.deepEqual(tar([a, b]), tar([b, a]));
});

Deno.test("a path that is too long is refused", () =>
  assert.throws(() => tar([{ path: "x".repeat(101), content: bytes("") }]), /too long/));
