import assert from "node:assert/strict";
import { dump, hasBytes, isBinary } from "../src/hex.ts";
import { findAll, layOut, marked, rowAt } from "../src/parts/text/output_text.ts";

const read = (text: string) => layOut(text).text;

Deno.test("what is searched is what is read: colours are gone, controls have their names", () => {
  assert.equal(read("\u001b[31mred\u001b[0m line\nnext"), "red line\nnext\n");
  assert.equal(read("a\u202eb"), "a⟨U+202E⟩b\n");
});

Deno.test("a line of a megabyte is many rows and one line", () => {
  const whole = layOut("x".repeat(1 << 20) + "\nshort");
  assert.equal(whole.rows.length, 1025);
  assert.equal(whole.text.split("\n").length, 3);
  assert.equal(rowAt(whole.rows, whole.text.indexOf("short")), 1024);
});

Deno.test("what is found is found whatever the case, and also where a row ends", () => {
  const whole = layOut("x".repeat(1022) + "NEEDLE" + "x".repeat(100_000));
  assert.deepEqual(findAll(whole, "needle"), [1022]);
  const rows = whole.rows.slice(0, 2).map((row) =>
    marked(row, [1022], 6, 1022).map((piece) => [piece.text.length, piece.mark])
  );
  assert.deepEqual(rows, [[[1022, ""], [2, "current"]], [[4, "current"], [1020, ""]]]);
});

Deno.test("what is typed is text and no pattern", () => {
  assert.deepEqual(findAll(layOut("a.b aXb a.b"), "a.b"), [0, 8]);
  assert.deepEqual(findAll(layOut("(["), "(["), [0]);
  assert.deepEqual(findAll(layOut("abc"), ""), []);
});

Deno.test("a mark keeps the colours of what it is in", () => {
  const whole = layOut("\u001b[32mgreen\u001b[0m plain");
  const [row] = whole.rows;
  assert.ok(row);
  const cut = marked(row, findAll(whole, "en pl"), 5, undefined);
  assert.deepEqual(cut.map((piece) => [piece.text, piece.name, piece.mark]), [
    ["gre", "fg2", ""],
    ["en", "fg2", "found"],
    [" pl", "", "found"],
    ["ain", "", ""],
  ]);
});

Deno.test("ten thousand places are enough", () =>
  assert.equal(findAll(layOut("a".repeat(50_000)), "a").length, 10_000));

Deno.test("what has no glyph has a name, of the second set of controls as well", () =>
  assert.equal(read("a\u009b31mb\u2028c\ufeffd"), "a⟨U+009B⟩31mb⟨U+2028⟩c⟨U+FEFF⟩d\n"));

Deno.test("bytes that are no text are shown by their numbers, sixteen to a row", () => {
  const raw = new Uint8Array([...new TextEncoder().encode("PNG~ and more, é"), 0, 0xff]);
  assert.equal(
    dump(raw),
    "00000000  50 4e 47 7e 20 61 6e 64 20 6d 6f 72 65 2c 20 c3  |PNG~ and more, .|\n" +
      "00000010  a9 00 ff                                         |...|",
  );
  assert.equal(dump(new Uint8Array()), "");
  const all = ["a\0b", "\ufffdPNG\ufffd", "caf\ufffd, and more in Latin-1", "é\n", ""];
  assert.deepEqual(all.map(isBinary), [true, true, false, false, false]);
  assert.deepEqual(all.map(hasBytes), [true, true, true, false, false]);
});
