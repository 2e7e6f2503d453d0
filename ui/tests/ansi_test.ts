// promise: A53
import assert from "node:assert/strict";
import { lines, type Piece } from "../src/parts/text/ansi.ts";

const text = (all: Piece[][]) =>
  all.map((line) => line.map((piece) => piece.text).join("")).join("\n");

Deno.test("a colour ends where it is reset", () => {
  const [red, rest] = lines("\u001b[31mred\u001b[0m rest").flat();
  assert.equal(red?.name, "fg1");
  assert.equal(rest?.name, "");
});
Deno.test("markup stays text", () =>
  assert.equal(text(lines("<script>alert(1)</script>")), "<script>alert(1)</script>"));
Deno.test("bidi controls are shown by name", () =>
  assert.equal(text(lines("a\u202eb")), "a⟨U+202E⟩b"));
Deno.test("a carriage return overwrites the line, as a progress bar wants", () =>
  assert.equal(text(lines("10 %\r20 %\r30 %\ndone\n")), "30 %\ndone"));
Deno.test("CRLF is one line end", () => assert.equal(text(lines("a\r\nb\r\n")), "a\nb"));
Deno.test("links, titles and cursor moves vanish, their text stays", () =>
  assert.equal(
    text(
      lines(
        "\u001b]8;;javascript:alert(1)\u0007click\u001b]8;;\u0007\u001b[2J\u001b[H!\u001b]0;title\u0007",
      ),
    ),
    "click!",
  ));
Deno.test("256 colours and true colours", () => {
  const [a, b] = lines("\u001b[38;5;208ma\u001b[48;2;1;2;3mb").flat();
  assert.equal(a?.color, "rgb(255 135 0)");
  assert.equal(b?.background, "rgb(1 2 3)");
});
Deno.test("a line of a megabyte comes in pieces", () =>
  assert.equal(lines("x".repeat(1 << 20))[0]?.length, 1024));
Deno.test("a sequence that never ends does not hang", () => {
  const before = performance.now();
  lines("\u001b[" + "1;".repeat(500_000));
  lines("\u001b]" + "x".repeat(1_000_000));
  lines("\u001b".repeat(1_000_000));
  assert.ok(performance.now() - before < 1000, `${performance.now() - before} ms`);
});
