import assert from "node:assert/strict";
import { about, ago, bytes, count, counted, duration, percent } from "../src/parts/text/format.ts";
import { marks, secondsBetween } from "../src/parts/charts/scale.ts";

Deno.test("what is estimated says so and has two digits", () => {
  const said = [null, 0.412, 9, 113, 960, 1912, 2113, 19_600, 123_456].map(about);
  assert.deepEqual(said, [
    "–",
    "about 410 µs",
    "about 9 ms",
    "about 110 ms",
    "about 960 ms",
    "about 1.9 s",
    "about 2.1 s",
    "about 20 s",
    "about 2 min 0 s",
  ]);
});

Deno.test("a duration has the unit that suits it", () => {
  const said = [null, 0, 0.25, 4.26, 16.4, 999.6, 1500, 59_940, 59_960, 61_000, 3_660_000].map(
    duration,
  );
  assert.deepEqual(said, [
    "–",
    "0 ms",
    "250 µs",
    "4.3 ms",
    "16 ms",
    "1.00 s",
    "1.50 s",
    "59.9 s",
    "1 min 0 s",
    "1 min 1 s",
    "1 h 1 min",
  ]);
});

Deno.test("a time is as far away as a person says it", () => {
  const now = 1_000_000;
  const said = [null, now + 5, now - 1, now - 59, now - 60, now - 7200, now - 200_000];
  assert.deepEqual(said.map((at) => ago(at, now)), [
    "never",
    "now",
    "now",
    "59 s ago",
    "1 min ago",
    "2 h ago",
    "2 d ago",
  ]);
});

Deno.test("numbers", () => {
  assert.deepEqual([count(9999), count(1_250_000)], ["9,999", "1.3M"]);
  assert.deepEqual([counted(1, "call"), counted(0, "call")], ["1 call", "0 calls"]);
  assert.deepEqual([bytes(0), bytes(1536), bytes(5 << 20)], ["0 B", "1.5 KiB", "5 MiB"]);
  const shares = [percent(0, 0), percent(0, 9), percent(1, 3), percent(1, 30), percent(1, 9999)];
  assert.deepEqual(shares, ["–", "0 %", "33 %", "3.3 %", "< 0.1 %"]);
});

Deno.test("marks are round, few, and never beyond the end", () => {
  assert.deepEqual(marks(17), [0, 5, 10, 15]);
  assert.deepEqual(marks(0.4).map((at) => +at.toFixed(3)), [0, 0.1, 0.2, 0.3, 0.4]);
  assert.deepEqual(marks(0), [0]);
  for (let most = 1e-3; most < 1e6; most *= 1.7) {
    const found = marks(most, 4);
    assert.ok(found.length >= 2 && found.length <= 6, `${most}: ${found}`);
    assert.ok(Math.max(...found) <= most * 1.000_001);
  }
});

Deno.test("the marks of time fit the room that there is", () => {
  assert.equal(secondsBetween(600, 6), 120);
  assert.equal(secondsBetween(86_400, 12), 7200);
});
