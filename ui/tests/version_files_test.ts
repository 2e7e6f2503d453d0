import assert from "node:assert/strict";
import { answered } from "./page.ts";
import { withoutCompiled } from "../src/compiled.ts";
import {
  compare,
  languageOf,
  lineIn,
  listFiles,
  textOf,
  whyNotEdited,
} from "../src/version_files.ts";

const file = (path: string, size_bytes = 1, more = {}) => ({
  ...{ path, size_bytes, is_link: false, is_executable: false },
  ...more,
});

Deno.test("files are told apart by path, size and kind, and others need a look", () => {
  const before = [file("a"), file("b", 2), file("c"), file("d"), file("e")];
  const after = [
    file("a"),
    file("b", 3),
    file("d", 1, { is_executable: true }),
    file("f"),
    file("e"),
  ];
  const { changed, alike } = compare(before, after);
  assert.deepEqual(changed.map((file) => file.path), ["b", "c", "d", "f"]);
  assert.deepEqual(changed[1]?.after, null);
  assert.deepEqual(changed[3]?.before, null);
  assert.deepEqual(alike.map((file) => file.path), ["a", "e"]);
});

Deno.test("compiled files are no files of a version, unless they stand for their sources", async () => {
  const all = ["__pycache__/a.cpython-313.pyc", "a.py", "a.pyc", "lib/__pycache__/b.pyc"];
  const kept = ["lib/b.py", "lib/only.pyc", "my__pycache__.py"];
  const files = [...all, ...kept].map((path) => file(path));
  const paths = (of: { path: string }[]) => of.map((file) => file.path);
  assert.deepEqual(paths(withoutCompiled(files)), ["a.py", ...kept]);
  await answered([
    [200, { files: files.slice(0, 2), next_cursor: "2" }],
    [200, { files: files.slice(2), next_cursor: null }],
  ], async () => {
    const { files: listed, isWhole } = await listFiles("f", 1);
    assert.deepEqual([paths([...listed]), isWhole], [["a.py", ...kept], true]);
  });
});

Deno.test("what is no text is not shown as text", () => {
  const encoded = new TextEncoder().encode("größer\n");
  assert.deepEqual(textOf(encoded), "größer\n");
  assert.deepEqual(textOf(new Uint8Array([0xff, 0x41])), null);
  assert.deepEqual(textOf(new Uint8Array([0x41, 0x00])), null);
  assert.deepEqual(textOf(new Uint8Array(256 * 1024 + 1).fill(0x41)), null);
});

Deno.test("an edit sends every file, so not where they are too many, too large or links", () => {
  const listing = (files: ReturnType<typeof file>[], isWhole = true) => ({ files, isWhole });
  assert.deepEqual(whyNotEdited(listing([file("a"), file("b")])), null);
  for (
    const rejected of [
      listing([file("a")], false),
      listing([file("a", 5_000_000)]),
      listing([file("a", 0, { is_link: true })]),
    ]
  ) {
    assert.deepEqual(typeof whyNotEdited(rejected), "string");
  }
});

Deno.test("the language of a file is told by its name", () => {
  assert.deepEqual(["a.py", "b/c.MJS", "d.ts", "run"].map(languageOf), [
    ...["python", "node", "node", "shell"],
  ]);
});

Deno.test("the line that an error names is that of the file, and of no other", () => {
  const at = (message: string, path = "lib/main.py") => lineIn(new Error(message), path);
  assert.equal(at("importing main failed: SyntaxError: expected ':' (main.py, line 1)"), 1);
  assert.equal(at("SyntaxError: invalid syntax (other.py, line 7)"), null);
  assert.equal(at("SyntaxError: Unexpected token (main.mjs:12:3)", "main.mjs"), 12);
  assert.equal(at("importing main failed: ModuleNotFoundError: No module named 'x'"), null);
  assert.equal(lineIn(null, "main.py"), null);
});
